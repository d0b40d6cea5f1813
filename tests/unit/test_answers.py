"""The allowance of a connection: bytes that were asked for, and few that were not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost.adapters.shared import answers


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_was_not_asked_for_is_bounded_and_grows_back_with_time():
    clock = Clock()
    allowance = answers.Allowance(100, bytes_per_s=10, clock=clock)
    allowance.take(100)
    with pytest.raises(answers.AnswerTooLarge):
        allowance.take(1)
    clock.now = 3.0
    allowance.take(30)
    with pytest.raises(answers.AnswerTooLarge):
        allowance.take(1)


def test_growing_back_stops_at_the_base():
    clock = Clock()
    allowance = answers.Allowance(100, bytes_per_s=10, clock=clock)
    allowance.take(100)
    clock.now = 1_000_000.0
    allowance.take(100)
    with pytest.raises(answers.AnswerTooLarge):
        allowance.take(1)


def test_what_a_request_lends_is_gone_with_it():
    allowance = answers.Allowance(100)
    allowance.lend(1_000)
    allowance.take(1_100)
    allowance.settle(1_000)
    with pytest.raises(answers.AnswerTooLarge):
        allowance.take(1)


@given(st.lists(st.integers(0, 10_000), max_size=50))
def test_requests_that_are_over_leave_no_more_than_the_base(lent: list[int]):
    allowance = answers.Allowance(100)
    for count in lent:
        allowance.lend(count)
    for count in lent:
        allowance.settle(count)
    assert allowance.left <= 100


def test_the_reason_is_found_through_what_libraries_wrap_around_it():
    try:
        try:
            raise answers.AnswerTooLarge(7)
        except OSError as inner:
            raise RuntimeError("broken") from inner
    except RuntimeError as exc:
        told = answers.reason(exc)
    assert (
        "answer_too_large",
        "the service answered with more than the 7 bytes that are read from it here",
    ) == told


def test_another_failure_has_no_such_reason():
    circle = RuntimeError()
    circle.__context__ = ValueError()
    circle.__context__.__context__ = circle
    assert answers.reason(circle) is None
