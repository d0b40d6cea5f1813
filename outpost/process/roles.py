"""What a process is made of: the parts of each role, built from the settings and wired together.

`api` is HTTP and config catch-up, `delivery` the dispatcher, workers and scheduler, `log` the log projector
with its table partitions; `all` is every role in one process. Starting and stopping them is `supervise`'s.
"""

from __future__ import annotations

import functools
import time
import uuid

from outpost import crypto
from outpost.adapters import registry as registries
from outpost.api import app as api
from outpost.api import publish as publish_route
from outpost.commands import destinations, publish, writer
from outpost.dispatch import dispatcher, payloads, publishers, reactors, scheduler, senders, worker
from outpost.dispatch.fairness import lane, lanes
from outpost.domain import delivery
from outpost.log import append, budget
from outpost.log.delivery import tasks
from outpost.log.redis import client
from outpost.log.upkeep import leadership, trim, usage
from outpost.queue import inprocess
from outpost.settings import Settings
from projections.config import cache, catch_up
from projections.logs import projector, store, trimmed_events, write

LANE_SHARE = 4  # a destination may hold this part of the send slots of a process at most
DOUBTFUL_SHARE = 2  # and all destinations that have not answered lately this one
TENANT_SLOTS_SHARE = 0.75  # one tenant may hold this part of the send slots, over all of its destinations
TENANT_DOUBTFUL_SHARE = 2  # and one in so many of those for destinations that have not answered lately
DOUBTFUL_FILL = 0.5  # which they fill in this part of a time-out at the fastest


class Memory:
    """What a process that publishes or delivers knows of the memory of Redis."""

    def __init__(self, settings: Settings, log: client.Log) -> None:
        self.window = append.Window(settings.publish_idempotency_ttl_ms)
        self.budget = budget.Budget(settings.redis_memory_budget_bytes)
        self.usage = usage.Watch(log, self.window, self.budget)


class Delivery:
    """The parts of the role `delivery`."""

    def __init__(
        self,
        settings: Settings,
        log: client.Log,
        target: store.Store,
        types: registries.Registry,
        sealer: crypto.Sealer,
        memory: Memory,
    ) -> None:
        holder = uuid.uuid4().hex
        slots = settings.delivery_max_concurrency
        limits = senders.Limits(slots, settings.delivery_timeout_ms, settings.delivery_lease_margin_ms)
        self.publishers = publishers.Publishers(types, sealer)
        self.lanes = open_lanes(settings)
        self.queue = inprocess.InProcessQueue(self.lanes)
        writes = writer.Writer(log, memory.window)
        self.gone = reactors.Gone(destinations.Destinations(writes, types, sealer, settings))
        self.worker = worker.Worker(
            log, self.lanes, self.publishers, retry_policy(settings), limits, f"worker/{holder}", self.gone
        )
        self.dispatcher = dispatcher.Dispatcher(
            log, self.queue, self.lanes, settings.delivery_watchdog_ms, holder, memory.budget
        )
        self.old = payloads.OldEvents(log, self.lanes, functools.partial(trimmed_events.events_at, target))
        self.scheduler = scheduler.Scheduler(
            log, self.lanes, settings.delivery_watchdog_ms, self.old, longest_scores(settings)
        )

    async def release(self) -> None:
        """Gives back every task that waits in this process. Raises errors.StoreUnavailable."""
        await self.scheduler.release()
        await self.old.release()


class Api:
    """The parts of the role `api`. `health` tells how the loops of this process are."""

    def __init__(
        self,
        settings: Settings,
        log: client.Log,
        target: store.Store,
        types: registries.Registry,
        sealer: crypto.Sealer,
        health: api.Health,
        memory: Memory,
    ) -> None:
        writes = writer.Writer(log, memory.window)
        self.budget = memory.budget
        self.commit = append.GroupCommit(log, memory.window, memory.budget)
        self.config = catch_up.ConfigProjector(log)
        deps = api.Deps(
            settings=settings,
            log=log,
            writer=writes,
            destinations=destinations.Destinations(writes, types, sealer, settings),
            publisher=publish.Publisher(self.commit, cache.TenantCache(log)),
            registry=types,
            sealer=sealer,
            store=target,
            health=health,
            now_ms=now_ms,
        )
        self.app = api.build(deps)
        self.in_place = publish_route.InPlace(deps)


class Projection:
    """The parts of the role `log`."""

    def __init__(self, settings: Settings, log: client.Log, target: store.Store) -> None:
        self.store = target
        self.projector = projector.LogProjector(log, target, settings.log_batch_size)
        self.turn = leadership.Turn(log, "log")
        self.trimmer = trim.Trimmer(log, [lambda: write.checkpoints(target)], settings.stream_retention_ms)

    async def give_back(self) -> None:
        """Lets another process project and trim at once. Raises errors.StoreUnavailable."""
        await self.turn.give_back()
        await self.trimmer.give_back()


def open_lanes(settings: Settings) -> lanes.Lanes:
    """The lanes of a process, with the shares that a destination and a tenant have of its send slots."""
    slots = settings.delivery_max_concurrency
    return lanes.Lanes(
        max(1, slots // LANE_SHARE),
        doubtful=max(1, slots // DOUBTFUL_SHARE),
        fill_s=settings.delivery_timeout_ms / 1000 * DOUBTFUL_FILL,
        tenant_slots=max(1, int(slots * TENANT_SLOTS_SHARE)),
        tenant_doubtful=max(1, slots // DOUBTFUL_SHARE // TENANT_DOUBTFUL_SHARE),
    )


def retry_policy(settings: Settings) -> delivery.RetryPolicy:
    """When a failed attempt is followed by another."""
    return delivery.RetryPolicy(
        interval_ms=settings.retry_interval_ms,
        max_retries=settings.retry_max_limit,
        schedule_ms=settings.retry_schedule_ms,
        jitter=settings.retry_jitter,
        retry_after_max_ms=settings.retry_after_max_ms,
    )


def longest_scores(settings: Settings) -> tasks.Longest:
    """How far away a task can be that was not scored by a clock that was ahead."""
    return tasks.Longest(
        delay_ms=max(retry_policy(settings).longest_ms, settings.delivery_watchdog_ms, lane.MAX_DELAY_MS),
        lease_ms=settings.delivery_timeout_ms + settings.delivery_lease_margin_ms,
    )


def now_ms() -> int:
    """The clock of this process: Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def open_log(settings: Settings) -> client.Log:
    """The log of this deployment; connects at the first command."""
    address = client.RedisAddress(
        host=settings.redis_host,
        port=settings.redis_port,
        username=settings.redis_username or None,
        password=settings.redis_password or None,
        database=settings.redis_database,
        tls=settings.redis_tls_enabled,
        unix_socket=settings.redis_unix_socket or None,
    )
    return client.open_log(address, settings.deployment_id)
