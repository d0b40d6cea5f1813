"""The memory budget: who is refused when, what is measured, and that nothing is half written (R3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from outpost import errors
from outpost.commands import matching, publish
from outpost.dispatch import dispatcher
from outpost.dispatch.fairness import lanes
from outpost.domain import events
from outpost.log import append, budget, read
from outpost.log import partition as partitions
from outpost.log.delivery import tasks
from outpost.log.redis import client
from outpost.log.upkeep import usage
from outpost.queue import inprocess
from tests.contract import worlds
from tests.contract.worlds import P
from tests.harness.servers import RedisServer

MB = 1_000_000
ALL = (1 << partitions.PARTITIONS) - 1
D = events.Matched("d", 1)


def used(*, each: int = 0, server: int = 0, maxmemory: int = 0, **of: int) -> budget.Usage:
    """`each` bytes in every partition, but in those named as `p3`."""
    sizes = [of.get(f"p{p}", each) for p in range(partitions.PARTITIONS)]
    return budget.Usage(tuple(sizes), server, maxmemory)


@pytest.mark.parametrize(
    ("usage_", "limit", "before", "refused"),
    [
        (used(each=9 * MB, server=900 * MB), 0, 0, 0),
        (used(each=9 * MB), 160 * MB, 0, 0),
        (used(p3=119 * MB), 160 * MB, 0, 0),
        (used(p3=120 * MB), 160 * MB, 0, 1 << 3),
        (used(each=8 * MB, p3=12 * MB), 160 * MB, 0, 1 << 3),
        (used(each=10 * MB), 160 * MB, 0, ALL),
        (used(p3=160 * MB), 160 * MB, 0, ALL),
        (used(each=9.6 * MB), 160 * MB, ALL, ALL),
        (used(each=9.4 * MB), 160 * MB, ALL, 0),
        (used(p3=115 * MB), 160 * MB, 1 << 3, 1 << 3),
        (used(p3=113 * MB), 160 * MB, 1 << 3, 0),
        (used(each=1 * MB, server=79 * MB, maxmemory=100 * MB), 0, 0, 0),
        (used(each=1 * MB, server=80 * MB, maxmemory=100 * MB), 0, 0, ALL),
        (used(each=1 * MB, p0=6 * MB, server=60 * MB, maxmemory=100 * MB), 0, 0, 1),
        (used(each=1 * MB, server=80 * MB, maxmemory=100 * MB), 500 * MB, 0, ALL),
    ],
    ids=[
        "no limit at all",
        "within its share",
        "more than its share, and room",
        "more than its share, under pressure",
        "the others go on under pressure",
        "all of it",
        "all of it by one",
        "still near the limit",
        "well below it again",
        "a share, still near",
        "a share, well below again",
        "the server has room",
        "the server has none",
        "the server is under pressure",
        "the server wins over a larger budget",
    ],
)
def test_who_is_refused(usage_: budget.Usage, limit: int, before: int, refused: int) -> None:
    assert refused == budget.judge(usage_, limit, before).refused


def test_a_process_admits_half_of_what_is_left_before_the_next_look() -> None:
    gate = budget.Budget(160 * MB)
    assert gate.admits(3, 10_000 * MB)  # nobody has looked yet
    gate.judge(used(p3=110 * MB))
    assert gate.admits(3, 20 * MB)
    assert not gate.admits(3, 10 * MB)
    assert not gate.admits(4, 0)
    gate.judge(used(p3=125 * MB))
    assert (False, True) == (gate.admits(3, 0), gate.admits(4, 0))
    assert [3] == gate.refused
    gate.judge(used())
    assert gate.admits(3, 0)
    assert [] == gate.refused


async def test_an_event_over_budget_is_refused_without_asking_redis(log: client.Log) -> None:
    gate = budget.Budget(160 * MB)
    commit = append.GroupCommit(log, worlds.window(), gate)
    running = asyncio.create_task(commit.run())
    gate.judge(used(**{f"p{P}": 125 * MB}))
    with pytest.raises(errors.OverBudget):
        await commit.append(P, worlds.item("e1"))
    other = next(f"t{n}" for n in range(100) if partitions.partition_of(f"t{n}") != P)
    answer = await commit.append(partitions.partition_of(other), worlds.item("e1", tenant=other))
    assert isinstance(answer, append.Appended)
    gate.judge(used())
    assert isinstance(await commit.append(P, worlds.item("e1")), append.Appended)
    assert 1 == len(await read.between(log, "evt", P))
    commit.close()
    await running


async def _counted(log: client.Log) -> int:
    info = await log.command("INFO", "memory")
    return int(info["used_memory"])


async def test_the_estimate_is_what_the_server_says_give_or_take_a_sixth(log: client.Log) -> None:
    window = worlds.window(3_600_000)
    await worlds.regroup(log)
    before, empty = await _counted(log), await usage.measure(log, window, [0] * 16)
    for n in range(0, 6_000, 500):
        items = [
            worlds.item(f"e{n + i}", f"r{n + i}", matched=(D,), data=b'{"a":"%0400d"}' % i) for i in range(500)
        ]
        await append.append(log, "evt", {P: items}, window)
    keys = log.keys.partitions[P]
    await log.pipeline([("ZADD", keys.due, n, f"1/{n}-0/d@1") for n in range(2_000)])
    grown = sum((await usage.measure(log, window, [0] * 16)).partitions) - sum(empty.partitions)
    assert abs(grown / (await _counted(log) - before) - 1) < 1 / 6


async def test_the_tenants_of_the_read_model_count(log: client.Log) -> None:
    keys = log.keys.partitions[P]
    names = [keys.tenant(1, f"t{n}") for n in range(300)]
    for n, key in enumerate(names):
        await log.pipeline(
            [("HSET", key, "version", 1, "d:x", "y" * 2_000), ("ZADD", keys.tenants(1), n, f"t{n}")]
        )
    exact = sum(await log.pipeline([("MEMORY", "USAGE", key, "SAMPLES", 0) for key in (*names, keys.tenants(1))]))
    watch = usage.Watch(log, worlds.window(), budget.Budget())
    assert abs((await watch.look()).partitions[P] / exact - 1) < 0.02


async def test_an_empty_log_takes_nothing_and_is_measured_all_the_same(log: client.Log) -> None:
    found = await usage.Watch(log, worlds.window(), budget.Budget()).look()
    assert (0,) * partitions.PARTITIONS == found.partitions
    assert 0 < found.server


@pytest.fixture
async def small(log: client.Log) -> AsyncIterator[client.Log]:
    """A server with room for 24 MB beyond what it has now."""
    await worlds.regroup(log)
    await log.command("CONFIG", "SET", "maxmemory", await _counted(log) + 24 * MB)
    await log.command("CONFIG", "RESETSTAT")
    yield log
    await log.command("CONFIG", "SET", "maxmemory", 0)


@pytest.mark.invariant("R3")
async def test_publishers_are_refused_before_the_server_refuses_and_what_was_accepted_is_there(
    small: client.Log,
) -> None:
    """R3: as fast as they can, with payloads of 10 kB, from processes that each look once a second."""
    accepted: list[str] = []
    refused = 0

    async def process(who: int) -> None:
        nonlocal refused
        gate, window = budget.Budget(), worlds.window()
        watch, commit = usage.Watch(small, window, gate), append.GroupCommit(small, window, gate)
        stop = asyncio.Event()
        running = [asyncio.create_task(watch.run(stop)), asyncio.create_task(commit.run())]
        await watch.look()

        async def publisher(number: int) -> None:
            nonlocal refused
            for n in range(200):
                id_ = f"{who}.{number}.{n}"
                try:
                    data = b'{"a":"%010000d"}' % n
                    item = worlds.item(id_, f"admin/{id_}", data=data, matched=(D,))
                    wanted = append.Item(
                        item.tenant, item.mark, item.request, item.fields, payload_bytes=len(data)
                    )
                    assert isinstance(await commit.append(P, wanted), append.Appended)
                    accepted.append(id_)
                except errors.OverBudget:
                    refused += 1
                    await asyncio.sleep(0.02)

        await asyncio.gather(*(publisher(n) for n in range(16)))
        commit.close()
        stop.set()
        await asyncio.gather(*running)

    await asyncio.gather(process(1), process(2))
    stats = await small.command("INFO", "errorstats")
    assert not any("OOM" in name for name in stats)
    found = [entry.id for entry in await worlds.entries(small, "evt") if isinstance(entry, events.Event)]
    assert sorted(accepted) == sorted(found)
    assert refused > 0
    assert len(accepted) > 600  # room for about 1,900 up to four fifths


async def test_attempts_are_recorded_while_events_are_refused(small: client.Log, any_redis: RedisServer) -> None:
    gate, window = budget.Budget(), worlds.window()
    watch = usage.Watch(small, window, gate)
    n = 0
    while not gate.refused:
        data = b'{"a":"%0100000d"}' % n
        await worlds.append_items(small, worlds.item(f"e{n}", f"r{n}", data=data))
        await watch.look()
        n += 1
    await worlds.make_due(small, a1=1)
    assert await worlds.record(small, worlds.task_of("a1"), retry_in_ms=5) is not None


WIDE = tuple(events.Matched(f"des_{n:022d}", n) for n in range(2_000))


def test_tasks_are_made_live_up_to_an_eighth_beyond_the_limit() -> None:
    gate = budget.Budget(160 * MB)
    assert gate.opens(10_000 * MB)  # nobody has looked yet
    gate.judge(used(each=10 * MB))
    assert [*range(partitions.PARTITIONS)] == gate.refused
    assert (True, True, False) == (gate.opens(9 * MB), gate.opens(5 * MB), gate.opens(1))
    gate.judge(used(each=11.25 * MB))
    assert not gate.opens(1)
    gate.judge(used(each=11 * MB))
    assert gate.opens(100 * MB)  # one call may pass the bound, or a large event would never go through


async def test_an_event_counts_with_its_metadata_its_matches_and_their_tasks(log: client.Log) -> None:
    """What is counted before it is written is what Redis takes for it then, for what an event may have most of."""
    keys, count = log.keys.partitions[P], 20
    await worlds.regroup(log)
    for metadata, matched in (({"k": "v" * 200_000}, ()), ({}, WIDE)):
        before, counted = await _counted(log), 0
        for n in range(count):
            request = matching.Publish(
                worlds.TENANT, f"e{len(matched)}-{n}", "t", "2026-09-21T14:13:20.400Z", b"{}", metadata=metadata
            )
            item = publish._item(request, 0, matched, f"admin/{n}")
            counted += item.payload_bytes + item.fan_out_bytes + budget.ENTRY_BYTES
            await append.append(log, "evt", {P: [item]}, worlds.window())
        found = await read.as_group(log, "d0", count, block_ms=0, among=[P])
        for each in found:
            entry_id = each.position.entry_id
            opening = tasks.Opening(entry_id, tuple(f"1/{entry_id}/{m}" for m in matched))
            await tasks.open_entries(log, {P: [opening]}, 30_000)
        assert count * len(matched) == await log.command("ZCARD", keys.due)
        assert 0.8 < counted / (await _counted(log) - before) < 1.4  # Valkey takes less


async def test_nothing_is_acknowledged_or_made_live_where_redis_is_out_of_memory(small: client.Log) -> None:
    entry_id = await worlds.publish(small, "e1", D)
    await read.as_group(small, "d0", 10, block_ms=0, among=[P])
    opening = tasks.Opening(entry_id, (f"1/{entry_id}/d@1",))
    await small.command("CONFIG", "SET", "maxmemory", 1 * MB)
    with pytest.raises(errors.StoreUnavailable):
        (await tasks.open_entries(small, {P: [opening]}, 30_000)).checked()
    assert {} == await worlds.due(small)
    await small.command("CONFIG", "SET", "maxmemory", 0)
    assert [True] == (await tasks.open_entries(small, {P: [opening]}, 30_000))[P]


async def test_what_the_budget_kept_from_being_opened_goes_on_by_itself(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "REFUSED_PAUSE_S", 0.0)
    await worlds.regroup(log)
    gate, among = budget.Budget(160 * MB), lanes.Lanes(10)
    made = dispatcher.Dispatcher(log, inprocess.InProcessQueue(among), among, 60_000, "h", gate)
    await made.step(0)
    gate.judge(used(each=20 * MB))
    for n in range(3):
        await worlds.publish(log, f"e{n}", D)
    for _ in range(4):
        assert 0 == await made.step(0)
    assert ({}, 3) == (
        await worlds.due(log),
        (await log.command("XPENDING", log.keys.partitions[P].evt, "dispatch"))[0],
    )
    gate.judge(used())
    assert 3 == await made.step(0)
    assert 3 == len(await worlds.due(log))
