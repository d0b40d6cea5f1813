"""What the log alone says lives, and the invariants that hold in every state.

D1 nothing is lost, D2 attempts are contiguous with one record each, D3 `due` with what is not acknowledged is
the fold of the log, D4 nothing follows a terminal record but a manual retry, S two processes send one attempt
only after its lease ended, R every accepted retry is followed by an attempt of its own and a cancellation by
none, A automatic attempts are counted by themselves: a manual one uses up none.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from docs.models.delivery.state import Delivery, Record, Task, World
from docs.models.search import Broken

Fold = frozenset[tuple[Task, str, int]]  # task, what was asked of it, manual attempts of its delivery


def after(last: int, automatic: int, entry: Record) -> tuple[int, bool, int]:
    """How a delivery stands after an entry about it: last attempt, closed or not, automatic attempts so far."""
    if entry.type.startswith("attempt."):
        return entry.task.attempt, entry.next == "none", entry.automatic
    if entry.type == "retry.requested":
        return last, False, entry.automatic
    return last, entry.type.startswith("delivery."), automatic


class _Standing:
    """One delivery, while the log is folded."""

    def __init__(self) -> None:
        self.last, self.closed, self.automatic, self.wish = 0, False, 0, ""

    def follow(self, entry: Record) -> None:
        self.last, self.closed, self.automatic = after(self.last, self.automatic, entry)
        if entry.type == "retry.requested":
            self.wish = self.wish.replace("c", "") + "r"
        elif entry.type == "cancel.requested":
            self.wish = "c"
        else:
            self.wish = "r" * entry.asked if entry.next == "manual" else ""


@lru_cache(maxsize=100_000)
def fold(evt: tuple[Any, ...], dlv: tuple[Record, ...], cut: int = 0) -> Fold:
    """The tasks that live by the entries that are left; `cut` is how many events were trimmed."""
    state = {
        (position, *matched): _Standing()
        for position, (_, matches, _) in enumerate(evt, 1)
        if position > cut
        for matched in matches
    }
    for entry in dlv:
        if entry.task.delivery in state:
            state[entry.task.delivery].follow(entry)
    return frozenset(
        (Task(s.last + 1, *place), s.wish, s.last - s.automatic) for place, s in state.items() if not s.closed
    )


@lru_cache(maxsize=100_000)
def check_records(dlv: tuple[Record, ...], attempts: int) -> None:
    """D2, D4, R and A over the whole history of `dlv`. `attempts`: how many automatic ones there are."""
    state: dict[Delivery, _Standing] = {}
    automatic: dict[Delivery, int] = {}
    for entry in dlv:
        place, s = entry.task.delivery, state.setdefault(entry.task.delivery, _Standing())
        is_attempt = entry.type.startswith("attempt.")
        if is_attempt and entry.task.attempt <= s.last:
            raise Broken("D2", f"attempt {entry.task} has two records")
        if entry.task.attempt != s.last + 1:
            raise Broken("D2", f"{entry.type} {entry.task} after attempt {s.last}")
        if s.closed and entry.type != "retry.requested":
            raise Broken("D4", f"{entry.type} {entry.task} after a terminal record")
        if is_attempt:
            automatic[place] = automatic.get(place, 0) + (not entry.manual)
            asked = entry.asked if entry.next == "manual" else 0
            if ("c" in s.wish and entry.next != "none") or asked < s.wish.count("r") - entry.manual:
                raise Broken("R", f"a request for {entry.task} was accepted and not done")
            _check_automatic(entry, s, automatic[place], attempts)
        s.follow(entry)


def _check_automatic(entry: Record, before: _Standing, made: int, attempts: int) -> None:
    if entry.automatic != made:
        raise Broken("A", f"{entry.task} says {entry.automatic} automatic attempts and is number {made}")
    if entry.type == "attempt.failed" and entry.next != "manual" and "c" not in before.wish:
        follows = made < attempts
        if follows != (entry.next == "auto"):
            raise Broken("A", f"after {made} of {attempts} automatic attempts of {entry.task}: {entry.next}")


def check(w: World, attempts: int) -> bool:
    """Raises Broken. Returns whether everything is delivered, recorded and acknowledged."""
    evt, dlv, group, pel, due_items, want, manual, mending = w.redis[:8]
    check_records(dlv, attempts)
    live = fold(evt, dlv)
    tasks, due, pending = {t for t, _, _ in live}, {t for t, _ in due_items}, {p for p, _ in pel}
    whole = group is not None and not mending
    unopened: set[Task] = set()
    if whole:
        waiting = [p for p in range(1, len(evt) + 1) if p > group or p in pending]
        unopened = {Task(1, p, *matched) for p in waiting for matched in evt[p - 1][1]}
        if due | unopened != tasks:
            missing, extra = tasks - due - unopened, (due | unopened) - tasks
            raise Broken("D1/D3", f"missing in due: {_text(missing)}, too many: {_text(extra)}")
    if not due <= tasks or due & unopened:
        raise Broken("D3", f"in due without a cause: {_text(due - tasks | due & unopened)}")
    _check_wishes(live, due, dict(want), dict(manual))
    sending = [p.slot.task for p in w.procs if p.slot and p.slot.valid]
    if len(sending) != len(set(sending)):
        raise Broken("S", f"two processes send {sending[0]}, and no lease ended")
    return whole and not tasks and not pel and group == len(evt)


def _check_wishes(live: Fold, due: set[Task], want: dict[Task, str], manual: dict[Delivery, int]) -> None:
    """`want` and `manual` say what the log says. That one request was begun stands in `want` alone."""
    for task, wish, before in live:
        if task not in due:
            continue
        present = want.get(task, "")
        possible = {present} if "m" not in present else {present[1:], "r" + present[1:]}
        if wish not in possible:
            raise Broken("D3", f"want of {task} is {present!r}, the log says {wish!r}")
        if manual.get(task.delivery, 0) != before:
            raise Broken("A", f"{task} has {manual.get(task.delivery, 0)} manual attempts, the log says {before}")
    if extra := want.keys() - {task for task, _, _ in live}:
        raise Broken("D3", f"want of a task that does not live: {_text(extra)}")
    if extra_manual := manual.keys() - {task.delivery for task, _, _ in live}:
        raise Broken("A", f"manual attempts of a closed delivery are kept: {extra_manual}")


def _text(tasks: Any) -> str:
    return ", ".join(sorted(map(str, tasks))) or "none"
