"""Making the dispatcher's group again, and completing `due` from a fold of the log: wrappers of two scripts.

`projections/due` folds and drives; nothing here knows what an entry means. All raise errors.StoreUnavailable, and
repeating is safe.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Literal

import msgspec

from outpost.log import batching
from outpost.log import partition as partitions
from outpost.log.redis import client

PAGE = 100  # entries that a call of `mend` reads: the time of a round trip holds fewer

_REGROUP = client.load_script("regroup")
_MEND = client.load_script("mend")


class Missing(msgspec.Struct, frozen=True):
    """A task that the log says lives. `want` is what was asked of it (an `r` a manual attempt, `c`, or nothing),
    `due_ms` the Unix ms at which it is due (0: at once), `manual` how many attempts of its delivery were
    manual."""

    task: str
    want: str = ""
    due_ms: int = 0
    manual: int = 0


async def regroup(log: client.Log, among: Sequence[int] = tuple(range(partitions.PARTITIONS))) -> dict[int, str]:
    """Makes the group at the head of `evt` where it is missing. Returns the mark of every partition whose `due` is
    to be completed from the log up to its `head_of`; none for those that are whole."""
    keys, name = [log.keys.partitions[p] for p in among], uuid.uuid4().hex
    replies = await log.call(_REGROUP, [((k.evt, k.mend), (partitions.GROUP, name)) for k in keys])
    return {p: mark.decode() for p, (_, mark) in zip(among, replies, strict=True) if mark}


def head_of(mark: str) -> str:
    """The entry id of `evt` up to which the log is to be folded; the rest of a mark names the loss."""
    return mark.partition(" ")[0]


async def mend(
    log: client.Log, partition: int, mark: str, seen: str, tasks: Sequence[Missing], *, last: bool
) -> int | Literal["more"] | None:
    """Adds those of `tasks` that are not in `due` and whose delivery has no `dlv` entry behind `seen`; with `last`
    the partition is whole from then on. Returns how many were added. Returns, with nothing changed, "more" where
    `PAGE` entries or more stand behind `seen`, and None if the mark is another by now."""
    keys = log.keys.partitions[partition]
    args: list[client.Arg] = [mark, seen, int(last), PAGE, batching.SCRIPT_ENTRIES]
    for task in tasks:
        args += (task.task, f"{task.manual or ''}{task.want}", task.due_ms)
    reply = (await log.call(_MEND, [((keys.due, keys.want, keys.dlv, keys.mend, keys.manual), args)]))[0]
    return "more" if reply == b"more" else reply
