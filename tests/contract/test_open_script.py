"""`open`: out of the pending list and into `due`, once."""

from __future__ import annotations

import pytest

from outpost import errors
from outpost.domain import events
from outpost.log import partition as partitions
from outpost.log import read
from outpost.log.delivery import tasks
from outpost.log.redis import client
from tests.contract import worlds

WATCHDOG_MS = 30_000
D, E = events.Matched("d", 1), events.Matched("e/f@g", 2)


async def _open(log: client.Log, *openings: tasks.Opening) -> list[bool]:
    return (await tasks.open_entries(log, {worlds.P: openings}, WATCHDOG_MS))[worlds.P]


async def _read_one(log: client.Log, consumer: str, *matched: events.Matched) -> tasks.Opening:
    """An event, published and read by the consumer."""
    await worlds.regroup(log)
    entry_id = await worlds.publish(log, "e1", *matched)
    [found] = await read.as_group(log, consumer, 10, block_ms=0)
    assert entry_id == found.position.entry_id
    return tasks.Opening(entry_id, tuple(f"1/{entry_id}/{m}" for m in matched))


async def _pending(log: client.Log) -> int:
    reply = await log.command("XPENDING", log.keys.partitions[worlds.P].evt, partitions.GROUP)
    return int(reply[0])


async def test_opening_acknowledges_and_makes_every_first_attempt_live(
    log: client.Log, clock: worlds.Clock
) -> None:
    await clock.set(worlds.NOW)
    opening = await _read_one(log, "d0", D, E)
    assert 1 == await _pending(log)
    assert [True] == await _open(log, opening)
    assert 0 == await _pending(log)
    assert dict.fromkeys(opening.tasks, float(worlds.NOW + WATCHDOG_MS)) == await worlds.due(log)


@pytest.mark.invariant("D1")
async def test_of_two_dispatchers_that_hold_an_entry_one_hands_it_over(log: client.Log) -> None:
    opening = await _read_one(log, "d0", D)
    _, claimed = await read.claim_idle(log, worlds.P, "d1", 0, 10)
    assert [opening.entry_id] == [found.position.entry_id for found in claimed]
    assert [True] == await _open(log, opening)
    assert [False] == await _open(log, opening)


@pytest.mark.invariant("D4")
async def test_a_late_opening_never_brings_a_recorded_delivery_back(log: client.Log) -> None:
    opening = await _read_one(log, "d0", D)
    await _open(log, opening)
    assert await worlds.record(log, opening.tasks[0], succeeded=True) is not None
    assert [False] == await _open(log, opening)
    assert {} == await worlds.due(log)


async def test_an_entry_without_matches_is_acknowledged_and_leaves_nothing(log: client.Log) -> None:
    opening = await _read_one(log, "d0")
    assert [True] == await _open(log, opening)
    assert (0, {}) == (await _pending(log), await worlds.due(log))


async def test_a_batch_answers_each_entry_on_its_own(log: client.Log) -> None:
    opening = await _read_one(log, "d0", D)
    strange = tasks.Opening("1-1", ("1/1-1/d@1",))
    assert [False, True, False] == await _open(log, strange, opening, opening)
    assert [*opening.tasks] == [*await worlds.due(log)]


async def test_nothing_is_opened_where_the_group_is_missing(log: client.Log) -> None:
    entry_id = await worlds.publish(log, "e1", D)
    assert [False] == await _open(log, tasks.Opening(entry_id, (f"1/{entry_id}/d@1",)))
    assert {} == await worlds.due(log)


async def test_an_event_with_a_thousand_matches_is_opened_at_once(log: client.Log) -> None:
    opening = await _read_one(log, "d0", *(events.Matched(f"d{n}", 1) for n in range(1_000)))
    assert [True] == await _open(log, opening)
    assert 1_000 == len(await worlds.due(log))


@pytest.mark.invariant("D1")
@pytest.mark.parametrize(
    "behind",
    [
        ["no-id", 0],
        ["99999999999999999999999-0", 0],
        ["5-0", "many"],
        ["5-0", 3, "1/5-0/d@1"],
        ["5-0", -1],
        ["5-0"],
    ],
    ids=["id", "id beyond 64 bits", "count", "too few tasks", "negative count", "no count"],
)
async def test_what_is_acknowledged_before_a_malformed_entry_is_live(
    log: client.Log, behind: list[client.Arg]
) -> None:
    opening = await _read_one(log, "d0", D)
    keys = log.keys.partitions[worlds.P]
    args: list[client.Arg] = [partitions.GROUP, WATCHDOG_MS, opening.entry_id, 1, *opening.tasks, *behind]
    with pytest.raises(errors.StoreUnavailable):
        await log.call(tasks._OPEN, [((keys.evt, keys.due), args)])
    assert (0, {*opening.tasks}) == (await _pending(log), {*await worlds.due(log)})


@pytest.mark.invariant("D1")
async def test_a_schedule_of_another_type_acknowledges_nothing(log: client.Log) -> None:
    opening = await _read_one(log, "d0", D)
    due = log.keys.partitions[worlds.P].due
    await log.command("SET", due, "no sorted set")
    with pytest.raises(errors.StoreUnavailable):
        await _open(log, opening)
    assert 1 == await _pending(log)
    await log.command("DEL", due)
    assert [True] == await _open(log, opening)
