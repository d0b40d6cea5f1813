"""The aws_kinesis destination type: an event becomes one record of a data stream.

Events that wait together go as one PutRecords, in which each record has its own outcome; one alone goes as a
PutRecord, and so do all of a key that may do no more, since that is what the published Outpost asks tenants for.
Where a template names the partition keys, the records of each go one call after the other, and keep their order.
"""

from __future__ import annotations

import asyncio
import re
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

TYPE = "aws_kinesis"
TEMPLATE = "partition_key_template"

# Of PutRecords, in which a record's key counts as well. What only resembles Kinesis may hold to the 5 MiB that a
# call had before, and is asked again in halves.
# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html, as botocore 1.44 has it.
LIMITS = aws_batch.Limits(entries=500, bytes=10 * 1024 * 1024)
USUAL_RECORD_BYTES = 1024 * 1024  # what a stream takes whose owner has not raised it
MOST_KEY_CHARACTERS = 256
MAX_ANSWER_BYTES = 262_144  # 500 records that all failed with a text take some 200 kB
NO_SEQUENCE_NUMBER = "the service gave the record no sequence number"
_ARN = re.compile(r"arn:aws[a-z-]*:kinesis:([a-z0-9-]+):[0-9]{12}:stream/([a-zA-Z0-9_.-]+)")
_FAULT_OF_ONE = frozenset({"InvalidArgumentException", "ValidationException"})  # for which all others are refused


Made = aws_batch.Entry | delivery.Failed


class Kinesis(declared.Declared):
    """The type; see base.Adapter."""

    max_open = 800  # a client of this service takes 250 KB, and a type may have 200 MB

    def completed(
        self, config: dict[str, str], credentials: dict[str, str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Without the blanks that come with pasting; the region of a stream that is named by its ARN."""
        for key in config.keys() - {TEMPLATE}:
            config[key] = config[key].strip()
        if (found := _ARN.fullmatch(config.get("stream_name", ""))) and not config.get("region"):
            config["region"] = found[1]
        return config, credentials

    def problems(self, config: Mapping[str, str], credentials: Mapping[str, str]) -> list[errors.Problem]:
        """A key template has to be one, the region that of the stream's ARN."""
        found = templates.problems(config, TEMPLATE)
        arn = _ARN.fullmatch(config["stream_name"])
        if arn is not None and arn[1] != config["region"]:
            text = "config.region must be the region in the ARN of the stream"
            found.append(errors.Problem("config.region", "stream_arn", text=text))
        return found

    def target(self, destination: base.OpenDestination) -> tuple[str, str | None]:
        """The stream and where it is; there is no page to show."""
        config = destination.config
        return f"{config.get('stream_name', '')} in {config.get('region', '')}", None

    async def connect(self, destination: base.OpenDestination) -> Publisher:
        """A publisher; opens no connection yet. A stored template that is none counts as absent, as published."""
        writer = Writer(
            self._metadata(destination) if self._shared.settings.kinesis_metadata_in_payload else None,
            templates.compiled(destination.config.get(TEMPLATE, "")),
        )
        place = aws_client.Place(
            "kinesis",
            destination.config.get("region", ""),
            destination.config.get("endpoint", ""),
            destination.credentials.get("key", ""),
            destination.credentials.get("secret", ""),
            destination.credentials.get("session", ""),
            destination.tenant,
        )
        return Publisher(
            aws_client.Client(self._shared, place, max_answer_bytes=MAX_ANSWER_BYTES),
            writer,
            destination.config.get("stream_name", ""),
            place.secrets,
        )


def build(shared: shared_.Shared) -> Kinesis:
    """The type as the settings want it."""
    return Kinesis(TYPE, shared, extras.missing(TYPE, "botocore", "aws"))


class Writer:
    """Makes records of events. Without a merger (`DESTINATIONS_AWS_KINESIS_METADATA_IN_PAYLOAD` off) a record is
    the event's data alone, and the metadata is lost, as published."""

    def __init__(self, merger: metadata.Merger | None, template: templates.Template | None) -> None:
        self._merger = merger
        self._template = template

    @property
    def grouped(self) -> bool:
        """Whether several events may have one key."""
        return self._template is not None

    def entry(self, event: base.Delivery) -> aws_batch.Entry | delivery.Failed:
        """The data goes in byte for byte. A key that is too long fails here, since it would fail a whole call."""
        if self._merger is None:
            merged, data = None, event.data
        else:
            merged = self._merger.merged(event)
            data = b'{"data":%b,"metadata":%b}' % (event.data, msgspec.json.encode(merged, order="sorted"))
        key = self._key(event, merged)
        if len(key) > MOST_KEY_CHARACTERS:
            text = f"the partition key has {len(key)} characters, and may have {MOST_KEY_CHARACTERS}"
            return codes.failed(codes.Code.MESSAGE_REFUSED, text)
        return aws_batch.Entry({"Data": data, "PartitionKey": key}, len(data) + len(key.encode()))

    def _key(self, event: base.Delivery, merged: dict[str, str] | None) -> str:
        if self._template is None:
            return event.event_id
        data = templates.document(event.data)
        context = data if merged is None else {"data": data, "metadata": merged}
        return self._template.text(context) or event.event_id


class Publisher:
    """Sends to one stream, named by its name or its ARN; see base.Publisher. `max_batch` becomes 1 where the key
    may not PutRecords."""

    def __init__(self, client: aws_client.Client, writer: Writer, stream: str, secrets: Sequence[str]) -> None:
        self.max_batch = LIMITS.entries
        self._client = client
        self._writer = writer
        self._stream = stream_of(stream)
        self._secrets = secrets
        self._ordered: groups.Groups[Made] | None = None
        if writer.grouped:
            self._ordered = groups.Groups(self._post, LIMITS.entries, aws_client.MOST_KEPT, together=True)

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        """As few calls as the limits allow, at once; one at a time for each key that a template gives."""
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
        async def ask(values: aws_batch.Values) -> Sequence[delivery.Outcome] | aws_client.Refusal:
            if len(values) == 1 or self.max_batch == 1:
                return await self._put_each(values, deadline)
            return await self._put(values, deadline)

        return await aws_batch.send(made, LIMITS, ask, in_order=self._ordered is not None)

    async def _put(
        self, values: aws_batch.Values, deadline: float
    ) -> Sequence[delivery.Outcome] | aws_client.Refusal:
        answer = await self._client.call("put_records", {**self._stream, "Records": values}, deadline)
        if not isinstance(answer, aws_client.Refusal):
            return outcomes_of(answer, values, self._secrets)
        if answer.outcome.code == codes.Code.ACCESS_DENIED:
            first = await self._put_one(values[0], deadline)
            if first.code == codes.Code.ACCESS_DENIED:
                return [first] * len(values)
            self.max_batch = 1
            if self._ordered is not None:
                self._ordered.most = 1
            return [first, *await self._put_each(values[1:], deadline)]
        return msgspec.structs.replace(answer, request=answer.name in _FAULT_OF_ONE)

    async def _put_each(self, values: aws_batch.Values, deadline: float) -> list[delivery.Outcome]:
        """At once, but one after the other for each key."""
        keys: dict[str, list[int]] = {}
        for place, value in enumerate(values):
            keys.setdefault(value["PartitionKey"], []).append(place)
        outcomes: dict[int, delivery.Outcome] = {}

        async def put(places: list[int]) -> None:
            for place in places:
                outcomes[place] = await self._put_one(values[place], deadline)

        await asyncio.gather(*(put(places) for places in keys.values()))
        return [outcomes[place] for place in range(len(values))]

    async def _put_one(self, value: dict[str, Any], deadline: float) -> delivery.Outcome:
        answer = await self._client.call("put_record", {**self._stream, **value}, deadline)
        if not isinstance(answer, aws_client.Refusal):
            return _taken(aws_batch.texts(answer), value)
        size = len(value["Data"]) + len(value["PartitionKey"].encode())
        if size > USUAL_RECORD_BYTES and answer.name in _FAULT_OF_ONE:
            text = (answer.outcome.response or {}).get("error", "")
            return codes.failed(codes.Code.MESSAGE_TOO_LARGE, str(text))
        return answer.outcome


def stream_of(name: str) -> dict[str, str]:
    """The parameter that names a stream by its name or its ARN, which may be another account's."""
    return {"StreamARN" if _ARN.fullmatch(name) else "StreamName": name}


def _group(made: Made) -> str | None:
    return None if isinstance(made, delivery.Failed) else made.value["PartitionKey"]


def outcomes_of(
    answer: Mapping[str, Any], values: aws_batch.Values, secrets: Iterable[str]
) -> list[delivery.Outcome]:
    """One outcome a record, from a PutRecords that was answered: its records stand in the order of ours."""
    entries = aws_batch.entries(answer, "Records")
    if len(entries) != len(values):
        text = f"the service answered for {len(entries)} of {len(values)} records"
        return [codes.failed(codes.Code.ERR, text)] * len(values)
    found: list[delivery.Outcome] = []
    for entry, value in zip(entries, values, strict=True):
        if name := entry.get("ErrorCode"):
            text = f"{name}: {entry.get('ErrorMessage', '')}"
            found.append(codes.failed(aws_errors.code_of(name), text, secrets))
        else:
            found.append(_taken(entry, value))
    return found


def _taken(entry: Mapping[str, Any], value: dict[str, Any]) -> delivery.Outcome:
    """The sequence number is what says that the stream has the record."""
    if not entry.get("SequenceNumber"):
        return codes.failed(codes.Code.ERR, NO_SEQUENCE_NUMBER)
    response: dict[str, object] = {
        "shard_id": entry.get("ShardId", ""),
        "sequence_number": entry["SequenceNumber"],
        "partition_key": value["PartitionKey"],
    }
    return delivery.Delivered(codes.OK, response)
