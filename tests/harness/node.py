"""The delivery path of one process, wired by hand in the test's own loop: commands, publish, dispatch, delivery.

`async with Node(redis) as node:` runs it; several on one server are several processes that share the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import uuid
from collections import Counter
from typing import Any, Self

import msgspec

from outpost import crypto, errors
from outpost.adapters import registry
from outpost.commands import actor, destinations, publish, tenants, writer
from outpost.dispatch import dispatcher, publishers, reactors, scheduler, senders, worker
from outpost.dispatch.fairness import lanes
from outpost.domain import events
from outpost.log import append, envelope, read
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.redis import client
from outpost.process.roles import delivery as delivery_role
from outpost.queue import inprocess
from outpost.settings import Settings
from projections.config import cache
from tests.harness.polling import LIMIT_S, eventually
from tests.harness.servers import RedisServer

SECRET = "secret-of-the-tests"
SETTINGS = Settings(
    aes_encryption_secret=SECRET,
    destinations_allowed_cidrs=("127.0.0.0/8",),
    delivery_timeout_ms=1_000,
    delivery_lease_margin_ms=500,
    delivery_watchdog_ms=3_000,
    delivery_max_concurrency=64,
    retry_schedule_ms=(100, 200),
)
TIME = "2026-09-21T14:13:20.400Z"
_numbers = itertools.count(1)


class Node:
    """One process. Without `deliver` it commands and publishes only."""

    def __init__(self, redis: RedisServer, *, deliver: bool = True, drain_s: float = 5.0, **changes: Any) -> None:
        self.settings = settings = msgspec.structs.replace(SETTINGS, **changes)
        self.log = client.open_log(client.RedisAddress(redis.host, redis.port))
        self.types = registry.build(settings)
        sealer = crypto.Sealer(settings.aes_encryption_secret)
        window = append.Window(settings.publish_idempotency_ttl_ms)
        self.writer = writer.Writer(self.log, window)
        self.destinations = destinations.Destinations(self.writer, self.types, sealer, settings)
        self.commit = append.GroupCommit(self.log, window)
        self.cache = cache.TenantCache(self.log)
        self.publisher = publish.Publisher(self.commit, self.cache)
        slots = settings.delivery_max_concurrency
        self.lanes = lanes.Lanes(  # destinations that have not answered yet are not held back
            max(1, slots // delivery_role.LANE_SHARE),
            tenant_slots=max(1, int(slots * delivery_role.TENANT_SLOTS_SHARE)),
        )
        self.publishers = publishers.Publishers(self.types, sealer)
        queue = inprocess.InProcessQueue(self.lanes)
        holder = uuid.uuid4().hex
        limits = senders.Limits(
            settings.delivery_max_concurrency, settings.delivery_timeout_ms, settings.delivery_lease_margin_ms
        )
        policy = delivery_role.retry_policy(settings)
        self.gone = reactors.Gone(self.destinations)
        self.worker = worker.Worker(
            self.log, self.lanes, self.publishers, policy, limits, f"worker/{holder}", self.gone
        )
        watchdog_ms = settings.delivery_watchdog_ms
        self.dispatcher = dispatcher.Dispatcher(self.log, queue, self.lanes, watchdog_ms, holder)
        self.scheduler = scheduler.Scheduler(self.log, self.lanes, watchdog_ms)
        self._deliver = deliver
        self._drain_s = drain_s
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> Self:
        self._tasks.append(asyncio.create_task(self.commit.run()))
        if self._deliver:
            self._tasks += [
                asyncio.create_task(self.worker.run(self._stop, self._drain_s)),
                asyncio.create_task(self.dispatcher.run(self._stop)),
                asyncio.create_task(self.scheduler.run(self._stop)),
                asyncio.create_task(self.gone.run(self._stop)),
            ]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Ends it in good order; raises what a part of it raised. Harmless when repeated."""
        self.commit.close()
        self._stop.set()
        tasks, self._tasks = self._tasks, []
        if tasks:
            await asyncio.wait(tasks, timeout=60.0)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await self.publishers.close()
        await self.types.close()
        await self.log.close()
        for outcome in ended:
            if isinstance(outcome, BaseException):
                raise outcome

    def alive(self) -> None:
        """Fails if one of the background tasks has ended."""
        for task in self._tasks:
            if task.done():
                task.result()
                raise AssertionError(f"{task} ended")

    async def tenant(self, tenant: str) -> None:
        await tenants.put(self.writer, new_actor(), tenant, None, now_ms())

    async def webhook(self, tenant: str, url: str, id_: str | None = None, **form: Any) -> str:
        """Creates a webhook destination; its id."""
        values: dict[str, Any] = {"type": "webhook", "topics": ["*"], "config": {"url": url}} | form
        id_ = id_ or f"des_{next(_numbers)}"
        wanted = destinations.DestinationForm(now_ms(), id=id_, **values)
        await self.destinations.create(new_actor(), tenant, wanted)
        return id_

    async def patch(self, tenant: str, id_: str, **form: Any) -> None:
        await self.destinations.patch(new_actor(), tenant, id_, destinations.DestinationForm(now_ms(), **form))

    async def disable(self, tenant: str, id_: str) -> None:
        await self.destinations.set_disabled(new_actor(), tenant, id_, now_ms())

    async def enable(self, tenant: str, id_: str) -> None:
        await self.destinations.set_disabled(new_actor(), tenant, id_, None)

    async def delete(self, tenant: str, id_: str) -> None:
        await self.destinations.delete(new_actor(), tenant, id_)

    async def publish(
        self, tenant: str, id_: str, data: bytes = b'{"a":1}', *, by: actor.Actor | None = None, **changes: Any
    ) -> publish.Published:
        request = publish.Publish(tenant, id_, changes.pop("topic", "user.created"), TIME, data, **changes)
        return await self.publisher.publish(by or new_actor(), request)


def new_actor() -> actor.Actor:
    return actor.Actor("admin", f"req{next(_numbers)}")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def entries(log: client.Log, stream: partitions.Stream) -> list[Any]:
    """Every entry of a stream over all partitions, decoded; (position, entry)."""
    found: list[Any] = []
    for p in range(partitions.PARTITIONS):
        found += [
            (item.position, envelope.decode(stream, str(item.position), item.fields))
            for item in await read.between(log, stream, p)
        ]
    return found


async def attempts(log: client.Log) -> list[events.DeliveryEntry]:
    """Everything in `dlv`, by position."""
    return [entry for _, entry in sorted(await entries(log, "dlv"), key=lambda e: e[0][2:])]


async def due(log: client.Log) -> dict[str, float]:
    """Every live task with its score."""
    found: dict[str, float] = {}
    for keys in log.keys.partitions:
        flat = await log.command("ZRANGE", keys.due, 0, -1, "WITHSCORES")
        found |= {task.decode(): float(score) for task, score in zip(flat[::2], flat[1::2], strict=True)}
    return found


async def pending(log: client.Log) -> int:
    """Entries that were read and not opened."""
    total = 0
    for keys in log.keys.partitions:
        if await log.command("EXISTS", keys.evt):
            with contextlib.suppress(errors.GroupMissing):
                total += (await log.command("XPENDING", keys.evt, partitions.GROUP))[0]
    return total


async def unread(log: client.Log) -> bool:
    """Whether an entry of `evt` was never given to the group."""
    for keys in log.keys.partitions:
        if not await log.command("EXISTS", keys.evt):
            continue
        groups = await log.command("XINFO", "GROUPS", keys.evt)
        if not groups:
            return True
        info = await log.command("XINFO", "STREAM", keys.evt)
        if positions.entry_key(groups[0]["last-delivered-id"]) < positions.entry_key(info["last-generated-id"]):
            return True
    return False


async def quiet(log: client.Log, limit: float = LIMIT_S) -> None:
    """Waits until every event was read and opened and no task lives."""

    async def nothing_left() -> bool:
        return not await unread(log) and not await pending(log) and not await due(log)

    await eventually(nothing_left, limit)


def count(requests: list[Any]) -> Counter[str]:
    """How often a receiver saw each event id."""
    return Counter(request.headers["x-outpost-event-id"] for request in requests)
