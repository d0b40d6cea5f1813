"""The aws_kinesis destination type: an event becomes one record of a data stream.

Events that wait together go as one PutRecords, in which each record has its own outcome; one alone goes as a
PutRecord, and so do all of a key that may do no more, since that is what the published Outpost asks tenants for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from outpost import errors
from outpost.adapters import base, codes, declared, extras
from outpost.adapters.aws import batch as aws_batch
from outpost.adapters.aws import client as aws_client
from outpost.adapters.aws import errors as aws_errors
from outpost.adapters.shared import metadata, templates
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
_FAULT_OF_ONE = frozenset({"InvalidArgumentException", "ValidationException"})  # for which all others are refused


class Kinesis(declared.Declared):
    """The type; see base.Adapter."""

    max_open = 800  # a client of this service takes 250 KB, and a type may have 200 MB

    def problems(self, config: Mapping[str, str], credentials: Mapping[str, str]) -> list[errors.Problem]:
        """A key template has to be one."""
        return templates.problems(config, TEMPLATE)

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
            return codes.failed(codes.Code.ERR, text)
        return aws_batch.Entry({"Data": data, "PartitionKey": key}, len(data) + len(key.encode()))

    def _key(self, event: base.Delivery, merged: dict[str, str] | None) -> str:
        if self._template is None:
            return event.event_id
        data = templates.document(event.data)
        context = data if merged is None else {"data": data, "metadata": merged}
        return self._template.text(context) or event.event_id


class Publisher:
    """Sends to one stream; see base.Publisher. `max_batch` becomes 1 where the key may not PutRecords."""

    def __init__(self, client: aws_client.Client, writer: Writer, stream: str, secrets: Sequence[str]) -> None:
        self.max_batch = LIMITS.entries
        self._client = client
        self._writer = writer
        self._stream = stream
        self._secrets = secrets

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        """As few calls as the limits allow, at once."""

        async def ask(values: aws_batch.Values) -> Sequence[delivery.Outcome] | aws_client.Refusal:
            if len(values) == 1 or self.max_batch == 1:
                return await self._put_each(values, deadline)
            return await self._put(values, deadline)

        return await aws_batch.send([self._writer.entry(event) for event in batch], LIMITS, ask)

    async def close(self) -> None:
        """Cuts off what is under way."""
        await self._client.close()

    async def _put(
        self, values: aws_batch.Values, deadline: float
    ) -> Sequence[delivery.Outcome] | aws_client.Refusal:
        answer = await self._client.call("put_records", {"StreamName": self._stream, "Records": values}, deadline)
        if not isinstance(answer, aws_client.Refusal):
            return outcomes_of(answer, values, self._secrets)
        if answer.outcome.code == codes.Code.ACCESS_DENIED:
            first = await self._put_one(values[0], deadline)
            if first.code == codes.Code.ACCESS_DENIED:
                return [first] * len(values)
            self.max_batch = 1
            return [first, *await self._put_each(values[1:], deadline)]
        return msgspec.structs.replace(answer, request=answer.name in _FAULT_OF_ONE)

    async def _put_each(self, values: aws_batch.Values, deadline: float) -> list[delivery.Outcome]:
        return await asyncio.gather(*(self._put_one(value, deadline) for value in values))

    async def _put_one(self, value: dict[str, Any], deadline: float) -> delivery.Outcome:
        answer = await self._client.call("put_record", {"StreamName": self._stream, **value}, deadline)
        if not isinstance(answer, aws_client.Refusal):
            return _taken(aws_batch.texts(answer), value)
        size = len(value["Data"]) + len(value["PartitionKey"].encode())
        if size > USUAL_RECORD_BYTES and answer.name in _FAULT_OF_ONE:
            text = (answer.outcome.response or {}).get("error", "")
            return codes.failed(codes.Code.MESSAGE_TOO_LARGE, str(text))
        return answer.outcome


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
