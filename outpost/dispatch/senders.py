"""The senders of a process: a fixed set of tasks that pulls what was begun, sends it and hands on the outcome.

Nothing is created per delivery. A publisher keeps its deadline itself; one that does not is cut off while the
lease still holds, because a send that never ends would keep its slot and its delivery for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from outpost import telemetry
from outpost.adapters import base
from outpost.dispatch import publishers
from outpost.domain import delivery
from outpost.queue import base as queues

SHORTEST_WATCH_S = 0.05
LONGEST_WATCH_S = 1.0


class Limits(msgspec.Struct, frozen=True):
    """`slots` sends at once in this process; a send has `timeout_ms`, its lease `margin_ms` more."""

    slots: int
    timeout_ms: int
    margin_ms: int


class Sending(msgspec.Struct):
    """A begun task on its way. `field` is the destination's state where `lease` is not of the current one."""

    task: queues.Task
    manual: bool
    field: bytes | None
    lease: publishers.Lease | None
    outcome: delivery.Outcome | None = None
    started_ms: int = 0
    took_ms: int = 0
    began: float = 0.0  # the loop's clock
    overdue: bool = False


class Senders:
    """`finished` is called with each sending that has its outcome. `watch` runs beside it, `close` ends all."""

    def __init__(self, opened: publishers.Publishers, limits: Limits, finished: Callable[[Sending], None]) -> None:
        self._publishers = opened
        self._limits = limits
        self._finished = finished
        self._begun: asyncio.Queue[Sending] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._idle = 0
        self._under_way: dict[asyncio.Task[None], Sending] = {}

    def put(self, sending: Sending) -> None:
        """Takes what was begun; `staff` afterwards."""
        self._begun.put_nowait(sending)

    def staff(self) -> None:
        """Enough senders for what waits; they stay."""
        wanted = min(self._begun.qsize() - self._idle, self._limits.slots - len(self._tasks))
        for _ in range(wanted):
            task = asyncio.create_task(self._loop())
            self._tasks.append(task)

    async def watch(self) -> None:
        """Cuts off what overran its deadline by half of the lease's margin; until cancelled."""
        margin_s = self._limits.margin_ms / 1000
        limit_s = self._limits.timeout_ms / 1000 + margin_s / 2
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(max(margin_s / 4, SHORTEST_WATCH_S), LONGEST_WATCH_S))
            edge = loop.time() - limit_s
            for task, sending in self._under_way.items():
                if sending.began < edge and not sending.overdue:
                    sending.overdue = True
                    task.cancel()

    async def close(self) -> None:
        """Cuts off what is under way: it is left to its lease, and stays live."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _loop(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        while True:
            self._idle += 1
            try:
                sending = await self._begun.get()
            finally:
                self._idle -= 1
            self._under_way[me] = sending
            try:
                await self._send(sending)
            except asyncio.CancelledError:
                if not sending.overdue or me.uncancel():
                    raise
                self._blame(sending, "Overdue")
                sending.outcome = delivery.Failed("timeout")
            finally:
                del self._under_way[me]
            sending.took_ms = round((asyncio.get_running_loop().time() - sending.began) * 1000)
            self._finished(sending)

    async def _send(self, sending: Sending) -> None:
        task = sending.task
        sending.began = asyncio.get_running_loop().time()
        sending.started_ms = time.time_ns() // 1_000_000
        try:
            if sending.lease is None:
                assert sending.field is not None
                sending.lease = await self._publishers.open(task.event.tenant, task.id.destination, sending.field)
            publisher = sending.lease.publisher
            if publisher is None:
                sending.outcome = delivery.Failed("ERR", {"error": sending.lease.problem})
            else:
                deadline = sending.began + self._limits.timeout_ms / 1000
                sending.outcome = (await publisher.send([_delivery(sending)], deadline))[0]
        except Exception as exc:  # noqa: BLE001 -- a fault of an adapter is a failed attempt, not a lost one
            self._blame(sending, type(exc).__name__)
            sending.outcome = delivery.Failed("ERR", {"error": "client_creation_failed"})

    def _blame(self, sending: Sending, kind: str) -> None:
        telemetry.emit_sampled("adapter_failed", "error", kind=kind, destination=sending.task.id.destination)


def _delivery(sending: Sending) -> base.Delivery:
    event = sending.task.event
    return base.Delivery(
        event_id=event.id,
        topic=event.topic,
        time=event.time,
        metadata=event.metadata,
        data=event.data,
        attempt=sending.task.id.attempt,
        manual=sending.manual,
    )
