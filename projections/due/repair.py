"""Makes `due` whole after the dispatcher's group was lost: first start, restore, an operator's mistake.

Whoever sees the mark `mend` folds the log and adds what is missing. Any number may do so at once, and a repairer
that dies half-way leaves the mark for the next.
"""

from __future__ import annotations

from outpost import errors
from outpost.domain import events
from outpost.log import batching, envelope, read
from outpost.log import position as positions
from outpost.log.delivery import repair as scripts
from outpost.log.redis import client
from projections.due import fold as folds

READ = 1_000  # entries a read, if they are small
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
    reading = batching.Reading(READ)
    fold = await _fold(log, partition, scripts.head_of(mark), reading)
    seen = await _follow(log, partition, fold, _BEFORE_ALL, reading)
    places = fold.places()
    added = at = 0
    while True:
        missing = [
            scripts.Missing(task, live.want, live.due_ms, live.manual)
            for task, live in fold.tasks(places[at : at + CHUNK]).items()
        ]
        last = at + CHUNK >= len(places)
        answer = await scripts.mend(log, partition, mark, seen, missing, last=last)
        if answer is None:
            return added
        if answer == "more":
            seen = await _follow(log, partition, fold, seen, reading)
            continue
        added += answer
        at += CHUNK
        if last:
            return added


async def _fold(log: client.Log, partition: int, head: str, reading: batching.Reading) -> folds.Fold:
    """The fold of `evt` up to `head`."""
    fold = folds.Fold(positions.entry_key(head))
    seen = _BEFORE_ALL
    while found := await read.between(log, "evt", partition, f"({seen}", head, reading.count, reading):
        for item in found:
            entry = _decoded(item)
            if isinstance(entry, events.Event):
                fold.event(item.position.entry_id, entry)
        seen = found[-1].position.entry_id
    return fold


async def _follow(log: client.Log, partition: int, fold: folds.Fold, seen: str, reading: batching.Reading) -> str:
    """Folds what stands behind `seen` in `dlv`, up to its head, and returns that. What is appended behind the last
    page is left to the fence of `mend`."""
    while True:
        count = reading.count
        found = await read.between(log, "dlv", partition, f"({seen}", "+", count, reading)
        for item in found:
            entry = _decoded(item)
            if isinstance(entry, events.DeliveryEntry):
                fold.entry(item.position.ms, entry)
        seen = found[-1].position.entry_id if found else seen
        if len(found) < count:
            return seen


def _decoded(item: read.Read) -> events.Entry | None:
    """None for an entry that does not decode: it asks for no delivery, as the dispatcher has it too."""
    try:
        return envelope.decode(item.position.stream, item.position, item.fields)
    except errors.UndecodableEntry:
        return None
