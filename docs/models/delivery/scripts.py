"""The Lua scripts of outpost/log/scripts that deliver: each is one atomic step on a partition."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from docs.models.delivery.log_rules import after
from docs.models.delivery.state import (
    FAR_LEASED,
    FAR_WAITS,
    HELD,
    LEASED,
    WAITS,
    Delivery,
    Look,
    Record,
    Redis,
    Task,
    config,
)
from docs.models.search import intact


def append(r: Redis, event: int, version: int, matched: tuple[tuple[str, int], ...]) -> str:
    if any(known == event for known, _, _ in r.evt):
        return "duplicate"
    if version != r.ver:
        return "stale"
    r.evt.append((event, matched, version))
    return "ok"


def open_(
    r: Redis, positions: Iterable[int], *, memory_full: bool = False, fails: bool = False
) -> list[Task] | None:
    """Returns the tasks to hand over; None where the budget refuses, and then nothing changed. `fails`: an error
    ends the script behind the first entry, and the caller hands over nothing."""
    if memory_full and intact("open-refused-before-it-acknowledges"):
        return None
    tasks: list[Task] = []
    for position in positions:
        acknowledged = r.pending.pop(position, None) is not None
        if not acknowledged and intact("open-without-ack-gate"):
            continue
        for destination, created in r.evt[position - 1][1]:
            if not memory_full and (not fails or intact("open-fails-with-what-is-acknowledged-live")):
                r.due[Task(1, position, destination, created)] = HELD
                tasks.append(Task(1, position, destination, created))
        if fails:
            break
    return None if memory_full or fails else tasks


def begin(r: Redis, task: Task, changes: tuple[str, ...], generation: int, *, expired: bool, ahead: bool) -> Any:
    """`expired`: the time of the lease that is found is over. `ahead`: the clock is far ahead for this moment.
    Returns a reason, or (whether the attempt is manual, manual attempts before it)."""
    if task not in r.due:
        return "gone"
    if not intact("future-score-is-lease") and r.due[task] != WAITS and not expired:
        return "leased"
    if r.leased(task) and not expired and intact("begin-without-lease-check"):
        return "leased"
    if generation != r.gen and intact("begin-in-callers-generation"):
        return "generation"
    shown = r.ck[generation]
    if shown < r.ver and intact("begin-behind-the-version"):
        return "behind"
    if shown < r.evt[task.position - 1][2]:
        return "behind"
    want = r.want.get(task, "")
    if "c" in want:
        r.close("delivery.cancelled", task)
        return "cancelled"
    created, enabled = config(changes, shown).get(task.destination, (0, False))
    if not enabled or (created != task.created and intact("begin-without-creation-version")):
        r.close("delivery.skipped", task)
        return "skipped"
    if want and "m" not in want:
        want = r.want[task] = "m" + want[1:]  # one request is this attempt, others follow it
    r.due[task] = FAR_LEASED if ahead else LEASED
    return "m" in want, r.manual.get(task.delivery, 0)


def record(r: Redis, task: Task, *, succeeded: bool, retry: bool, retry_if_manual: bool, ahead: bool) -> str:
    """`retry`: whether an automatic attempt follows if this was an automatic one; `retry_if_manual`: if it was a
    manual one, for a manual attempt uses up none."""
    if task not in r.due and intact("record-without-due-check"):
        return "duplicate"
    want = r.want.get(task, "")
    asked, manual = want.count("r"), "m" in want
    if not intact("asked-is-one"):
        asked = min(asked, 1)
    before = r.manual.get(task.delivery, 0) + manual
    retry = retry_if_manual if manual and intact("record-goes-by-what-was-begun") else retry
    following = "none"
    if asked and intact("record-ignores-request"):
        following = "manual"
    elif not succeeded and retry and "c" not in want:
        following = "auto"
    kind = "attempt.succeeded" if succeeded else "attempt.failed"
    r.dlv.append(Record(kind, task, manual, following, asked, task.attempt - before))
    r.forget(task)
    r.manual.pop(task.delivery, None)
    if following != "none":
        task = task._replace(attempt=task.attempt + 1)
        r.due[task] = FAR_WAITS if ahead else WAITS
        if before:
            r.manual[task.delivery] = before
        if following == "manual":
            r.want[task] = "r" * asked
    return "recorded"


def request(r: Redis, look: Look, *, expired: bool) -> str:
    last, closed, automatic = look.last, look.closed, look.automatic
    if look.seen < r.told_cut and intact("request-older-than-the-cut"):
        return "outdated"
    for entry in r.dlv[max(look.seen, r.cut) :] if intact("request-without-fence") else ():
        if entry.task.delivery == look.delivery:
            last, closed, automatic = after(last, automatic, entry)
    task = Task(last + 1, *look.delivery)
    in_flight = r.leased(task) and not expired and intact("request-ignores-lease")
    if task not in r.due and (look.what == "cancel" or not closed) and intact("request-before-open"):
        return "closed" if closed else "not opened yet"
    if look.what == "cancel" and not (in_flight and intact("cancel-in-flight-at-once")):
        r.close("delivery.cancelled", task)
        return "cancelled"
    if task not in r.due and last > automatic:
        r.manual[task.delivery] = last - automatic  # the log knows it, since a closed delivery has no field
    automatic = last - r.manual.get(task.delivery, 0)
    kind = "cancel.requested" if look.what == "cancel" else "retry.requested"
    r.dlv.append(Record(kind, task, automatic=automatic))
    dropped = "c" if look.what == "retry" else "cr"
    kept = "".join(letter for letter in r.want.get(task, "") if letter not in dropped)
    r.want[task] = kept + look.what[0]
    if not in_flight:
        r.due[task] = WAITS
    return "requested"


def hold(r: Redis, tasks: Iterable[Task], score: str) -> frozenset[Task]:
    """HELD from time to time, WAITS at a drain. Returns the tasks that the lanes may keep."""
    keep = [t for t in tasks if t in r.due or not intact("hold-without-xx")]
    keep = [t for t in keep if not (r.leased(t) and intact("hold-over-a-lease"))]
    r.due.update((t, score) for t in keep)
    return frozenset(keep)


def claim_due(r: Redis, task: Task) -> bool:
    """Whether the task is handed over. A lease that is too far ahead is made as long as a lease can be."""
    if r.due[task] == FAR_LEASED:
        r.due[task] = LEASED if intact("claim-beyond-the-longest-delay") else FAR_LEASED
        return False
    if r.due[task] == FAR_WAITS and not intact("claim-beyond-the-longest-delay"):
        return False
    r.due[task] = HELD
    return True


def regroup(r: Redis, name: int) -> None:
    """Makes the group at the head, where it is missing or to rebuild `due`, and sets `mend` to the same id and a
    name of this loss, which no repairer holds yet."""
    r.group, r.pending, r.mend = len(r.evt), {}, (len(r.evt), name) if r.evt else 0


def mend(
    r: Redis, mark: tuple[int, int], tasks: Iterable[tuple[Task, str, int]], seen: int, *, last: bool = True
) -> None:
    """Adds the folded tasks, except those of deliveries with an entry in `dlv` after `seen`; the last piece takes
    the mark away. Does nothing once the mark is another."""
    same = r.mend == mark if intact("mend-of-another-loss") else r.mend and r.mend[0] == mark[0]
    if not same and intact("group-after-fold"):
        return
    moved: set[Delivery] = set()
    if intact("mend-without-fence"):
        moved = {entry.task.delivery for entry in r.dlv[seen:]}
    for task, want, manual in tasks:
        if task.delivery not in moved and task not in r.due:
            r.due[task] = WAITS
            r.want.update({task: want} if want else {})
            r.manual.update({task.delivery: manual} if manual and intact("mend-tells-manual") else {})
    if last:
        r.mend = 0
    if r.group is None and not intact("group-after-fold"):
        r.group = len(r.evt)


def trim(r: Redis) -> None:
    if r.group is None or r.mend:
        return
    unacknowledged = min(r.pending, default=r.group + 1)
    cut = min(r.store[0], unacknowledged - 1) if intact("trim-past-pending") else r.store[0]
    r.evt_cut = max(r.evt_cut, cut)
    for entry in r.dlv[r.cut : r.store[1]]:  # never an attempt of an event that is still in the stream
        if entry.task.position > r.evt_cut and intact("trim-dlv-first"):
            break
        r.cut += 1
    r.told_cut = r.cut
