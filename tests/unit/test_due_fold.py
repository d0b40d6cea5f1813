"""The fold of `evt` and `dlv`: what lives, what was asked of it and when it is due, by the log alone."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost.domain import delivery, events
from projections.due import fold as folds
from projections.due.fold import Live

D, E = events.Matched("d", 1), events.Matched("a/b@c", 2)


def _event(*matched: events.Matched) -> events.Event:
    return events.Event("acme", "e", 1, "t", "2026-09-21T14:13:20.400Z", True, {}, matched, "a", b"{}")


def _entry(type_: str, task: str, next_: str = "", **more: int) -> events.DeliveryEntry:
    detail = None
    if next_:
        detail = events.AttemptDetail("t", "webhook", "failed", "500", 1, 2, False, next_, **more)  # type: ignore[arg-type]
    return events.DeliveryEntry(type_, "acme", "e", delivery.parse_task_id(task), "a", detail)


def _fold(*entries: events.DeliveryEntry, upto: tuple[int, int] | None = None) -> dict[str, Live]:
    """One event at 5-0 for D and E, then these entries, each appended at 1,000 ms."""
    fold = folds.Fold(upto)
    fold.event("5-0", _event(D, E))
    for entry in entries:
        fold.entry(1_000, entry)
    return fold.tasks()


def test_an_event_lives_once_for_each_match_and_not_at_all_without_one() -> None:
    assert {"1/5-0/d@1": Live(), "1/5-0/a/b@c@2": Live()} == _fold()
    empty = folds.Fold()
    empty.event("5-0", _event())
    assert {} == empty.tasks()


def test_a_failure_is_followed_by_the_next_attempt_when_it_is_due() -> None:
    live = _fold(_entry("attempt.failed", "1/5-0/d@1", "auto", retry_in_ms=500))
    assert {"2/5-0/d@1": Live("", 1_500), "1/5-0/a/b@c@2": Live()} == live


def test_what_ends_a_delivery_ends_it() -> None:
    for closing in (
        _entry("attempt.succeeded", "1/5-0/d@1", "none"),
        _entry("attempt.failed", "1/5-0/d@1", "none"),
        _entry("delivery.skipped", "1/5-0/d@1"),
        _entry("delivery.cancelled", "1/5-0/d@1"),
    ):
        assert ["1/5-0/a/b@c@2"] == [*_fold(closing)]


def test_what_was_asked_for_is_remembered_and_reopens_what_was_closed() -> None:
    done = _entry("attempt.succeeded", "1/5-0/d@1", "none")
    again = _entry("retry.requested", "2/5-0/d@1")
    assert Live("r") == _fold(done, again)["2/5-0/d@1"]
    assert Live("rr") == _fold(done, again, again)["2/5-0/d@1"]
    assert Live("c") == _fold(done, again, _entry("cancel.requested", "2/5-0/d@1"))["2/5-0/d@1"]
    manual = _entry("attempt.failed", "1/5-0/d@1", "manual", retry_in_ms=0, asked=2)
    assert Live("rr", 1_000) == _fold(manual)["2/5-0/d@1"]


def test_manual_attempts_are_counted_and_survive_the_end_of_their_delivery() -> None:
    first = _entry("attempt.failed", "1/5-0/d@1", "auto", retry_in_ms=500)
    second = _entry("attempt.failed", "2/5-0/d@1", "auto", retry_in_ms=500, automatic=1)
    assert Live("", 1_500, 1) == _fold(first, second)["3/5-0/d@1"]
    asked = msgspec.structs.replace(_entry("retry.requested", "3/5-0/d@1"), automatic=1)
    assert Live("r", 0, 1) == _fold(first, second, asked)["3/5-0/d@1"]
    closed = _entry("attempt.failed", "2/5-0/d@1", "none", automatic=1)
    assert Live("r", 0, 1) == _fold(first, closed, asked)["3/5-0/d@1"]
    assert Live("c", 0, 1) == _fold(first, second, _entry("cancel.requested", "3/5-0/d@1"))["3/5-0/d@1"]


def test_an_entry_from_before_the_count_has_every_attempt_as_an_automatic_one() -> None:
    old = _entry("attempt.failed", "2/5-0/d@1", "auto", retry_in_ms=500)
    assert Live("", 1_500, 0) == _fold(old)["3/5-0/d@1"]
    assert Live("r", 0, 0) == _fold(_entry("retry.requested", "3/5-0/d@1"))["3/5-0/d@1"]


def test_attempts_of_later_events_are_left_to_the_group() -> None:
    later = _entry("attempt.failed", "1/6-0/d@1", "auto", retry_in_ms=1)
    assert {"1/5-0/d@1", "1/5-0/a/b@c@2"} == {*_fold(later, upto=(5, 9))}
    assert "2/6-0/d@1" in _fold(later, upto=(6, 0))


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.sampled_from(["auto", "none"])), max_size=20))
@pytest.mark.invariant("P8")
def test_how_deliveries_are_interleaved_does_not_matter(attempts: list[tuple[int, bool, str]]) -> None:
    """P8: each delivery's own order decides."""
    numbers: dict[str, int] = {}
    entries = []
    for event, first, following in attempts:
        place = f"{event}-0/{D if first else E}"
        numbers[place] = numbers.get(place, 0) + 1
        entries.append(_entry("attempt.failed", f"{numbers[place]}/{place}", following, retry_in_ms=1))
    results = []
    for order in (entries, sorted(entries, key=lambda entry: entry.task[1:])):
        fold = folds.Fold()
        for event in (1, 2, 3):
            fold.event(f"{event}-0", _event(D, E))
        for entry in order:
            fold.entry(1_000, entry)
        results.append(fold.tasks())
    assert results[0] == results[1]
