"""The role `delivery`: dispatcher, scheduler, workers and reactors, with the rules that the settings give them."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Sequence

from outpost.commands import destinations, writer
from outpost.dispatch import dispatcher, payloads, publishers, reactors, scheduler, senders, worker
from outpost.dispatch.fairness import lane, lanes
from outpost.domain import delivery
from outpost.log import clock
from outpost.log.delivery import tasks
from outpost.process import loops, queues
from outpost.process.roles import base
from outpost.settings import Settings
from projections.logs import trimmed_events

LANE_SHARE = 4  # a destination may hold this part of the send slots of a process at most
DOUBTFUL_SHARE = 2  # and all destinations that have not answered lately this one
TENANT_SLOTS_SHARE = 0.75  # one tenant may hold this part of the send slots, over all of its destinations
TENANT_DOUBTFUL_SHARE = 2  # and one in so many of those for destinations that have not answered lately
DOUBTFUL_FILL = 0.5  # which they fill in this part of a time-out at the fastest


class Delivery(base.Role):
    """The parts of the role."""

    def __init__(self, parts: base.Parts, memory: base.Memory) -> None:
        settings, log = parts.settings, parts.log
        self._alone = settings.service == "delivery"
        holder = uuid.uuid4().hex
        slots = settings.delivery_max_concurrency
        limits = senders.Limits(slots, settings.delivery_timeout_ms, settings.delivery_lease_margin_ms)
        self._publishers = publishers.Publishers(parts.types, parts.sealer)
        waiting = open_lanes(settings)
        redis_clock = clock.Clock()
        self._queue = queues.open_delivery_queue(settings, log, waiting, redis_clock, parts.namespace_id)
        writes = writer.Writer(log, memory.window)
        self._gone = reactors.Gone(destinations.Destinations(writes, parts.types, parts.sealer, settings))
        self._worker = worker.Worker(
            log, waiting, self._publishers, retry_policy(settings), limits, f"worker/{holder}", self._gone
        )
        watchdog_ms = settings.delivery_watchdog_ms
        self._dispatcher = dispatcher.Dispatcher(log, self._queue, waiting, watchdog_ms, holder, memory.budget)
        fetch = functools.partial(trimmed_events.events_at, parts.store)
        self._old = payloads.OldEvents(log, waiting, fetch)
        self._scheduler = scheduler.Scheduler(
            log, waiting, watchdog_ms, self._old, longest_scores(settings), redis_clock
        )

    async def prepare(self) -> list[str]:
        """Connects the delivery queue."""
        return await self._queue.prepare()

    def loops(self) -> Sequence[loops.Loop]:
        """At a stop, what waits is given back as soon as nothing more can join it: another process sends it at
        once."""
        send = functools.partial(self._worker.run, drain_s=loops.DRAIN_S)
        scheduling, reading = self._scheduler, self._dispatcher
        return (
            loops.Loop("worker", send, loops.SENDS, self._worker.health, then=self._release),
            loops.Loop("gone", self._gone.run, loops.PROJECTIONS),
            loops.Loop("old-events", self._old.run, loops.READS, self._old.health, required=False),
            loops.Loop("scheduler", scheduling.run, loops.CLAIMS, scheduling.health, then=self._release),
            loops.Loop("dispatcher", reading.run, loops.READS, reading.health, then=self._release),
            loops.Loop("delivery-queue", self._queue.run, loops.QUEUES, then=self._release),
            loops.Loop("publishers", self._publishers.run, loops.UPKEEP),
        )

    def obstacles(self) -> Sequence[str]:
        """A process that only delivers is not ready without its broker, so that a rollout with a wrong password
        stops."""
        return (self._queue.health.reason,) if self._alone and self._queue.state().away else ()

    def setbacks(self) -> Sequence[str]:
        """A broker that is away: deliveries go on in process."""
        return () if self.obstacles() else (self._queue.health.reason,)

    async def _release(self) -> None:
        async def both() -> None:
            await self._scheduler.release()
            await self._old.release()

        await loops.best_effort(both())

    async def close(self) -> None:
        """Closes the connections to destinations."""
        await self._publishers.close()


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
