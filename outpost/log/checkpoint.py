"""The checkpoint of a read-model generation: read it, and move it together with what the entries do.

`advance` is a compare-and-set, so that any number of processes may project the same partition: one wins each step,
the others read on from where it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from outpost import errors
from outpost.log.redis import client

_ADVANCE = client.load_script("advance")
_SWITCH_DEFAULT = 1  # the generation that a new deployment starts with


class Operation(msgspec.Struct, frozen=True):
    """One write to the read model: a Redis command on one of its keys."""

    command: str
    key: str
    args: tuple[client.Arg, ...] = ()


class Moved(msgspec.Struct, frozen=True, tag=True):
    """The checkpoint stands where we wanted it."""


class Lost(msgspec.Struct, frozen=True, tag=True):
    """Somebody else moved it; it stands at `present`, and nothing of ours was applied."""

    present: str


async def generations(log: client.Log, among: Sequence[int]) -> list[int]:
    """The active read-model generation of each partition."""
    replies = await log.pipeline([("GET", log.keys.partitions[p].gen) for p in among])
    return [int(reply or _SWITCH_DEFAULT) for reply in replies]


async def read(log: client.Log, partition: int, generation: int) -> str:
    """The entry id of `cfg` up to which a generation is applied."""
    reply = (await log.pipeline([("GET", log.keys.partitions[partition].checkpoint(generation))]))[0]
    return reply.decode() if reply else "0-0"


async def advance(
    log: client.Log,
    partition: int,
    generation: int,
    start: str,
    end: str,
    operations: Sequence[Operation],
) -> Moved | Lost:
    """Applies `operations` and moves the checkpoint from `start` to `end`, if it stands at `start`.
    Raises errors.StoreUnavailable: then it may have happened."""
    index: dict[str, int] = {}
    args: list[client.Arg] = [start, end]
    for op in operations:
        at = index.setdefault(op.key, len(index) + 2)
        args += (len(op.args) + 2, op.command, at, *op.args)
    keys = (log.keys.partitions[partition].checkpoint(generation), *index)
    reply = (await log.call(_ADVANCE, [(keys, args)]))[0]
    match reply:
        case [1, _]:
            return Moved()
        case [0, present]:
            return Lost(present.decode())
    raise errors.StoreUnavailable("redis", "an advance was answered in an unknown form")
