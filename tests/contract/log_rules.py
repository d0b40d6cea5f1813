"""What the log alone says of deliveries, and the rules that its records keep: D2, D4, requests are done."""

from __future__ import annotations

from typing import Any

from outpost.domain import events
from projections.due import fold as folds


def live(evt: list[events.Entry], ids: list[str], dlv: list[events.DeliveryEntry]) -> dict[str, folds.Live]:
    """The live tasks by the log alone: the events of these entry ids, then the entries of `dlv`."""
    fold = folds.Fold()
    for entry_id, event in zip(ids, evt, strict=True):
        assert isinstance(event, events.Event)
        fold.event(entry_id, event)
    for entry in dlv:
        fold.entry(0, entry)
    return fold.tasks()


def check_wish(want: str, by_log: str) -> None:
    """The log says what was asked of a task. One manual attempt that was begun is not to be told from one that is
    to begin, and is forgotten once it is asked to be cancelled."""
    if "c" in want or "m" not in want:
        assert want.replace("m", "") == by_log
    else:
        assert by_log in {want.replace("m", "r"), want.replace("m", "")}


def check_records(entries: list[events.DeliveryEntry]) -> None:
    """D2: attempts contiguous, one record each. D4: nothing after a terminal record but a manual retry. Every
    request that was accepted is followed by an attempt of its own, a cancellation by none."""
    last: dict[tuple[Any, ...], int] = {}
    closed: set[tuple[Any, ...]] = set()
    asked: dict[tuple[Any, ...], int] = {}
    cancelled: set[tuple[Any, ...]] = set()
    for entry in entries:
        place, attempt = entry.task[1:], entry.task.attempt
        assert last.get(place, 0) + 1 == attempt, f"D2: {entry.type} {entry.task}"
        assert place not in closed or entry.type == "retry.requested", f"D4: {entry.type} {entry.task}"
        closed.discard(place)
        match entry.type:
            case "retry.requested":
                asked[place] = asked.get(place, 0) + 1
                cancelled.discard(place)
            case "cancel.requested":
                asked.pop(place, None)
                cancelled.add(place)
            case "attempt.succeeded" | "attempt.failed":
                assert entry.detail is not None
                before, following = asked.pop(place, 0), entry.detail.next
                asked[place] = entry.detail.asked if following == "manual" else 0
                assert asked[place] >= before - entry.detail.manual, f"a request was forgotten: {entry.task}"
                assert not (place in cancelled and following != "none"), f"{entry.task} was cancelled"
                last[place] = attempt
                closed |= {place} if following == "none" else set()
            case _:
                closed.add(place)
                asked.pop(place, None)
                cancelled.discard(place)
