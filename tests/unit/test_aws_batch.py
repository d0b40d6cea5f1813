"""Events in calls of a bounded number and size, and what becomes of a call that is refused as a whole."""

from __future__ import annotations

import asyncio

import hypothesis
from hypothesis import strategies

from outpost.adapters import codes
from outpost.adapters.aws import batch as aws_batch
from outpost.adapters.aws import client as aws_client
from outpost.domain import delivery

LIMITS = aws_batch.Limits(entries=3, bytes=10)
SENT = delivery.Delivered("OK")


class Service:
    """Takes everything but the `bad` values, for whose sake it refuses a whole call."""

    def __init__(self, *bad: int, request: bool = True) -> None:
        self.calls: list[list[int]] = []
        self._bad = bad
        self._request = request

    async def ask(self, values: aws_batch.Values) -> list[delivery.Outcome] | aws_client.Refusal:
        numbers = [int(value["n"]) for value in values]
        self.calls.append(numbers)
        if set(numbers) & set(self._bad):
            return aws_client.Refusal(codes.failed(codes.Code.ERR, "one of them"), self._request)
        return [SENT] * len(values)


def _entries(*sizes: int) -> list[aws_batch.Entry | delivery.Failed]:
    return [aws_batch.Entry({"n": number}, size) for number, size in enumerate(sizes)]


async def test_what_fits_goes_in_one_call():
    service = Service()
    assert [SENT] * 3 == await aws_batch.send(_entries(3, 3, 4), LIMITS, service.ask)
    assert [[0, 1, 2]] == service.calls


async def test_a_call_has_no_more_entries_and_bytes_than_the_service_takes():
    service = Service()
    assert [SENT] * 6 == await aws_batch.send(_entries(6, 6, 1, 1, 1, 10), LIMITS, service.ask)
    assert [[0], [1, 2, 3], [4], [5]] == service.calls


async def test_an_event_that_no_call_can_hold_is_not_asked_for():
    service = Service()
    first, second = await aws_batch.send(_entries(11, 10), LIMITS, service.ask)
    assert isinstance(first, delivery.Failed)
    assert ("message_too_large", False) == (first.code, first.retryable)
    assert SENT == second
    assert [[1]] == service.calls


async def test_what_could_not_be_written_keeps_its_place_and_its_outcome():
    service = Service()
    made = [codes.UNFORMATTED, *_entries(1)]
    assert [codes.UNFORMATTED, SENT] == await aws_batch.send(made, LIMITS, service.ask)


async def test_one_event_for_which_a_call_is_refused_fails_alone():
    service = Service(1)
    outcomes = await aws_batch.send(_entries(1, 1, 1), LIMITS, service.ask)
    assert ["OK", "ERR", "OK"] == [outcome.code for outcome in outcomes]
    assert [[0, 1, 2], [0], [1, 2], [1], [2]] == service.calls


async def test_a_refusal_that_has_nothing_to_do_with_the_events_is_not_asked_again():
    service = Service(1, request=False)
    outcomes = await aws_batch.send(_entries(1, 1, 1), LIMITS, service.ask)
    assert ["ERR"] * 3 == [outcome.code for outcome in outcomes]
    assert [[0, 1, 2]] == service.calls


@hypothesis.given(strategies.lists(strategies.integers(1, LIMITS.bytes), max_size=30))
def test_calls_keep_the_order_leave_nothing_out_and_keep_to_the_limits(sizes: list[int]):
    calls = aws_batch.parted(dict(enumerate(sizes)), LIMITS)
    assert list(range(len(sizes))) == [place for call in calls for place in call]
    assert all(0 < len(call) <= LIMITS.entries for call in calls)
    assert all(sum(sizes[place] for place in call) <= LIMITS.bytes for call in calls)


async def test_where_events_have_to_stay_in_order_one_call_goes_after_the_other():
    service = Service(2)
    told: list[str] = []

    async def ask(values: aws_batch.Values) -> list[delivery.Outcome] | aws_client.Refusal:
        told.append("asked")
        await asyncio.sleep(0)
        answered = await service.ask(values)
        told.append("answered")
        return answered

    outcomes = await aws_batch.send(_entries(6, 6, 1, 1, 10), LIMITS, ask, in_order=True)
    assert ["OK", "OK", "ERR", "OK", "OK"] == [outcome.code for outcome in outcomes]
    assert ["asked", "answered"] * (len(told) // 2) == told
    assert [0, 1, 3, 4] == [number for call in service.calls if 2 not in call for number in call]
