"""Makes `due` whole after the dispatcher's group was lost: first start, restore, an operator's mistake.

Whoever sees the mark `mend` folds the log and adds what is missing. Any number may do so at once, and a repairer
that dies half-way leaves the mark for the next.
"""

from __future__ import annotations

from outpost import errors
from outpost.domain import events
from outpost.log import client, envelope, read
from outpost.log import position as positions
from outpost.log import repair as scripts
from projections.due import fold as folds

READ = 1_000  # entries a read
CHUNK = 500  # tasks a script call; bounds how long Redis is busy with it
ROUNDS = 3  # the group may be lost again meanwhile; what is still marked then is left to the next call
_BEFORE_ALL = "0-0"


async def mend_if_needed(log: client.Log) -> int:
    """Makes missing groups again and completes `due` of every partition that is marked. Returns how many tasks
    were added. Raises errors.StoreUnavailable; the marks stand then, and calling again goes on."""
    added = 0
    for _ in range(ROUNDS):
        marks = await scripts.regroup(log)
        if not marks:
            break
        for partition, mark in marks.items():
            added += await _mend(log, partition, mark)
    return added


async def _mend(log: client.Log, partition: int, mark: str) -> int:
    fold, seen = await _fold(log, partition, mark)
    missing = [scripts.Missing(task, live.want, live.due_ms, live.manual) for task, live in fold.tasks().items()]
    added = 0
    for at in range(0, max(len(missing), 1), CHUNK):
        last = at + CHUNK >= len(missing)
        more = await scripts.mend(log, partition, mark, seen, missing[at : at + CHUNK], last=last)
        if more is None:
            break
        added += more
    return added


async def _fold(log: client.Log, partition: int, mark: str) -> tuple[folds.Fold, str]:
    """The fold of `evt` up to `mark` and of `dlv` up to its head, and that head."""
    fold = folds.Fold(positions.entry_key(mark))
    seen = _BEFORE_ALL
    while found := await read.between(log, "evt", partition, f"({seen}", mark, READ):
        for item in found:
            entry = _decoded(item)
            if isinstance(entry, events.Event):
                fold.event(item.position.entry_id, entry)
        seen = found[-1].position.entry_id
    seen, full = _BEFORE_ALL, True
    while full:  # what is appended behind a page that was not full is left to the fence of `mend`
        found = await read.between(log, "dlv", partition, f"({seen}", "+", READ)
        for item in found:
            entry = _decoded(item)
            if isinstance(entry, events.DeliveryEntry):
                fold.entry(item.position.ms, entry)
        seen = found[-1].position.entry_id if found else seen
        full = len(found) == READ
    return fold, seen


def _decoded(item: read.Read) -> events.Entry | None:
    """None for an entry that does not decode: it asks for no delivery, as the dispatcher has it too."""
    try:
        return envelope.decode(item.position.stream, item.position, item.fields)
    except errors.UndecodableEntry:
        return None
