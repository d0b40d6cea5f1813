"""Trim and budget on real servers with everything running: what left the streams is still delivered, memory stays
flat, and what would not fit is refused while nothing is lost.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import Any, Self

import msgspec
import pytest

from outpost.dispatch import payloads, scheduler
from outpost.domain import events
from outpost.log import envelope, trim
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.queue import inprocess
from projections.logs import migrate, originals, projector, write
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
    """A process with every role: Node with log projection, trimmer and the reader of old events."""

    def __init__(
        self, redis: RedisServer, store: stores.Store, *, window_ms: int = AT_ONCE, **changes: Any
    ) -> None:
        super().__init__(redis, **changes)
        queue = inprocess.InProcessQueue(self.lanes)
        self.store = store
        self.old = payloads.OldEvents(self.log, queue, self.lanes, functools.partial(originals.events_at, store))
        watchdog_ms = self.settings.delivery_watchdog_ms
        self.scheduler = scheduler.Scheduler(self.log, queue, self.lanes, watchdog_ms, self.old)
        self.projector = projector.LogProjector(self.log, store, 1_000)
        self.trimmer = trim.Trimmer(self.log, [lambda: write.checkpoints(store)], window_ms)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        for part in (self.old, self.projector, self.trimmer):
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

    await eventually(empty, 15)


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
        await eventually(lambda: not node.old.health.healthy, 15)
        receiver.then(receivers.answer(500))
        await _events(node, "new1", "new2")  # the one that fails is tried again from the stream
        await eventually(lambda: nodes.count(receiver.requests).total() == 5, 15)
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
        found = await originals.events_at(store, wanted)
        expected = {p: msgspec.structs.replace(entries[p], version=0, by="", matched=()) for p in wanted[:2]}
        assert expected == found
        assert {} == await originals.events_at(store, [])


async def _has(store: stores.Store, at: positions.Position) -> bool:
    return bool(await originals.events_at(store, [at]))


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
        assert {at[0]: refused} == await originals.events_at(store, at)
