"""The aws_kinesis destination type: an event becomes one record of a data stream.

Events that wait together go as one PutRecords, in which each record has its own outcome; one alone goes as a
PutRecord, and so do all of a key that may do no more, since that is what the published Outpost asks tenants for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from outpost import errors
from outpost.adapters import aws_client, aws_errors, base, codes, declared, extras, metadata, templates
from outpost.adapters import shared as shared_
from outpost.domain import delivery

TYPE = "aws_kinesis"
TEMPLATE = "partition_key_template"

# Of PutRecords: https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html, in the words of
# botocore 1.44. A call may have 10 MiB by now; what only resembles Kinesis holds to the 5 MiB that it had before.
MOST_RECORDS = 500
MOST_CALL_BYTES = 5 * 1024 * 1024
MOST_RECORD_BYTES = 10 * 1024 * 1024  # data and key
USUAL_RECORD_BYTES = (
    1024 * 1024
)  # what a stream takes whose owner has not raised it; more goes in a call of its own
MOST_KEY_CHARACTERS = 256
_TOO_LARGE = frozenset({"InvalidArgumentException", "ValidationException"})  # names of what such a stream answers


class Record(NamedTuple):
    """One event as it is put. `size`: bytes by which Kinesis counts."""

    data: bytes
    key: str
    size: int


class Kinesis(declared.Declared):
    """The type; see base.Adapter."""

    max_open = aws_client.MAX_OPEN

    def problems(self, config: Mapping[str, str], credentials: Mapping[str, str]) -> list[errors.Problem]:
        """A key template has to be one."""
        return templates.problems(config, TEMPLATE)

    def target(self, destination: base.OpenDestination) -> tuple[str, str | None]:
        """The stream and where it is; there is no page to show."""
        config = destination.config
        return f"{config.get('stream_name', '')} in {config.get('region', '')}", None

    async def connect(self, destination: base.OpenDestination) -> Publisher:
        """A publisher; opens no connection yet. Raises errors.Invalid where the stored template is none."""
        if found := templates.problems(destination.config, TEMPLATE):
            raise errors.Invalid(found)
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
        )
        return Publisher(
            aws_client.Client(self._shared, place),
            writer,
            destination.config.get("stream_name", ""),
            place.secrets,
        )


def build(shared: shared_.Shared) -> Kinesis:
    """The type as the settings want it."""
    return Kinesis(TYPE, shared, extras.missing(TYPE, "boto3", "aws"))


class Writer:
    """Makes records of events. Without a merger (`DESTINATIONS_AWS_KINESIS_METADATA_IN_PAYLOAD` off) a record is
    the event's data alone, and the metadata is lost, as published."""

    def __init__(self, merger: metadata.Merger | None, template: templates.Template | None) -> None:
        self._merger = merger
        self._template = template

    def record(self, event: base.Delivery) -> Record:
        """The data goes in byte for byte."""
        if self._merger is None:
            merged, data = None, event.data
        else:
            merged = self._merger.merged(event)
            data = b'{"data":%b,"metadata":%b}' % (event.data, msgspec.json.encode(merged, order="sorted"))
        key = self._key(event, merged)
        return Record(data, key, len(data) + len(key.encode()))

    def _key(self, event: base.Delivery, merged: dict[str, str] | None) -> str:
        if self._template is None:
            return event.event_id
        data = templates.document(event.data)
        context = data if merged is None else {"data": data, "metadata": merged}
        return self._template.text(context) or event.event_id


class Publisher:
    """Sends to one stream; see base.Publisher. `max_batch` becomes 1 where the key may not PutRecords."""

    def __init__(self, client: aws_client.Client, writer: Writer, stream: str, secrets: Sequence[str]) -> None:
        self.max_batch = MOST_RECORDS
        self._client = client
        self._writer = writer
        self._stream = stream
        self._secrets = secrets
        self._at_once = asyncio.Semaphore(aws_client.MOST_KEPT)

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        """As few calls as the limits allow, at once."""
        outcomes: dict[int, delivery.Outcome] = {}
        records: dict[int, Record] = {}
        for number, event in enumerate(batch):
            record = self._writer.record(event)
            if fault := faulty(record):
                outcomes[number] = fault
            else:
                records[number] = record
        calls = parted((number, record.size) for number, record in records.items())
        put = await asyncio.gather(*(self._put([records[n] for n in call], deadline) for call in calls))
        for call, told in zip(calls, put, strict=True):
            outcomes.update(zip(call, told, strict=True))
        return [outcomes[number] for number in range(len(batch))]

    async def close(self) -> None:
        """Cuts off what is under way."""
        await self._client.close()

    async def _put(self, records: list[Record], deadline: float) -> list[delivery.Outcome]:
        if len(records) == 1:
            return [await self._put_one(records[0], deadline)]
        if self.max_batch == 1:
            return await self._each(records, deadline)
        entries = [{"Data": record.data, "PartitionKey": record.key} for record in records]
        answer = await self._client.call("put_records", {"StreamName": self._stream, "Records": entries}, deadline)
        if not isinstance(answer, aws_client.Refusal):
            return outcomes_of(answer, records, self._secrets)
        if answer.outcome.code != codes.Code.ACCESS_DENIED:
            return [answer.outcome] * len(records)
        first = await self._put_one(records[0], deadline)
        if first.code == codes.Code.ACCESS_DENIED:
            return [first] * len(records)
        self.max_batch = 1
        return [first, *await self._each(records[1:], deadline)]

    async def _each(self, records: list[Record], deadline: float) -> list[delivery.Outcome]:
        return await asyncio.gather(*(self._put_one(record, deadline) for record in records))

    async def _put_one(self, record: Record, deadline: float) -> delivery.Outcome:
        asked = {"StreamName": self._stream, "Data": record.data, "PartitionKey": record.key}
        answer = await self._client.call("put_record", asked, deadline)
        if not isinstance(answer, aws_client.Refusal):
            return _delivered(answer, record)
        if record.size > USUAL_RECORD_BYTES and answer.name in _TOO_LARGE:
            text = (answer.outcome.response or {}).get("error", "")
            return codes.failed(codes.Code.MESSAGE_TOO_LARGE, str(text))
        return answer.outcome


def faulty(record: Record) -> delivery.Failed | None:
    """The outcome of what Kinesis takes from nobody, and for which it would refuse a whole call."""
    if record.size > MOST_RECORD_BYTES:
        return codes.failed(codes.Code.MESSAGE_TOO_LARGE, f"the record is larger than {MOST_RECORD_BYTES} bytes")
    if not 0 < len(record.key) <= MOST_KEY_CHARACTERS:
        text = f"the partition key has {len(record.key)} characters, and may have 1 to {MOST_KEY_CHARACTERS}"
        return codes.failed(codes.Code.ERR, text)
    return None


def parted(sizes: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The numbers of records with these sizes, in order, in as few calls as the limits allow."""
    calls: list[list[int]] = []
    alone: list[list[int]] = []
    room = 0
    for number, size in sizes:
        if size > USUAL_RECORD_BYTES:
            alone.append([number])
            continue
        if not calls or size > room or len(calls[-1]) == MOST_RECORDS:
            calls.append([])
            room = MOST_CALL_BYTES
        calls[-1].append(number)
        room -= size
    return calls + alone


def outcomes_of(
    answer: Mapping[str, Any], records: Sequence[Record], secrets: Iterable[str]
) -> list[delivery.Outcome]:
    """One outcome a record, from a PutRecords that was answered: its records stand in the order of ours."""
    entries = answer.get("Records", [])
    if len(entries) != len(records):
        text = f"the service answered for {len(entries)} of {len(records)} records"
        return [codes.failed(codes.Code.ERR, text)] * len(records)
    found: list[delivery.Outcome] = []
    for entry, record in zip(entries, records, strict=True):
        if name := entry.get("ErrorCode"):
            text = f"{name}: {entry.get('ErrorMessage', '')}"
            found.append(codes.failed(aws_errors.code_of(name), text, secrets))
        else:
            found.append(_delivered(entry, record))
    return found


def _delivered(entry: Mapping[str, Any], record: Record) -> delivery.Delivered:
    response: dict[str, object] = {
        "shard_id": entry.get("ShardId", ""),
        "sequence_number": entry.get("SequenceNumber", ""),
        "partition_key": record.key,
    }
    return delivery.Delivered(codes.OK, response)
