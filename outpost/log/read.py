"""Reading streams: from a position, over a range, one entry, as the group.

Every reply becomes what everybody else sees: `Read(position, fields)`, fields as bytes. A reader that goes through
much passes its `batching.Reading`, which learns from each answer how many entries the next one may hold. All raise
errors.StoreUnavailable.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from outpost import errors
from outpost.log import batching
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.redis import client

Fields = dict[bytes, bytes]


class Read(NamedTuple):
    """One entry as it stands in its stream; decode it with `envelope.decode`."""

    position: positions.Position
    fields: Fields


async def after(
    log: client.Log,
    starts: Mapping[tuple[partitions.Stream, int], str],
    count: int,
    block_ms: int = 0,
    reading: batching.Reading | None = None,
) -> list[Read]:
    """Entries behind `starts` (stream and partition -> entry id), at most `count` of each stream; waits up to
    `block_ms` (0: not at all) for the first."""
    names = {log.keys.partitions[p].stream(s).encode(): (s, p) for s, p in starts}
    ids = [starts[place] for place in names.values()]
    block: tuple[str | int, ...] = ("BLOCK", block_ms) if block_ms else ()
    with failing(reading, count * len(names)):
        reply, size = await log.wait_measured("XREAD", "COUNT", count, *block, "STREAMS", *names, *ids)
    return _learned(_normalise(reply, names), size, reading, count)


async def as_group(
    log: client.Log,
    consumer: str,
    count: int,
    start: str = ">",
    block_ms: int = client.BLOCK_MS,
    among: Sequence[int] = tuple(range(partitions.PARTITIONS)),
    reading: batching.Reading | None = None,
) -> list[Read]:
    """New entries of `evt` for `consumer` of the group (`start` `0-0`: its own pending ones again)."""
    names = {log.keys.partitions[p].evt.encode(): ("evt", p) for p in among}
    block: tuple[str | int, ...] = ("BLOCK", block_ms) if start == ">" and block_ms else ()
    group = ("XREADGROUP", "GROUP", partitions.GROUP, consumer)
    with failing(reading, count * len(names)):
        reply, size = await log.wait_measured(
            *group, "COUNT", count, *block, "STREAMS", *names, *([start] * len(names))
        )
    return _learned(_normalise(reply, names), size, reading, count)


async def claim_idle(
    log: client.Log,
    partition: int,
    consumer: str,
    idle_ms: int,
    count: int,
    start: str = "0-0",
    reading: batching.Reading | None = None,
) -> tuple[str, list[Read]]:
    """Pending entries that were idle too long, whoever owned them, and where to go on (`0-0`: done)."""
    key = log.keys.partitions[partition].evt
    claim = ("XAUTOCLAIM", key, partitions.GROUP, consumer, idle_ms, start)
    with failing(reading, count):
        reply, size = await log.wait_measured(*claim, "COUNT", count)
    found = _learned(_entries(reply[1], "evt", partition), size, reading, count)
    return reply[0].decode(), found


async def between(
    log: client.Log,
    stream: partitions.Stream,
    partition: int,
    first: str = "-",
    last: str = "+",
    count: int | None = None,
    reading: batching.Reading | None = None,
) -> list[Read]:
    """A range of one stream, bounds as `XRANGE` has them (`(` excludes)."""
    key, asked = log.keys.partitions[partition].stream(stream), count or 0
    limit: tuple[str | int, ...] = () if count is None else ("COUNT", count)
    with failing(reading, asked):
        reply, size = await log.wait_measured("XRANGE", key, first, last, *limit)
    return _learned(_entries(reply, stream, partition), size, reading, asked)


async def exactly(
    log: client.Log, wanted: Sequence[positions.Position], reading: batching.Reading | None = None
) -> list[Read | None]:
    """The entries at these positions in one round trip; None where one is gone."""
    commands = [
        ("XRANGE", log.keys.partitions[w.partition].stream(_stream(w)), w.entry_id, w.entry_id) for w in wanted
    ]
    with failing(reading, len(wanted)):
        replies, size = await log.pipeline_measured(commands)
    found = [_entries(reply, w.stream, w.partition) for w, reply in zip(wanted, replies, strict=True)]
    _learned([entry for entries in found for entry in entries], size, reading, len(wanted))
    return [entries[0] if entries else None for entries in found]


async def heads(log: client.Log, places: Sequence[tuple[partitions.Stream, int]]) -> list[positions.Position]:
    """The last id that each stream ever gave, trimmed or not (`0-0`: none yet)."""
    commands = [("XINFO", "STREAM", log.keys.partitions[p].stream(stream)) for stream, p in places]
    result = []
    for (stream, p), reply in zip(places, await log.pipeline_each(commands), strict=True):
        if isinstance(reply, Exception):
            if "no such key" not in str(reply):
                with client.mapped_errors():
                    raise reply
            result.append(positions.Position(stream, p, 0, 0))
        else:
            result.append(positions.of_entry(stream, p, reply["last-generated-id"]))
    return result


@contextlib.contextmanager
def failing(reading: batching.Reading | None, asked: int) -> Iterator[None]:
    """Tells `reading` where a read of up to `asked` entries failed."""
    try:
        yield
    except errors.StoreUnavailable:
        if reading is not None:
            reading.failed(asked)
        raise


def _learned(found: list[Read], size: int, reading: batching.Reading | None, asked: int) -> list[Read]:
    """What was found, after `reading` was told how large it is; each stream was asked for `asked` entries."""
    if reading is not None:
        reading.answered(len(found), size, asked)
    return found


def _stream(position: positions.Position) -> partitions.Stream:
    for name in partitions.STREAMS:
        if name == position.stream:
            return name
    raise ValueError(f"no stream {position.stream!r}")


def _normalise(reply: Any, names: Mapping[bytes, tuple[str, int]]) -> list[Read]:
    if not reply:
        return []
    pairs = reply.items() if isinstance(reply, dict) else reply
    result: list[Read] = []
    for key, entries in pairs:
        stream, partition = names[key]
        if entries and isinstance(entries[0], list) and entries[0] and isinstance(entries[0][0], (list, tuple)):
            entries = entries[0]  # some shapes wrap the entries of a stream once more
        result += _entries(entries, stream, partition)
    return result


def _entries(entries: Any, stream: str, partition: int) -> list[Read]:
    result = []
    for entry_id, fields in entries:
        if fields is None:  # deleted meanwhile; only XAUTOCLAIM shows such
            continue
        if not isinstance(fields, dict):
            flat = iter(fields)
            fields = dict(zip(flat, flat, strict=True))
        result.append(Read(positions.of_entry(stream, partition, entry_id), fields))
    return result


def undecodable(read: Read, exc: errors.UndecodableEntry) -> dict[str, str]:
    """What may be said of an entry that does not decode: where, and which rule it breaks, nothing it holds."""
    return {"position": str(read.position), "field": exc.field, "rule": exc.rule}
