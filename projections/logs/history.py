"""Whether the streams still hold the history that the checkpoints stand on, and how old what is unread is.

A Redis that came back from an old copy gives ids again that were projected already; reading on from the
checkpoints would then skip whatever is appended below them.
"""

from __future__ import annotations

from outpost.log import position as positions
from outpost.log import read
from outpost.log.redis import client, shapes
from projections import base


async def server_id(log: client.Log) -> str:
    """Names one run of one Redis server; another answer means that connections were made anew.
    Raises errors.StoreUnavailable."""
    info = (await log.pipeline([("INFO", "server")]))[0]
    return str(info["run_id"])


async def first_lost(log: client.Log, checkpoints: base.Checkpoints) -> positions.Position | None:
    """The first checkpoint whose stream is behind it, or holds older entries and not the one it names.
    A stream trimmed beyond its checkpoint is not seen here; trimming never does that."""
    read_places = {place: key for place, key in checkpoints.items() if key > (0, 0)}
    if not read_places:
        return None
    wanted = [positions.Position(*place, *key) for place, key in read_places.items()]
    heads = await read.heads(log, list(read_places))
    for at, head in zip(wanted, heads, strict=True):
        if head < at:
            return at
    for at, found in zip(wanted, await read.exactly(log, wanted), strict=True):
        if found is None:
            stream, partition = next(place for place in read_places if place == at[:2])
            oldest = await read.between(log, stream, partition, count=1)
            if oldest and oldest[0].position < at:
                return at
    return None


async def oldest_unread_ms(log: client.Log, checkpoints: base.Checkpoints) -> int:
    """The age in ms, by Redis' clock, of the oldest entry behind the checkpoints; 0 if there is none.
    Raises errors.StoreUnavailable."""
    commands: list[tuple[str | int, ...]] = [
        ("XRANGE", log.keys.partitions[partition].stream(stream), f"({ms}-{seq}", "+", "COUNT", 1)
        for (stream, partition), (ms, seq) in checkpoints.items()
    ]
    *found, clock = await log.pipeline([*commands, ("TIME",)])
    oldest = [positions.entry_key(entries[0][0])[0] for entries in found if entries]
    return max(shapes.clock_ms(clock) - min(oldest), 0) if oldest else 0
