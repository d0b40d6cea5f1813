"""The aws_eventbridge destination type: an event becomes one entry of PutEvents on an event bus.

The detail holds the event's data byte for byte, and its metadata; the detail type is the topic as far as the
service takes one. A call that is answered with 200 may still have
entries that failed: each event has the outcome of its entry.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from outpost.adapters import base, codes, declared, extras
from outpost.adapters.aws import batch as aws_batch
from outpost.adapters.aws import client as aws_client
from outpost.adapters.aws import errors as aws_errors
from outpost.adapters.shared import metadata
from outpost.adapters.shared import resources as shared_
from outpost.domain import delivery, times

TYPE = "aws_eventbridge"
NO_EVENT_ID = "the service gave the event no id"
DEFAULT_BUS = "default"
NO_TOPIC = "event"  # the detail type, which is required, of an event without a topic
MAX_DETAIL_TYPE_CHARACTERS = (
    128  # https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEventsRequestEntry.html
)

# "The total entry size must be less than 1MB", of all entries of a call together: botocore 1.44 quotes
# https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html. It was 256 KB until 2026.
LIMITS = aws_batch.Limits(entries=10, bytes=1_048_575)
# https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-putevents.html says how the size is counted.
TIME_BYTES = 14
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_OTHER_CONSOLES = re.compile("(cn|us-gov|us-iso|eu-iso|eusc)")  # these partitions have consoles of their own


class EventBridge(declared.Declared):
    """The type; see base.Adapter."""

    max_open = aws_client.MAX_OPEN

    def completed(
        self, config: dict[str, str], credentials: dict[str, str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Without the blanks that come with pasting."""
        return {key: value.strip() for key, value in config.items()}, credentials

    def target(self, destination: base.OpenDestination) -> tuple[str, str | None]:
        """The bus and where it is; its page in Amazon's console, unless the bus is another's."""
        config = destination.config
        bus, region = config.get("event_bus_name", "") or DEFAULT_BUS, config.get("region", "")
        told = f"{bus} in {region}"
        if config.get("endpoint", "") or _OTHER_CONSOLES.match(region):
            return told, None
        name = bus.rpartition("/")[2]
        page = f"https://{region}.console.aws.amazon.com/events/home?region={region}#/eventbus/{name}"
        return told, page

    async def connect(self, destination: base.OpenDestination) -> Publisher:
        """A publisher; opens no connection yet."""
        config, credentials = destination.config, destination.credentials
        place = aws_client.Place(
            "events",
            config.get("region", ""),
            config.get("endpoint", ""),
            credentials.get("key", ""),
            credentials.get("secret", ""),
            credentials.get("session", ""),
            destination.tenant,
        )
        source = self._shared.settings.eventbridge_source
        writer = Writer(self._metadata(destination), source, config.get("event_bus_name", ""))
        client = aws_client.Client(self._shared, place, **aws_batch.CONFIG)
        return Publisher(client, writer, place.secrets)


def build(shared: shared_.Shared) -> EventBridge:
    """The type as the settings want it."""
    return EventBridge(TYPE, shared, extras.missing(TYPE, "botocore", "aws"))


class Writer:
    """Makes entries of events. The default bus is named by leaving the name out."""

    def __init__(self, merger: metadata.Merger, source: str, bus: str) -> None:
        self._merger = merger
        self._source = source
        self._bus = {"EventBusName": bus} if bus not in ("", DEFAULT_BUS) else {}

    def entry(self, event: base.Delivery) -> aws_batch.Entry | delivery.Failed:
        """The time is the event's own, in seconds, as the service keeps it. Of a topic that is too long the
        beginning is the detail type; the metadata have all of it."""
        detail_type = event.topic[:MAX_DETAIL_TYPE_CHARACTERS] or NO_TOPIC
        detail = b'{"metadata":%b,"data":%b}' % (msgspec.json.encode(self._merger.merged(event)), event.data)
        try:
            value = {"Source": self._source, "DetailType": detail_type, "Detail": detail.decode(), **self._bus}
        except UnicodeDecodeError:
            return codes.UNFORMATTED
        size = len(self._source.encode()) + len(detail_type.encode()) + len(detail)
        moment = times.parse(event.time)
        if moment is None:  # the service takes the time of the call
            return aws_batch.Entry(value, size)
        timed = {**value, "Time": _EPOCH + dt.timedelta(milliseconds=moment)}
        return aws_batch.Entry(timed, size + TIME_BYTES)


class Publisher:
    """Sends to one event bus; see base.Publisher."""

    max_batch = LIMITS.entries

    def __init__(self, client: aws_client.Client, writer: Writer, secrets: Sequence[str]) -> None:
        self._client = client
        self._writer = writer
        self._secrets = secrets

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        """As few calls as the limits allow, at once."""

        async def ask(values: aws_batch.Values) -> list[delivery.Outcome] | aws_client.Refusal:
            answer = await self._client.call("put_events", {"Entries": values}, deadline)
            if isinstance(answer, aws_client.Refusal):
                return answer
            return outcomes_of(answer, len(values), self._secrets)

        return await aws_batch.send([self._writer.entry(event) for event in batch], LIMITS, ask)

    async def close(self) -> None:
        """Cuts off what is under way."""
        await self._client.close()


def outcomes_of(answer: Mapping[str, Any], count: int, secrets: Iterable[str]) -> list[delivery.Outcome]:
    """One outcome an entry: the answer's entries stand in the order of ours."""
    entries = aws_batch.entries(answer, "Entries")
    if len(entries) != count:
        text = f"the service answered for {len(entries)} of {count} events"
        return [codes.failed(codes.Code.ERR, text)] * count
    return [_outcome(entry, secrets) for entry in entries]


def _outcome(entry: Mapping[str, Any], secrets: Iterable[str]) -> delivery.Outcome:
    if event_id := entry.get("EventId"):
        return delivery.Delivered(codes.OK, {"event_id": event_id})
    name, text = entry.get("ErrorCode", ""), entry.get("ErrorMessage", "")
    if not name:
        return codes.failed(codes.Code.ERR, NO_EVENT_ID)
    return codes.failed(aws_errors.code_of(name, text=text), f"{name}: {text}", secrets)
