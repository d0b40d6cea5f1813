"""The aws_sqs destination type: an event becomes one message of a queue, its metadata one attribute beside it.

Events that wait together go as one SendMessageBatch, in which each message has its own outcome. A FIFO queue gets
a group, by a template or the tenant, whose events go one call after the other; and the event id for deduplication,
so that an event that is sent again within five minutes arrives once. A manual retry has another one: somebody
wants the event to arrive again.
"""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from outpost import errors
from outpost.adapters import base, codes, declared, extras
from outpost.adapters.aws import batch as aws_batch
from outpost.adapters.aws import client as aws_client
from outpost.adapters.aws import errors as aws_errors
from outpost.adapters.shared import groups, metadata, templates
from outpost.adapters.shared import resources as shared_
from outpost.domain import delivery

TYPE = "aws_sqs"
TEMPLATE = "message_group_id_template"
ATTRIBUTE, ATTRIBUTE_TYPE = "metadata", "String"
FIFO = ".fifo"
NO_MESSAGE_ID = "the service gave the message no id"

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-batch-api.html: the bodies and
# attributes of a call together. It was 256 KiB until August 2025; a queue of less refuses the message itself.
LIMITS = aws_batch.Limits(entries=10, bytes=1_048_576)
_REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+){1,2}-[0-9]+")
_AMAZON = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")
_GLOBAL = {"queue.amazonaws.com": "us-east-1"}  # the one old address that does not say where it is
_CONSOLE = re.compile(rf"sqs\.({_REGION.pattern})\.amazonaws\.com")
_ARN = re.compile(rf"arn:(aws(?:-[a-z]+)*):sqs:({_REGION.pattern}):([0-9]+):([A-Za-z0-9_-]+(?:\.fifo)?)")
_FIFO_ID = re.compile(r"[!-~]{1,128}")


Made = aws_batch.Entry | delivery.Failed


class Sqs(declared.Declared):
    """The type; see base.Adapter."""

    max_open = aws_client.MAX_OPEN

    def completed(
        self, config: dict[str, str], credentials: dict[str, str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """The URL without the blanks that come with pasting, also where it was the queue's ARN."""
        if "queue_url" in config:
            config["queue_url"] = url_of(config["queue_url"].strip())
        return config, credentials

    def problems(self, config: Mapping[str, str], credentials: Mapping[str, str]) -> list[errors.Problem]:
        """The URL of the queue has to name a host, and a group template has to be one."""
        found = [] if host_of(config.get("queue_url", "")) else [errors.Problem("config.queue_url", "pattern")]
        return found + templates.problems(config, TEMPLATE)

    def target(self, destination: base.OpenDestination) -> tuple[str, str | None]:
        """The URL of the queue; its page, where it is one of Amazon's."""
        queue_url = destination.config.get("queue_url", "")
        return queue_url, console(queue_url)

    async def connect(self, destination: base.OpenDestination) -> Publisher:
        """A publisher; opens no connection yet. Raises errors.Invalid where what is stored cannot be used."""
        config, credentials = destination.config, destination.credentials
        if found := self.problems(config, credentials):
            raise errors.Invalid(found)
        queue_url = config.get("queue_url", "")
        place = aws_client.Place(
            "sqs",
            region_of(queue_url),
            config.get("endpoint", "") or urllib.parse.urljoin(queue_url, "/"),
            credentials.get("key", ""),
            credentials.get("secret", ""),
            credentials.get("session", ""),
            destination.tenant,
        )
        group = destination.tenant if urllib.parse.urlsplit(queue_url).path.endswith(FIFO) else None
        template = templates.compiled(config[TEMPLATE]) if config.get(TEMPLATE) else None
        writer = Writer(self._metadata(destination), group, template)
        client = aws_client.Client(self._shared, place, **aws_batch.CONFIG)
        return Publisher(client, writer, queue_url, place.secrets)


def build(shared: shared_.Shared) -> Sqs:
    """The type as the settings want it."""
    return Sqs(TYPE, shared, extras.missing(TYPE, "botocore", "aws"))


class Writer:
    """Makes messages of events. `group`: of a FIFO queue, where `template` gives none."""

    def __init__(
        self, merger: metadata.Merger, group: str | None, template: templates.Template | None = None
    ) -> None:
        self._merger = merger
        self._group = group
        self._template = template

    @property
    def fifo(self) -> bool:
        """Whether messages have groups, and an order in them."""
        return self._group is not None

    def entry(self, event: base.Delivery) -> aws_batch.Entry | delivery.Failed:
        """The body is the event's data, byte for byte."""
        try:
            body = event.data.decode()
        except UnicodeDecodeError:
            return codes.UNFORMATTED
        merged = self._merger.merged(event)
        told = msgspec.json.encode(merged)
        attribute = {"DataType": ATTRIBUTE_TYPE, "StringValue": told.decode()}
        value: dict[str, Any] = {"MessageBody": body, "MessageAttributes": {ATTRIBUTE: attribute}}
        if self._group is not None:
            group = templates.of_event(self._template, event.data, merged) or self._group
            value |= {"MessageGroupId": fifo_id(group), "MessageDeduplicationId": deduplication_id(event)}
        return aws_batch.Entry(value, len(event.data) + len(ATTRIBUTE) + len(ATTRIBUTE_TYPE) + len(told))


class Publisher:
    """Sends to one queue; see base.Publisher."""

    max_batch = LIMITS.entries

    def __init__(self, client: aws_client.Client, writer: Writer, queue_url: str, secrets: Sequence[str]) -> None:
        self._client = client
        self._writer = writer
        self._queue_url = queue_url
        self._secrets = secrets
        self._ordered: groups.Groups[Made] | None = None
        if writer.fifo:
            self._ordered = groups.Groups(self._post, LIMITS.entries, aws_client.MOST_KEPT, together=True)

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        """As few calls as the limits allow, at once; one at a time for each group of a FIFO queue."""
        made = [self._writer.entry(event) for event in batch]
        if self._ordered is None:
            return await self._post(made, deadline)
        return await self._ordered.send(made, [_group(each) for each in made], deadline)

    async def close(self) -> None:
        """Cuts off what is under way."""
        if self._ordered is not None:
            await self._ordered.close()
        await self._client.close()

    async def _post(self, made: list[Made], deadline: float) -> list[delivery.Outcome]:
        async def ask(values: aws_batch.Values) -> list[delivery.Outcome] | aws_client.Refusal:
            entries = [{"Id": str(place), **value} for place, value in enumerate(values)]
            asked = {"QueueUrl": self._queue_url, "Entries": entries}
            answer = await self._client.call("send_message_batch", asked, deadline)
            if isinstance(answer, aws_client.Refusal):
                return answer
            return outcomes_of(answer, len(values), self._secrets)

        return await aws_batch.send(made, LIMITS, ask, in_order=self._ordered is not None)


def outcomes_of(answer: Mapping[str, Any], count: int, secrets: Iterable[str]) -> list[delivery.Outcome]:
    """One outcome an entry, by its id: the service does not keep the order."""
    sent = delivery.Delivered(codes.OK, {})
    unnamed = codes.failed(codes.Code.ERR, NO_MESSAGE_ID)
    found: dict[str, delivery.Outcome] = {
        entry.get("Id", ""): sent if entry.get("MessageId") else unnamed
        for entry in aws_batch.entries(answer, "Successful")
    }
    for entry in aws_batch.entries(answer, "Failed"):
        name, text = entry.get("Code", ""), entry.get("Message", "")
        found[entry.get("Id", "")] = codes.failed(aws_errors.code_of(name, text=text), f"{name}: {text}", secrets)
    unsaid = codes.failed(codes.Code.ERR, "the service did not say what became of the message")
    return [found.get(str(place), unsaid) for place in range(count)]


def url_of(queue: str) -> str:
    """The URL of the queue, where `queue` is its ARN; else `queue`."""
    found = _ARN.fullmatch(queue)
    if found is None:
        return queue
    partition, region, account, name = found.groups()
    return f"https://sqs.{region}.amazonaws.com{'.cn' if partition == 'aws-cn' else ''}/{account}/{name}"


def deduplication_id(event: base.Delivery) -> str:
    """The event's id, and another one for each manual retry. No event has a line break in its id, so that the id
    of a retry, which is a digest, is that of no event."""
    return fifo_id(f"{event.event_id}\n{event.attempt}" if event.manual else event.event_id)


def _group(made: Made) -> str | None:
    return None if isinstance(made, delivery.Failed) else made.value["MessageGroupId"]


def fifo_id(text: str) -> str:
    """`text`, or its digest where a FIFO queue would not take it as an id."""
    return text if _FIFO_ID.fullmatch(text) else hashlib.sha256(text.encode()).hexdigest()


def host_of(url: str) -> str:
    """The host that `url` names, "" if it names none, or names a user beside it, whom nobody would see as a
    secret."""
    try:
        split = urllib.parse.urlsplit(url)
        host, port = split.hostname or "", split.port
    except ValueError:  # brackets that do not match, a port that is none
        return ""
    return host if port != 0 and "@" not in split.netloc else ""


def region_of(queue_url: str) -> str:
    """The region that the host of the queue names: Amazon's addresses have it in several places, and whoever
    resembles them has it behind `sqs`. A host that names none signs for no region in particular."""
    host = host_of(queue_url)
    if host in _GLOBAL:
        return _GLOBAL[host]
    labels = host.split(".")
    if not host.endswith(_AMAZON):
        labels = labels[1:2] if labels[0] == "sqs" else []
    return next((label for label in labels if _REGION.fullmatch(label)), aws_client.DEFAULT_REGION)


def console(queue_url: str) -> str | None:
    """The page of the queue in Amazon's console, if it is a queue there."""
    found = _CONSOLE.fullmatch(host_of(queue_url))
    if found is None:
        return None
    region, quoted = found[1], urllib.parse.quote_plus(queue_url)
    return f"https://{region}.console.aws.amazon.com/sqs/v3/home?region={region}#/queues/{quoted}"
