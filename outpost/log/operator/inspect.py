"""Looking into the log: what its streams, the group and `due` hold, one entry, the entries as they come.

Reads only. Everything here raises errors.StoreUnavailable.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec

from outpost.log import batching, read
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.redis import client, shapes

Place = tuple[partitions.Stream, int]

TAIL_COUNT = 200  # entries of each stream by one read, if they are small
_ALL = tuple(range(partitions.PARTITIONS))
_LAST_SEQUENCE = 2**64 - 1


class StreamState(msgspec.Struct, frozen=True):
    """One stream: entries now, entries ever added, first (None: empty) and last position, bytes of memory."""

    stream: str
    partition: int
    length: int
    added: int
    first: str | None
    last: str
    memory_bytes: int


class Consumer(msgspec.Struct, frozen=True):
    """A member of the group: entries that it has read and not opened, ms since it last asked."""

    name: str
    pending: int
    idle_ms: int


class GroupState(msgspec.Struct, frozen=True):
    """The dispatch of one partition. `lag`: entries of `evt` that nobody read (None: the server cannot tell);
    `due`: live tasks; `due_now`: those of them that wait to be claimed; `next_in_ms`: until the next is due."""

    partition: int
    present: bool
    mending: bool
    pending: int
    lag: int | None
    due: int
    due_now: int
    next_in_ms: int | None
    consumers: tuple[Consumer, ...]


async def streams(log: client.Log) -> list[StreamState]:
    """Every stream that exists."""
    places: list[Place] = [(stream, p) for stream in partitions.STREAMS for p in _ALL]
    there = await log.pipeline([("EXISTS", _key(log, place)) for place in places])
    places = [place for place, exists in zip(places, there, strict=True) if exists]
    commands: list[Sequence[client.Arg]] = []
    for place in places:
        commands += [("XINFO", "STREAM", _key(log, place)), ("MEMORY", "USAGE", _key(log, place))]
    replies = await log.pipeline(commands) if commands else []
    return [
        _stream_state(place, info, memory)
        for place, info, memory in zip(places, replies[::2], replies[1::2], strict=True)
    ]


def _stream_state(place: Place, info: Mapping[str, Any], memory: int | None) -> StreamState:
    first = info["first-entry"]
    return StreamState(
        *place,
        length=info["length"],
        added=info["entries-added"],
        first=str(positions.of_entry(*place, first[0])) if first else None,
        last=str(positions.of_entry(*place, info["last-generated-id"])),
        memory_bytes=memory or 0,
    )


async def groups(log: client.Log) -> list[GroupState]:
    """The group and `due` of every partition."""
    there = await log.pipeline([("EXISTS", keys.evt) for keys in log.keys.partitions])
    return [await _group_state(log, p, exists=bool(exists)) for p, exists in zip(_ALL, there, strict=True)]


async def _group_state(log: client.Log, partition: int, *, exists: bool) -> GroupState:
    keys = log.keys.partitions[partition]
    now = shapes.clock_ms(await log.command("TIME"))
    mend, due, due_now, following = await log.pipeline(
        [
            ("EXISTS", keys.mend),
            ("ZCARD", keys.due),
            ("ZCOUNT", keys.due, "-inf", now),
            ("ZRANGE", keys.due, 0, 0, "WITHSCORES"),
        ]
    )
    found = await log.command("XINFO", "GROUPS", keys.evt) if exists else []
    group = next((g for g in found if g["name"] == partitions.GROUP.encode()), None)
    members = await log.command("XINFO", "CONSUMERS", keys.evt, partitions.GROUP) if group else []
    return GroupState(
        partition=partition,
        present=group is not None,
        mending=bool(mend),
        pending=group["pending"] if group else 0,
        lag=group["lag"] if group else None,
        due=due,
        due_now=due_now,
        next_in_ms=max(0, int(float(following[1])) - now) if following else None,
        consumers=tuple(Consumer(m["name"].decode(), m["pending"], m["idle"]) for m in members),
    )


async def one(log: client.Log, position: positions.Position) -> read.Read | None:
    """The entry at `position`, if it is there."""
    return (await read.exactly(log, [position]))[0]


async def starts(log: client.Log, places: Sequence[Place], since: str | positions.Position) -> dict[Place, str]:
    """Where a tail of `places` begins: `0`, `now`, or at a position, which means its moment in every stream."""
    if isinstance(since, positions.Position):
        return dict.fromkeys(places, _before(since))
    if since == "now":
        heads = await read.heads(log, places)
        return {place: head.entry_id for place, head in zip(places, heads, strict=True)}
    return dict.fromkeys(places, "0-0")


def _before(position: positions.Position) -> str:
    if position.seq:
        return f"{position.ms}-{position.seq - 1}"
    return f"{position.ms - 1}-{_LAST_SEQUENCE}" if position.ms else "0-0"


async def tail(log: client.Log, since: Mapping[Place, str], *, follow: bool) -> AsyncIterator[read.Read]:
    """The entries behind `since` of all these streams, merged by the time of their positions; with `follow` it
    waits for more and never ends."""
    reached, waiting = dict(since), False
    reading = batching.Reading(TAIL_COUNT * len(reached))
    while True:
        count = max(1, reading.count // len(reached))
        found = await read.after(log, reached, count, client.BLOCK_MS if waiting else 0, reading)
        horizon = _horizon(found, count)
        ready = [item for item in found if horizon is None or item.position.ms <= horizon]
        for item in sorted(ready, key=lambda item: (item.position.ms, item.position.seq)):
            yield item
        for item in ready:
            reached[_place(item)] = item.position.entry_id
        if not found and not follow:
            return
        waiting = follow and not found


def _horizon(found: Sequence[read.Read], asked: int) -> int | None:
    """The ms up to which all streams were read: a stream that gave as much as was `asked` for may hold more."""
    counts: dict[Place, int] = {}
    last: dict[Place, int] = {}
    for item in found:
        place = _place(item)
        counts[place] = counts.get(place, 0) + 1
        last[place] = item.position.ms
    return min((last[place] for place, count in counts.items() if count >= asked), default=None)


def _key(log: client.Log, place: Place) -> str:
    stream, partition = place
    return log.keys.partitions[partition].stream(stream)


def _place(item: read.Read) -> Place:
    stream: partitions.Stream = next(name for name in partitions.STREAMS if name == item.position.stream)
    return stream, item.position.partition
