"""How far behind the readers of the log are, on real servers and a clock of the test's own."""

from __future__ import annotations

import pytest

from outpost.domain import events
from outpost.log import position as positions
from outpost.log import read
from outpost.log.delivery import tasks
from outpost.log.redis import client
from outpost.log.upkeep import lag
from tests.contract import worlds
from tests.contract.worlds import P

D = events.Matched("d", 1)


class Later:
    """Sets the clock of the script to some time after an entry."""

    def __init__(self, log: client.Log) -> None:
        self._log = log

    async def than(self, entry_id: str, ms: int) -> None:
        await self._log.command("SET", worlds.CLOCK_KEY, positions.entry_key(entry_id)[0] + ms)


@pytest.fixture
def later(log: client.Log, monkeypatch: pytest.MonkeyPatch) -> Later:
    monkeypatch.setattr(lag, "_SCRIPT", worlds.with_clock(lag._SCRIPT))
    return Later(log)


async def test_nothing_is_behind_in_an_empty_log(log: client.Log) -> None:
    assert lag.Lag() == await lag.measure(log, {})
    await worlds.regroup(log)
    assert lag.Lag() == await lag.measure(log, {})


async def test_an_event_counts_until_it_is_opened(log: client.Log, later: Later) -> None:
    await worlds.regroup(log)
    entry_id = await worlds.publish(log, "e1")
    await later.than(entry_id, 1_000)
    assert lag.Lag(1_000) == await lag.measure(log)
    await read.as_group(log, "d0", 10, block_ms=0)
    assert lag.Lag(1_000) == await lag.measure(log)
    await tasks.open_entries(log, {P: [tasks.Opening(entry_id, ())]}, 30_000)
    assert lag.Lag() == await lag.measure(log)


async def test_without_a_group_every_event_waits(log: client.Log, later: Later) -> None:
    await later.than(await worlds.publish(log, "e1"), 7_000)
    await worlds.publish(log, "e2")
    assert lag.Lag(7_000) == await lag.measure(log)


async def test_a_task_counts_from_when_it_was_due(log: client.Log, later: Later) -> None:
    await worlds.make_due(log, a1=50_000, b1=60_000, c1=70_000.5)
    await later.than("40000-0", 0)
    assert lag.Lag() == await lag.measure(log)
    await later.than("55000-0", 0)
    assert lag.Lag(5_000) == await lag.measure(log)


async def test_an_entry_counts_until_it_is_projected(log: client.Log, later: Later) -> None:
    await worlds.regroup(log)
    first, second = await worlds.publish(log, "e1"), await worlds.publish(log, "e2")
    for entry_id in (first, second):
        await tasks.open_entries(log, {P: [tasks.Opening(entry_id, ())]}, 30_000)
    await later.than(first, 2_000)
    start = positions.entry_key(second)[0] - positions.entry_key(first)[0]
    assert 2_000 == (await lag.measure(log, {})).projection
    assert 2_000 - start == (await lag.measure(log, {("evt", P): positions.entry_key(first)})).projection
    assert 0 == (await lag.measure(log, {("evt", P): positions.entry_key(second)})).projection
    assert 0 == (await lag.measure(log)).projection
    await worlds.make_due(log, a1=positions.entry_key(first)[0] + 60_000)
    record = await worlds.record(log, worlds.task_of("a1"), succeeded=True)
    assert record is not None
    await later.than(record.entry_id, 3_000)
    assert 3_000 == (await lag.measure(log, {("evt", P): positions.entry_key(second)})).projection
