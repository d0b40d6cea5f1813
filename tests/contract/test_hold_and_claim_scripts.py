"""`hold` and `claim_due`: when a task comes back, and to whom."""

from __future__ import annotations

import pytest

from outpost.log import append
from outpost.log import partition as partitions
from outpost.log.delivery import tasks
from outpost.log.redis import client
from tests.contract import worlds

ONE, TWO, THREE = (f"{n}/5-0/d@1" for n in (1, 2, 3))


@pytest.fixture(autouse=True)
async def world(log: client.Log, clock: worlds.Clock) -> None:
    await clock.set(worlds.NOW)


async def _claim(log: client.Log, most: int = 100) -> tasks.Claimed:
    return (await tasks.claim_due(log, 30_000, most, [worlds.P]))[worlds.P]


def _told(claimed: tasks.Claimed) -> tuple[list[str], float | None]:
    """Without the time, which is that of the server."""
    return claimed.tasks, claimed.next_in_ms


async def test_holding_pushes_the_watchdog_and_giving_back_makes_it_now(log: client.Log) -> None:
    await worlds.make_due(log, a1=worlds.NOW + 5, a2=worlds.NOW + 99_000)
    assert set() == await tasks.hold(log, {worlds.P: [ONE, TWO]}, 30_000)
    assert {ONE: worlds.NOW + 30_000, TWO: worlds.NOW + 30_000} == await worlds.due(log)
    assert set() == await tasks.hold(log, {worlds.P: [ONE]}, 0)
    assert {ONE: worlds.NOW, TWO: worlds.NOW + 30_000} == await worlds.due(log)


async def test_holding_names_what_is_not_the_caller_s_and_leaves_it_alone(log: client.Log) -> None:
    await worlds.make_due(log, a1=worlds.NOW + 5, a2=worlds.NOW + 10_000.5)
    assert {(worlds.P, TWO), (worlds.P, THREE)} == await tasks.hold(log, {worlds.P: [ONE, TWO, THREE]}, 30_000)
    assert {ONE: worlds.NOW + 30_000, TWO: worlds.NOW + 10_000.5} == await worlds.due(log)


@pytest.mark.parametrize("count", [1, 1_000, 1_001, 4_001, 8_100])
async def test_any_number_of_tasks_is_held_by_one_call(log: client.Log, count: int) -> None:
    """A function of Lua takes less than 8,000 arguments."""
    tasks_ = [f"{n}/5-0/d@1" for n in range(1, count + 1)]
    for first in range(0, count, 500):
        scored = [each for task in tasks_[first : first + 500 : 2] for each in (1, task)]
        await log.command("ZADD", log.keys.partitions[worlds.P].due, *scored)
    assert {(worlds.P, task) for task in tasks_[1::2]} == await tasks.hold(log, {worlds.P: tasks_}, 30_000)
    assert dict.fromkeys(tasks_[::2], worlds.NOW + 30_000) == await worlds.due(log)


async def test_any_number_of_tasks_is_claimed_by_one_call(log: client.Log) -> None:
    tasks_ = [f"{n}/5-0/d@1" for n in range(1, 8_101)]
    await log.command("ZADD", log.keys.partitions[worlds.P].due, *(each for task in tasks_ for each in (1, task)))
    assert sorted(tasks_) == (await _claim(log, 9_000)).tasks


async def test_a_lease_that_ended_is_not_held_either_because_it_is_to_be_claimed(log: client.Log) -> None:
    await worlds.make_due(log, a1=worlds.NOW - 4_000.5)
    assert {(worlds.P, ONE)} == await tasks.hold(log, {worlds.P: [ONE]}, 30_000)
    assert {ONE: worlds.NOW - 4_000.5} == await worlds.due(log)


async def test_holding_works_on_many_partitions_at_once(log: client.Log) -> None:
    other = (worlds.P + 1) % partitions.PARTITIONS
    await worlds.make_due(log, a1=1)
    assert {(other, ONE)} == await tasks.hold(log, {worlds.P: [ONE], other: [ONE]}, 30_000)


async def test_what_is_due_is_claimed_in_its_order_and_comes_back_when_the_watchdog_ends(
    log: client.Log,
) -> None:
    await worlds.make_due(log, a1=worlds.NOW, a2=worlds.NOW - 7.5, a3=worlds.NOW + 1)
    assert ([TWO, ONE], 1.0) == _told(await _claim(log))
    expected = {ONE: worlds.NOW + 30_000, TWO: worlds.NOW + 30_000, THREE: worlds.NOW + 1}
    assert expected == await worlds.due(log)


async def test_a_claimed_lease_is_no_lease_any_more_and_may_begin(log: client.Log) -> None:
    await worlds.show(log, worlds.destination())
    await worlds.make_due(log, a1=worlds.NOW - 0.5)
    await _claim(log)
    assert isinstance((await worlds.begin(log, ONE))[0], tasks.Begun)


async def test_a_running_lease_and_a_later_retry_are_not_claimed_and_the_next_is_told(log: client.Log) -> None:
    await worlds.make_due(log, a1=worlds.NOW + 0.5, a2=worlds.NOW + 60_000)
    assert ([], 0.5) == _told(await _claim(log))


async def test_nothing_waits_in_an_empty_partition(log: client.Log) -> None:
    assert ([], None) == _told(await _claim(log))


async def test_at_most_so_many_are_claimed_and_the_rest_is_due_at_once(log: client.Log) -> None:
    await worlds.make_due(log, a1=worlds.NOW - 3, a2=worlds.NOW - 2, a3=worlds.NOW - 1)
    assert ([ONE, TWO], -1.0) == _told(await _claim(log, most=2))
    assert [THREE] == (await _claim(log)).tasks


async def test_five_thousand_are_claimed_in_one_call(log: client.Log) -> None:
    key = log.keys.partitions[worlds.P].due
    await log.pipeline([("ZADD", key, 1, f"1/{n}-0/d@1") for n in range(5_000)])
    assert 5_000 == len((await _claim(log, most=5_000)).tasks)


async def test_of_two_that_claim_each_task_goes_to_one(log: client.Log) -> None:
    await worlds.make_due(log, a1=1, a2=2, a3=3)
    first, second = await _claim(log, most=2), await _claim(log, most=2)
    assert [ONE, TWO, THREE] == first.tasks + second.tasks


FAR = tasks.Longest(delay_ms=60_000, lease_ms=10_000)


async def test_a_retry_that_a_clock_which_was_ahead_put_days_away_is_claimed_at_once(log: client.Log) -> None:
    ten_days = worlds.NOW + 864_000_000
    await worlds.make_due(log, a1=ten_days, a2=worlds.NOW + 60_000, a3=worlds.NOW + 60_001)
    claimed = (await tasks.claim_due(log, 30_000, 100, [worlds.P], FAR))[worlds.P]
    assert {ONE, THREE} == {*claimed.tasks}
    assert 30_000 == claimed.next_in_ms
    expected = {ONE: worlds.NOW + 30_000, TWO: worlds.NOW + 60_000, THREE: worlds.NOW + 30_000}
    assert expected == await worlds.due(log)


@pytest.mark.invariant("D9")
async def test_a_lease_that_a_clock_which_was_ahead_put_days_away_ends_like_another(
    log: client.Log, clock: worlds.Clock
) -> None:
    """Its holder may still send, so that it is not claimed before a lease can have ended."""
    await worlds.make_due(log, a1=worlds.NOW + 864_000_000.5)
    assert [] == (await tasks.claim_due(log, 30_000, 100, [worlds.P], FAR))[worlds.P].tasks
    assert {ONE: worlds.NOW + 10_000.5} == await worlds.due(log)
    await clock.advance(10_001)
    assert [ONE] == (await tasks.claim_due(log, 30_000, 100, [worlds.P], FAR))[worlds.P].tasks


async def test_as_many_that_are_too_far_away_are_claimed_as_are_due(log: client.Log) -> None:
    scores = {f"{name}{n}": worlds.NOW + far for n in (1, 2, 3) for name, far in (("a", 0), ("b", 864_000_000))}
    await worlds.make_due(log, **scores)
    claimed = (await tasks.claim_due(log, 30_000, 2, [worlds.P], FAR))[worlds.P]
    assert 4 == len(claimed.tasks)


async def test_all_partitions_are_asked_in_one_round_trip(log: client.Log) -> None:
    claimed = await tasks.claim_due(log, 30_000, 10)
    assert dict.fromkeys(range(partitions.PARTITIONS), ([], None)) == {p: _told(c) for p, c in claimed.items()}


async def test_a_batch_of_nothing_is_answered_with_nothing(log: client.Log) -> None:
    assert set() == await tasks.hold(log, {worlds.P: []}, 30_000)
    assert {worlds.P: []} == await tasks.begin(log, {worlds.P: []}, {worlds.P: 1}, 1_000, "w")
    assert {worlds.P: []} == await tasks.record(log, {worlds.P: []}, "w")
    assert {worlds.P: []} == await append.append(log, "evt", {worlds.P: []}, worlds.window())


async def test_each_task_that_is_put_aside_has_its_own_delay(log: client.Log) -> None:
    await worlds.make_due(log, a1=1, b1=1)
    first, second = worlds.task_of("a1"), worlds.task_of("b1")
    assert set() == await tasks.put_aside(log, {worlds.P: [(first, 5_000), (second, 60_000)]})
    assert {first: worlds.NOW + 5_000, second: worlds.NOW + 60_000} == await worlds.due(log)
