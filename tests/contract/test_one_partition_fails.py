"""The trouble of one partition is that of its own tenants: what goes out for several has an outcome for each."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from outpost import crypto, errors
from outpost.adapters import registry
from outpost.dispatch import dispatcher, publishers, scheduler, senders, worker
from outpost.dispatch.fairness import lanes
from outpost.domain import delivery, events
from outpost.log import append
from outpost.log import partition as partitions
from outpost.log.delivery import tasks
from outpost.log.redis import client
from outpost.queue import base as queues
from outpost.queue import inprocess
from outpost.settings import Settings
from projections.config import catch_up
from tests.contract import worlds
from tests.harness.polling import eventually

WELL = worlds.P
OTHER = next(f"t{n}" for n in range(100) if partitions.partition_of(f"t{n}") != WELL)
BROKEN = partitions.partition_of(OTHER)
TEXT = "1/5-0/d@1"


def _event(tenant: str) -> events.Event:
    return events.Event(tenant, "e1", 1, "t", "2026-09-21T14:13:20.400Z", True, {}, (), "", b"{}")


def _tasks() -> list[queues.Task]:
    """One of each partition."""
    task = delivery.parse_task_id(TEXT)
    return [queues.Task(WELL, TEXT, task, _event(worlds.TENANT)), queues.Task(BROKEN, TEXT, task, _event(OTHER))]


def _worker(log: client.Log, among: lanes.Lanes) -> worker.Worker:
    opened = publishers.Publishers(registry.build(Settings()), crypto.Sealer("secret"))
    return worker.Worker(log, among, opened, delivery.RetryPolicy(), senders.Limits(10, 1_000, 500), "worker/w")


async def _break(log: client.Log, key: str) -> None:
    """Nothing can be done with this key until `_mend`."""
    await log.command("RENAMENX", key, f"{key}.kept") if await log.command("EXISTS", key) else None
    await log.command("SET", key, "not what it should be")


async def _mend(log: client.Log, key: str) -> None:
    await log.command("DEL", key)
    await log.command("RENAME", f"{key}.kept", key) if await log.command("EXISTS", f"{key}.kept") else None


async def test_an_event_that_is_in_the_log_is_not_refused_for_one_of_another_partition(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append, "APPEND_LIMIT_S", 0.2)
    await _break(log, log.keys.partitions[BROKEN].evt)
    commit = append.GroupCommit(log, worlds.window())
    both = [(WELL, worlds.item("e1")), (BROKEN, worlds.item("e2", tenant=OTHER))]
    waiting = [commit.put(partition, item) for partition, item in both]
    running = asyncio.create_task(commit.run())
    well, broken = await asyncio.gather(*waiting, return_exceptions=True)
    commit.close()
    await running
    assert isinstance(well, append.Appended)
    assert isinstance(broken, errors.StoreUnavailable)
    assert 1 == await log.command("XLEN", log.keys.partitions[WELL].evt)


async def test_a_partition_that_was_full_for_a_moment_is_not_tried_for_the_others(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a partition was answered stays, while another one is tried again."""
    tries: list[list[int]] = []
    real = client.Log.call_each

    async def refused_once(self: client.Log, script: Any, calls: Any, read_: Any) -> Any:
        tries.append(list(calls))
        if len(tries) > 1:
            return await real(self, script, calls, read_)
        outcome = await real(self, script, {WELL: calls[WELL]}, read_)
        outcome.failed[BROKEN] = errors.StoreUnavailable("redis", "ConnectionResetError")
        return outcome

    monkeypatch.setattr(client.Log, "call_each", refused_once)
    batches = {WELL: [worlds.item("e1")], BROKEN: [worlds.item("e2", tenant=OTHER)]}
    answers = await append.append(log, "evt", batches, worlds.window())
    assert [[WELL, BROKEN], [BROKEN]] == tries
    assert {WELL, BROKEN} == {p for p, [answer] in answers.items() if isinstance(answer, append.Appended)}


async def test_what_other_partitions_opened_is_handed_over_and_the_rest_once_it_can_be(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "REFUSED_PAUSE_S", 0.05)
    among = lanes.Lanes(10)
    made = dispatcher.Dispatcher(log, inprocess.InProcessQueue(among), among, 60_000, "h")
    await made.step(1)
    match = events.Matched("d", 1)
    real = client.Log.call_each

    async def refused(self: client.Log, script: Any, calls: Any, read_: Any) -> Any:
        if script.name != "open":
            return await real(self, script, calls, read_)
        outcome = await real(self, script, {p: call for p, call in calls.items() if p != BROKEN}, read_)
        outcome.failed = {p: errors.StoreFull("redis", "its memory is used up") for p in calls if p == BROKEN}
        return outcome

    monkeypatch.setattr(client.Log, "call_each", refused)
    await worlds.publish(log, "e1", match)
    await worlds.publish(log, "e2", match, tenant=OTHER)
    stop = asyncio.Event()
    running = asyncio.create_task(made.run(stop))
    await eventually(lambda: {WELL: 1} == {p: len(texts) for p, texts in among.held().items()})
    await eventually(lambda: not made.health.healthy)
    await worlds.publish(log, "e3", match)
    await eventually(lambda: {WELL: 2} == {p: len(texts) for p, texts in among.held().items()})
    monkeypatch.setattr(client.Log, "call_each", real)
    await eventually(lambda: {WELL: 2, BROKEN: 1} == {p: len(texts) for p, texts in among.held().items()})
    await eventually(lambda: made.health.healthy)
    stop.set()
    await running


async def test_other_partitions_are_recorded_and_the_rest_once_it_can_be(log: client.Log) -> None:
    among = lanes.Lanes(10)
    made = _worker(log, among)
    for partition in (WELL, BROKEN):
        await log.command("ZADD", log.keys.partitions[partition].due, 1e15, TEXT)
    await _break(log, log.keys.partitions[BROKEN].due)
    among.receive(_tasks())
    for task in among.take(2):
        made._free -= 1
        made._finish(senders.Sending(task, False, None, None, delivery.Delivered("200")))
    recording = asyncio.create_task(made._record_loop())
    await eventually(lambda: 1 == made.in_flight)
    assert 1 == await log.command("XLEN", log.keys.partitions[WELL].dlv)
    await _mend(log, log.keys.partitions[BROKEN].due)
    await eventually(lambda: 0 == made.in_flight)
    assert 1 == await log.command("XLEN", log.keys.partitions[BROKEN].dlv)
    recording.cancel()


async def test_other_partitions_are_claimed_from(log: client.Log) -> None:
    entry_id = await worlds.publish(log, "e1", events.Matched("d", 1))
    await log.command("ZADD", log.keys.partitions[WELL].due, 1, f"2/{entry_id}/d@1")
    await _break(log, log.keys.partitions[BROKEN].due)
    among = lanes.Lanes(10)
    made = scheduler.Scheduler(log, among, 60_000)
    await made.step()
    assert {WELL: [f"2/{entry_id}/d@1"]} == among.held()


@pytest.mark.parametrize("kind", ["halted", "broken"])
async def test_other_partitions_begin_while_one_cannot(log: client.Log, kind: str) -> None:
    """One whose read model is halted, or whose keys are not what they should be. Its tasks come back by `due`."""
    await worlds.show(log, worlds.destination())
    keys = log.keys.partitions[BROKEN]
    for partition in (WELL, BROKEN):
        await log.command("ZADD", log.keys.partitions[partition].due, 1e15, TEXT)
    if kind == "halted":
        await log.command("XADD", keys.cfg, "*", "t", "nothing that is known")
        with pytest.raises(errors.Halted):
            await catch_up.to_head(log, BROKEN)
    else:
        await _break(log, keys.gen)
        await log.command("DEL", keys.gen)
        await log.command("HSET", keys.gen, "a", "b")
    among = lanes.Lanes(10)
    made = _worker(log, among)
    among.receive(_tasks())
    stop = asyncio.Event()
    beginning = asyncio.create_task(made._begin_loop(stop))
    await eventually(lambda: 1 == made.in_flight and not len(among))
    assert made.health.healthy
    stop.set()
    among.wake()
    await beginning
    score = float(await log.command("ZSCORE", log.keys.partitions[WELL].due, TEXT))
    assert 0.5 == score % 1  # it was begun
    seconds, _ = await log.command("TIME")
    back_ms = float(await log.command("ZSCORE", keys.due, TEXT)) - int(seconds) * 1000
    assert 0 < back_ms <= worker.LATER_MS + 60_000


async def test_a_partition_that_is_asked_for_raises_its_own_error(log: client.Log) -> None:
    await _break(log, log.keys.partitions[BROKEN].due)
    claimed = await tasks.claim_due(log, 1, 1)
    assert {BROKEN} == {*claimed.failed}
    assert ([], None) == (claimed[WELL].tasks, claimed[WELL].next_in_ms)
    with pytest.raises(errors.StoreUnavailable):
        claimed[BROKEN]
    with pytest.raises(errors.StoreUnavailable):
        claimed.whole()
