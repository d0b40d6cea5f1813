"""A chunk: the tasks of one message, with the payloads of their events, signed.

    bytes 0-1    OQ
    byte  2      the version of the layout, 1
    bytes 3-18   the log: the first 16 bytes of SHA-256 of its `namespace_id`
    bytes 19-34  the first 16 bytes of HMAC-SHA256 over all other bytes
    bytes 35-    msgpack: [sent_ms, [event, ..]], `sent_ms` by the clock of Redis

    event: [partition, entry id, tenant, id, version, topic, time, eligible, metadata or nil, data or nil, tasks]
    task:  [attempt, destination, created]

An event without data and metadata is to be read from the log. The signature keeps whoever may write to the queue
from putting words into a tenant's events, since what is inline does not come from the log. A release reads the
layout that the one before it writes.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from outpost import crypto
from outpost.domain import delivery, events
from outpost.log import partition as partitions
from outpost.queue import base

CHUNK_TASKS = 50
CHUNK_BYTES = 192 * 1024  # 256 KiB in base64: an SQS queue made before August 2025, and Service Bus Standard
LEAST_CHUNK_BYTES = 16 * 1024  # a queue that allows less carries no deliveries
READ_BYTES = 1024 * 1024  # of a message that is looked at; whoever wrote a longer one was not us
VERSION = 1

_MAGIC = b"OQ"
_LOG_BYTES = 16
_SIGNATURE_BYTES = 16
_SIGNED_AT = len(_MAGIC) + 1 + _LOG_BYTES
_HEAD_BYTES = _SIGNED_AT + _SIGNATURE_BYTES
_ENVELOPE_BYTES = _HEAD_BYTES + 16  # with sent_ms and the heads of both arrays
_KEY_INFO = b"outpost/queue/1"


class Refused(Exception):
    """Not a chunk that this process may deliver. `why`: `foreign` (of another log), `version` (of a later
    release), `unreadable` or `forged`."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Chunk(msgspec.Struct, frozen=True):
    """What arrived. A probe has no tasks."""

    sent_ms: int
    tasks: list[base.Task]


class Packed(msgspec.Struct, frozen=True):
    """A message to send, and the tasks in it."""

    body: bytes
    tasks: list[base.Task]


class _Event(msgspec.Struct, array_like=True, frozen=True, gc=False):
    partition: int
    entry_id: str
    tenant: str
    id: str
    version: int
    topic: str
    time: str
    eligible: bool
    metadata: dict[str, str] | None
    data: bytes | None
    tasks: list[tuple[int, str, int]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, list[_Event]]).decode


class Codec:
    """Packs and reads the chunks of one log. `inline_max_bytes`: how large the payload of an event may be that
    travels in its chunk."""

    def __init__(self, namespace_id: str, secret: str, inline_max_bytes: int) -> None:
        log = hashlib.sha256(namespace_id.encode()).digest()[:_LOG_BYTES]
        self._start = _MAGIC + bytes([VERSION]) + log
        self._mac = hmac.new(crypto.derived_key(secret, _KEY_INFO), digestmod=hashlib.sha256)
        self._inline_max_bytes = inline_max_bytes

    def pack(self, tasks: Sequence[base.Task], sent_ms: int, chunk_bytes: int = CHUNK_BYTES) -> list[Packed]:
        """The tasks in as few messages of at most `chunk_bytes` as their order allows. Those of one event follow
        each other and share its payload."""
        packed: list[Packed] = []
        bodies: list[msgspec.Raw] = []
        held: list[base.Task] = []
        size = _ENVELOPE_BYTES
        for body, part in self._events(tasks, chunk_bytes - _ENVELOPE_BYTES):
            if bodies and (len(held) + len(part) > CHUNK_TASKS or size + len(body) > chunk_bytes):
                packed.append(Packed(self._signed(sent_ms, bodies), held))
                bodies, held, size = [], [], _ENVELOPE_BYTES
            bodies.append(msgspec.Raw(body))
            held.extend(part)
            size += len(body)
        if bodies:
            packed.append(Packed(self._signed(sent_ms, bodies), held))
        return packed

    def probe(self, sent_ms: int) -> bytes:
        """A chunk without tasks, to see whether the broker takes one."""
        return self._signed(sent_ms, [])

    def read(self, message: bytes) -> Chunk:
        """What `pack` wrote. Raises Refused."""
        if len(message) < _HEAD_BYTES or len(message) > READ_BYTES or not message.startswith(_MAGIC):
            raise Refused("unreadable")
        if message[len(_MAGIC)] != VERSION:
            raise Refused("version")
        if message[:_SIGNED_AT] != self._start:
            raise Refused("foreign")
        body = message[_HEAD_BYTES:]
        if not hmac.compare_digest(message[_SIGNED_AT:_HEAD_BYTES], self._signature(body)):
            raise Refused("forged")
        try:
            sent_ms, found = _decode(body)
        except (msgspec.DecodeError, RecursionError):
            raise Refused("unreadable") from None
        return Chunk(sent_ms, [task for event in found for task in _tasks(event)])

    def _events(self, tasks: Sequence[base.Task], most_bytes: int) -> Iterator[tuple[bytes, list[base.Task]]]:
        """Each event as it is written, with at most so many tasks and bytes."""
        for _, group in itertools.groupby(tasks, key=lambda task: (task.partition, task.id.event)):
            whole = list(group)
            for at in range(0, len(whole), CHUNK_TASKS):
                yield from self._cut(whole[at : at + CHUNK_TASKS], most_bytes)

    def _cut(self, part: list[base.Task], most_bytes: int) -> Iterator[tuple[bytes, list[base.Task]]]:
        """Where the event with its payload is too long for a message it goes without, and with fewer tasks."""
        first = part[0]
        inline = first.loaded and first.payload_bytes <= self._inline_max_bytes
        body = _encode(_event(part, inline=inline))
        if len(body) > most_bytes and inline:
            body = _encode(_event(part, inline=False))
        if len(body) > most_bytes and len(part) > 1:
            half = len(part) // 2
            yield from self._cut(part[:half], most_bytes)
            yield from self._cut(part[half:], most_bytes)
        else:
            yield body, part

    def _signed(self, sent_ms: int, bodies: list[msgspec.Raw]) -> bytes:
        body = _encode((sent_ms, bodies))
        return b"".join((self._start, self._signature(body), body))

    def _signature(self, body: bytes) -> bytes:
        mac = self._mac.copy()
        mac.update(self._start)
        mac.update(body)
        return mac.digest()[:_SIGNATURE_BYTES]


def _event(part: Sequence[base.Task], *, inline: bool) -> _Event:
    event = part[0].event
    return _Event(
        part[0].partition,
        part[0].id.event,
        event.tenant,
        event.id,
        event.version,
        event.topic,
        event.time,
        event.eligible,
        event.metadata if inline else None,
        event.data if inline else None,
        [(task.id.attempt, task.id.destination, task.id.created) for task in part],
    )


def _tasks(found: _Event) -> Iterable[base.Task]:
    """`matched` and `by` are not needed after `open`, and not sent."""
    if not 0 <= found.partition < partitions.PARTITIONS:
        raise Refused("unreadable")
    loaded = found.data is not None and found.metadata is not None
    event = events.Event(
        tenant=found.tenant,
        id=found.id,
        version=found.version,
        topic=found.topic,
        time=found.time,
        eligible=found.eligible,
        metadata=found.metadata or {},
        matched=(),
        by="",
        data=found.data or b"",
    )
    for attempt, destination, created in found.tasks:
        task_id = delivery.TaskId(attempt, found.entry_id, destination, created)
        yield base.Task(found.partition, str(task_id), task_id, event, loaded)
