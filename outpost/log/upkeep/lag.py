"""How far those that read the log are behind: the age of what waits longest, by the clock of Redis."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.redis import client

_SCRIPT = client.load_script("lag")


class Lag(msgspec.Struct, frozen=True):
    """In ms, 0 where nothing waits. `dispatch`: since the oldest event was accepted that is not opened yet, or
    since a task was due. `projection`: since the oldest entry was appended that is not projected."""

    dispatch: int = 0
    projection: int = 0


async def measure(
    log: client.Log, checkpoints: Mapping[tuple[partitions.Stream, int], tuple[int, int]] | None = None
) -> Lag:
    """The longest over all partitions, in one round trip that carries no payloads. `checkpoints` of the projection
    in question; None: of none. Raises errors.StoreUnavailable."""
    found = await each(log, checkpoints)
    return Lag(max(lag.dispatch for lag in found), max(lag.projection for lag in found))


async def each(
    log: client.Log, checkpoints: Mapping[tuple[partitions.Stream, int], tuple[int, int]] | None = None
) -> list[Lag]:
    """The same of every partition."""
    calls: list[client.Call] = []
    for p, keys in enumerate(log.keys.partitions):
        starts = [_text(checkpoints, stream, p) for stream in ("evt", "dlv")]
        calls.append(((keys.evt, keys.dlv, keys.due), (partitions.GROUP, *starts)))
    return [
        Lag(
            dispatch=max(0, _age(now, waiting), int(now - float(due)) if due is not None else 0),
            projection=max(0, *(_age(now, entry_id) for entry_id in unprojected)),
        )
        for now, waiting, due, *unprojected in await log.call(_SCRIPT, calls)
    ]


def _age(now: int, entry_id: bytes | None) -> int:
    return 0 if entry_id is None else now - positions.entry_key(entry_id)[0]


def _text(
    checkpoints: Mapping[tuple[partitions.Stream, int], tuple[int, int]] | None,
    stream: partitions.Stream,
    partition: int,
) -> str:
    if checkpoints is None:
        return ""
    ms, seq = checkpoints.get((stream, partition), (0, 0))
    return f"{ms}-{seq}"
