"""Tasks whose events left the stream: handed over when the events are had, put off when they are not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from outpost import errors
from outpost.dispatch import payloads
from outpost.dispatch.fairness import lanes
from outpost.domain import events
from outpost.log import position as positions
from outpost.log.redis import client
from outpost.queue import base
from tests.contract import worlds
from tests.contract.worlds import P
from tests.harness.polling import eventually

EVENT = events.Event("acme", "e1", 0, "t", "2026-09-21T14:13:20.400Z", True, {}, (), "", b"{}")
AT = positions.Position("evt", P, 5, 0)
TASK = worlds.task_of("a1")


class Received(lanes.Lanes):
    """Lanes that keep what they were given."""

    def __init__(self) -> None:
        super().__init__(10)
        self.tasks: list[base.Task] = []

    def receive(self, tasks: Sequence[base.Task]) -> None:
        self.tasks += tasks


class Store:
    """A log store that has `events`, or fails; `asked` are the positions it was asked for."""

    def __init__(self, event: events.Event | None = None) -> None:
        self.events = {} if event is None else {AT: event}
        self.failure: Exception | None = None
        self.asked: list[list[positions.Position]] = []

    async def fetch(self, wanted: Sequence[positions.Position]) -> Mapping[positions.Position, events.Event]:
        self.asked.append(list(wanted))
        if self.failure is not None:
            raise self.failure
        return {at: self.events[at] for at in wanted if at in self.events}


@contextlib.asynccontextmanager
async def running(log: client.Log, store: Store) -> AsyncIterator[tuple[payloads.OldEvents, Received]]:
    received, stop = Received(), asyncio.Event()
    old = payloads.OldEvents(log, received, store.fetch)
    task = asyncio.create_task(old.run(stop))
    yield old, received
    stop.set()
    await asyncio.wait_for(task, 60)


@pytest.fixture
async def now(log: client.Log) -> int:
    """TASK and another of the same event are in `due`, claimed until much later; the ms of Redis."""
    seconds, _ = await log.command("TIME")
    await worlds.make_due(log, a1=int(seconds) * 1000 + 3_600_000, b1=int(seconds) * 1000 + 3_600_000)
    return int(seconds) * 1000


async def test_tasks_of_one_event_are_handed_over_after_one_look_at_it(log: client.Log, now: int) -> None:
    store = Store(EVENT)
    async with running(log, store) as (old, received):
        old.ask([(P, TASK), (P, worlds.task_of("b1")), (P, TASK)])
        await eventually(lambda: len(received.tasks) == 2)
    assert [[AT]] == store.asked
    assert {TASK, worlds.task_of("b1")} == {task.text for task in received.tasks}
    assert [("e1", 1), ("e1", 1)] == [(task.event.id, task.event.version) for task in received.tasks]


@pytest.mark.parametrize("failure", [errors.StoreUnavailable("postgres", "x"), TimeoutError()])
async def test_while_the_store_is_away_all_that_wait_are_put_off_a_little(
    log: client.Log, now: int, failure: Exception
) -> None:
    store = Store(EVENT)
    store.failure = failure
    async with running(log, store) as (old, received):
        old.ask([(P, TASK), (P, worlds.task_of("b1"))])
        await eventually(lambda: not old.health.healthy)
        await eventually(lambda: _sooner(log, now))
        assert old.health.reason.startswith("postgres")
        store.failure = None
        old.ask([(P, TASK)])
        await eventually(lambda: received.tasks)
        await eventually(lambda: old.health.healthy)


async def _sooner(log: client.Log, now: int) -> bool:
    return all(score < now + 60_000 for score in (await worlds.due(log)).values())


async def test_a_task_whose_event_nobody_has_stays_as_it_is(log: client.Log, now: int) -> None:
    before = await worlds.due(log)
    async with running(log, Store()) as (old, received):
        old.ask([(P, TASK)])
        await eventually(lambda: not old._waiting)
    assert ([], before) == (received.tasks, await worlds.due(log))


async def test_a_halted_partition_puts_off_its_own_tasks_only(log: client.Log, now: int) -> None:
    await log.command("XADD", log.keys.partitions[P].cfg, "1-0", "t", "nonsense")
    other = (P + 1) % 16
    there = positions.Position("evt", other, 5, 0)
    store = Store(EVENT)
    store.events[there] = EVENT
    await log.command("ZADD", log.keys.partitions[other].due, now + 3_600_000, TASK)
    async with running(log, store) as (old, received):
        old.ask([(P, TASK), (other, TASK)])
        await eventually(lambda: received.tasks)
        await eventually(lambda: _put_off(log, now))
    assert [other] == [task.partition for task in received.tasks]
    assert now + 3_600_000 == (await worlds.due(log, other))[TASK]


async def _put_off(log: client.Log, now: int) -> bool:
    return (await worlds.due(log))[TASK] < now + 60_000


async def test_no_more_wait_than_fit_and_full_lanes_are_waited_for(
    log: client.Log, now: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payloads, "MOST", 1)
    monkeypatch.setattr(payloads, "FULL_PAUSE_S", 0.01)
    monkeypatch.setattr(lanes, "MOST_TASKS", 0)
    store = Store(EVENT)
    async with running(log, store) as (old, received):
        old.ask([(P, TASK), (P, worlds.task_of("b1"))])
        await asyncio.sleep(0)
        assert ([], [(P, TASK)]) == (store.asked, list(old._waiting))
        monkeypatch.setattr(lanes, "MOST_TASKS", 10)
        await eventually(lambda: received.tasks)
    assert [TASK] == [task.text for task in received.tasks]
