"""Trim and budget on real servers with everything running: what left the streams is still delivered, memory stays
flat, and what would not fit is refused while nothing is lost.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Self

import msgspec
import pytest

from outpost import errors, telemetry
from outpost.commands import publish
from outpost.dispatch import payloads, scheduler
from outpost.domain import events
from outpost.log import append, budget, envelope
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.upkeep import trim, usage
from projections.logs import migrate, projector, trimmed_events, write
from projections.logs import store as stores
from tests.harness import node as nodes
from tests.harness import receiver as receivers
from tests.harness.node import Node
from tests.harness.polling import eventually
from tests.harness.servers import PostgresServer, RedisServer

TENANT = "acme"
P = partitions.partition_of(TENANT)
AT_ONCE = 1  # ms of window


class Whole(Node):
    """A process with every role: Node with log projection, trimmer, budget and the reader of old events."""

    def __init__(
        self, redis: RedisServer, store: stores.Store, *, window_ms: int = AT_ONCE, **changes: Any
    ) -> None:
        super().__init__(redis, **changes)
        self.store = store
        self.old = payloads.OldEvents(self.log, self.lanes, functools.partial(trimmed_events.events_at, store))
        watchdog_ms = self.settings.delivery_watchdog_ms
        self.scheduler = scheduler.Scheduler(self.log, self.lanes, watchdog_ms, self.old)
        self.projector = projector.LogProjector(self.log, store, 1_000)
        self.trimmer = trim.Trimmer(self.log, [lambda: write.checkpoints(store)], window_ms)
        self.budget = budget.Budget()
        window = append.Window(self.settings.publish_idempotency_ttl_ms)
        self.usage = usage.Watch(self.log, window, self.budget)
        self.commit = append.GroupCommit(self.log, window, self.budget)
        self.publisher = publish.Publisher(self.commit, self.cache)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        for part in (self.old, self.projector, self.trimmer, self.usage):
            self._tasks.append(asyncio.create_task(part.run(self._stop)))
        return self


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[stores.Store]:
    opened = await stores.open_store(postgres_url)
    await migrate.apply_pending(opened)
    yield opened
    await opened.close()


@pytest.fixture
async def receiver() -> AsyncIterator[receivers.Receiver]:
    async with receivers.Receiver() as running:
        yield running


async def _trimmed(node: Node) -> None:
    """Waits until `evt` is empty everywhere."""

    async def empty() -> bool:
        lengths = await node.log.pipeline([("XLEN", keys.evt) for keys in node.log.keys.partitions])
        return not any(lengths)

    await eventually(empty)


async def _events(node: Node, *ids: str) -> dict[str, positions.Position]:
    return {id_: (await node.publish(TENANT, id_)).position for id_ in ids}


async def test_a_retry_of_an_event_that_was_trimmed_sends_the_same_request(
    redis70: RedisServer, store: stores.Store, receiver: receivers.Receiver
) -> None:
    receiver.then(receivers.answer(500))
    async with Whole(redis70, store, retry_schedule_ms=(3_000,)) as node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        data = '{"b": 1.0, "a":"\\u00e4ä"}'.encode()
        await node.publish(TENANT, "e1", data, metadata={"b": "ü", "a": "1"})
        await _trimmed(node)
        assert 1 == len(receiver.requests)
        await nodes.quiet(node.log)
        first, second = receiver.requests
        assert data == first.body == second.body
        same = [name for name in first.headers if not name.endswith(("signature", "timestamp", "attempt"))]
        assert {name: first.headers[name] for name in same} == {name: second.headers[name] for name in same}
        node.alive()


async def test_without_postgres_only_retries_of_trimmed_events_wait(
    redis70: RedisServer,
    own_postgres: PostgresServer,
    receiver: receivers.Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(payloads, "DELAY_MS", 300)
    monkeypatch.setattr(payloads, "LIMIT_S", 0.5)
    opened = await stores.open_store(own_postgres.url_of(await own_postgres.create_database()))
    await migrate.apply_pending(opened)
    receiver.then(receivers.answer(500), receivers.answer(500))
    async with Whole(redis70, opened, retry_schedule_ms=(2_000,), delivery_watchdog_ms=20_000) as node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        await _events(node, "old1", "old2")
        await _trimmed(node)
        own_postgres.pause()
        await eventually(lambda: not node.old.health.healthy)
        receiver.then(receivers.answer(500))
        await _events(node, "new1", "new2")  # the one that fails is tried again from the stream
        await eventually(lambda: nodes.count(receiver.requests).total() == 5)
        assert {"old1": 1, "old2": 1} == {k: n for k, n in nodes.count(receiver.requests).items() if "old" in k}
        assert 2 == len(await nodes.due(node.log))
        own_postgres.resume()
        await nodes.quiet(node.log)
        assert {"old1": 2, "old2": 2} == {k: n for k, n in nodes.count(receiver.requests).items() if "old" in k}
        assert node.old.health.healthy
        node.alive()
    await opened.close()


async def test_events_are_read_back_as_they_were_accepted(redis70: RedisServer, store: stores.Store) -> None:
    async with Whole(redis70, store, window_ms=600_000, deliver=False) as node:
        await node.tenant(TENANT)
        at = await _events(node, "e1", "e2", "e3")
        assert await eventually(lambda: _has(store, at["e3"]))
        entries = {
            position: entry for position, entry in await nodes.entries(node.log, "evt") if position in at.values()
        }
        wanted = [at["e3"], at["e1"], positions.Position("evt", P, 5, 5)]
        found = await trimmed_events.events_at(store, wanted)
        expected = {p: msgspec.structs.replace(entries[p], version=0, by="", matched=()) for p in wanted[:2]}
        assert expected == found
        assert {} == await trimmed_events.events_at(store, [])


async def _has(store: stores.Store, at: positions.Position) -> bool:
    return bool(await trimmed_events.events_at(store, [at]))


async def test_an_event_that_postgres_refused_is_read_from_where_it_is_kept(
    redis70: RedisServer, store: stores.Store
) -> None:
    """A NUL in a text: Postgres has no row for it, and its deliveries go on."""
    async with Whole(redis70, store, window_ms=600_000, deliver=False) as node:
        refused = events.Event("acme", "e1", 1, "a\0b", nodes.TIME, True, {}, (), "admin/r", b'{"a":1}')
        key = node.log.keys.partitions[P].evt
        ids = [
            await node.log.command("XADD", key, "*", *envelope.encode_event(refused)),
            await node.log.command("XADD", key, "*", "t", "event.accepted", "v", 1),
        ]
        at = [positions.of_entry("evt", P, entry_id) for entry_id in ids]
        await eventually(lambda: _has(store, at[0]))
        assert {at[0]: refused} == await trimmed_events.events_at(store, at)


RUN_S = 22.0
WARM_S = 11.0  # until the first dedupe marks have gone: four halves of their window
LATE = 50  # events of which the first attempt fails, at least
LATE_MS = 7_000  # a retry that is due long after its event left the stream
ROOM = 20_000_000  # bytes of Redis beyond what an empty one takes


class Run:
    """Publishers that go as fast as they are let, and what became of their events."""

    def __init__(self, node: Whole) -> None:
        self._node = node
        self.accepted: list[tuple[float, str]] = []
        self.refused = 0
        self.memory: list[tuple[float, int]] = []

    async def publisher(
        self, tenant: str, number: int, until: float, pause_s: float = 0.0, least: int = 0
    ) -> None:
        """Publishes until the loop's time is `until` and `least` events were accepted."""
        loop, n = asyncio.get_running_loop(), 0
        while loop.time() < until or n < least:
            id_ = f"{tenant}.{number}.{n}"
            try:
                await self._node.publish(tenant, id_, b'{"a":"%0500d"}' % n)
                self.accepted.append((loop.time(), id_))
                n += 1
            except errors.OverBudget:
                self.refused += 1
                await asyncio.sleep(0.05)
            if pause_s:
                await asyncio.sleep(pause_s)

    async def sampler(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            info = await self._node.log.command("INFO", "memory")
            self.memory.append((loop.time(), int(info["used_memory"])))
            await asyncio.sleep(0.2)

    def most(self, first: float, last: float) -> int:
        """The most bytes of Redis between two times."""
        return max(used for at, used in self.memory if first <= at < last)

    def fastest(self, first: float, last: float) -> int:
        """The most events that were accepted within one second between two times."""
        return max(Counter(int(at - first) for at, _ in self.accepted if first <= at < last).values())


async def test_at_full_speed_with_a_short_window_memory_stays_flat_and_nothing_accepted_is_lost(
    own_redis: RedisServer, store: stores.Store, receiver: receivers.Receiver
) -> None:
    failed: set[str] = set()
    read = telemetry.counters["old_events.read"]

    def script(request: receivers.Request) -> receivers.Script:
        id_ = request.headers["x-outpost-event-id"]
        if request.target == "/late" and id_ not in failed:
            failed.add(id_)
            return receivers.answer(500)
        return receivers.answer()

    receiver.always(script)
    # No attempt is made twice because the first of them was slow.
    patient = {"delivery_timeout_ms": 30_000, "delivery_watchdog_ms": 90_000}
    changes = {"publish_idempotency_ttl_ms": 5_000, "retry_schedule_ms": (LATE_MS,), **patient}
    async with Whole(own_redis, store, window_ms=2_000, **changes) as node:
        info = await node.log.command("INFO", "memory")
        await node.log.command("CONFIG", "SET", "maxmemory", int(info["used_memory"]) + ROOM)
        for who in range(9):
            await node.tenant(f"tenant{who}")
            await node.webhook(f"tenant{who}", receiver.url("/late" if who == 8 else "/"))
        began = asyncio.get_running_loop().time()
        run, until = Run(node), began + RUN_S
        fast = [run.publisher(f"tenant{who}", lane, until) for who in range(8) for lane in range(8)]
        await asyncio.gather(*fast, run.publisher("tenant8", 0, until, 0.05, LATE), run.sampler(until))
        node.alive()
        await nodes.quiet(node.log)
        attempts = len(run.accepted) + len(failed)
        await _all_there(node, run, receiver, attempts)
        assert len(failed) >= LATE
        assert telemetry.counters["old_events.read"] > read
        warm, half = began + WARM_S, began + (WARM_S + RUN_S) / 2
        faster = max(1.0, run.fastest(half, until) / run.fastest(warm, half))  # what else the machine does may end
        assert run.most(half, until) < run.most(warm, half) * faster * 1.15
        await eventually(lambda: _accepts(node))


async def _accepts(node: Whole) -> bool:
    try:
        return bool(await node.publish("tenant0", "last"))
    except errors.OverBudget:
        return False


async def test_while_the_log_store_is_away_events_are_refused_in_time_and_accepted_again_afterwards(
    own_redis: RedisServer, own_postgres: PostgresServer, receiver: receivers.Receiver
) -> None:
    """Without it nothing can be trimmed, so that memory fills; deliveries go on all the while."""
    opened = await stores.open_store(own_postgres.url_of(await own_postgres.create_database()))
    await migrate.apply_pending(opened)
    async with Whole(own_redis, opened, window_ms=1_000, publish_idempotency_ttl_ms=2_000) as node:
        info = await node.log.command("INFO", "memory")
        await node.log.command("CONFIG", "SET", "maxmemory", int(info["used_memory"]) + 12_000_000)
        for who in range(8):
            await node.tenant(f"tenant{who}")
            await node.webhook(f"tenant{who}", receiver.url())
        loop = asyncio.get_running_loop()
        run, until = Run(node), loop.time() + 600
        publishers = [
            asyncio.create_task(run.publisher(f"tenant{w}", n, until)) for w in range(8) for n in range(4)
        ]
        await eventually(lambda: len(run.accepted) > 500)
        own_postgres.pause()
        busy = {partitions.partition_of(f"tenant{who}") for who in range(8)}
        await eventually(lambda: busy <= set(node.budget.refused))
        await eventually(lambda: run.refused > 0)
        await eventually(lambda: len(receiver.requests) >= len(run.accepted))
        before = len(run.accepted)
        own_postgres.resume()
        await eventually(lambda: len(run.accepted) > before + 500)
        for publisher in publishers:
            publisher.cancel()
        await asyncio.gather(*publishers, return_exceptions=True)
        node.alive()
        await nodes.quiet(node.log)
        await _all_there(node, run, receiver, len(receiver.requests))
    await opened.close()


async def _all_there(node: Whole, run: Run, receiver: receivers.Receiver, attempts: int) -> None:
    """Redis refused nothing; what was accepted was delivered, each attempt once, and all is in the log store."""
    stats = await node.log.command("INFO", "errorstats")
    assert not any("OOM" in name for name in stats)
    delivered = nodes.count(receiver.requests)
    assert {id_ for _, id_ in run.accepted} <= delivered.keys()
    assert attempts == delivered.total()
    await eventually(lambda: _rows(node.store, len(delivered), attempts))


async def _rows(store: stores.Store, events_: int, attempts: int) -> bool:
    """Whether the log store has as many, each once."""
    async with store.acquire() as connection:
        event = await connection.fetchrow("SELECT count(*), count(DISTINCT (tenant_id, event_id)) FROM event")
        attempt = await connection.fetchrow(
            "SELECT count(*), count(DISTINCT (tenant_id, event_id, attempt_number)) FROM attempt"
        )
    assert ((events_, events_), (attempts, attempts)) == (tuple(event), tuple(attempt))
    return True
