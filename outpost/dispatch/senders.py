"""The senders of a process: a fixed set of tasks that pulls what was begun, sends it and hands on the outcome.

Nothing is created per delivery. What waits for one publisher goes out together, as far as its service takes
batches; nothing waits for a batch to fill. A publisher keeps its deadline itself; one that does not is cut off
while the lease still holds, because a send that never ends would keep its slot and its delivery for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

import msgspec

from outpost import telemetry
from outpost.adapters import base
from outpost.dispatch import publishers
from outpost.domain import delivery
from outpost.queue import base as queues

SHORTEST_WATCH_S = 0.05
LONGEST_WATCH_S = 1.0
FAULTY = delivery.Failed("ERR", {"error": "client_creation_failed"})


class Limits(msgspec.Struct, frozen=True):
    """`slots` sends at once in this process; a send has `timeout_ms`, its lease `margin_ms` more."""

    slots: int
    timeout_ms: int
    margin_ms: int


class Sending(msgspec.Struct):
    """A begun task on its way. `field` is the destination's state where `lease` is not of the current one,
    `before` how many manual attempts the delivery had."""

    task: queues.Task
    manual: bool
    field: bytes | None
    lease: publishers.Lease | None
    outcome: delivery.Outcome | None = None
    started_ms: int = 0
    took_ms: int = 0
    began: float = 0.0  # the loop's clock
    before: int = 0


class _Waiting(msgspec.Struct):
    """What waits for one publisher that takes batches, or for one to be opened (`lease` is None). It stands
    in the queue once, however much that is."""

    key: object
    lease: publishers.Lease | None
    sendings: deque[Sending]


class _Group(msgspec.Struct):
    """What one sender has under way; `began` when the first of it was."""

    sendings: list[Sending]
    began: float = 0.0
    overdue: bool = False


class Senders:
    """`finished` is called with each sending that has its outcome. `watch` runs beside it, `close` ends all."""

    def __init__(self, opened: publishers.Publishers, limits: Limits, finished: Callable[[Sending], None]) -> None:
        self._publishers = opened
        self._limits = limits
        self._finished = finished
        self._begun: asyncio.Queue[Sending | _Waiting] = asyncio.Queue()
        self._waiting: dict[object, _Waiting] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._idle = 0
        self._under_way: dict[asyncio.Task[None], _Group] = {}
        self._closed = False

    def put(self, sending: Sending) -> None:
        """Takes what was begun; `staff` afterwards."""
        lease = sending.lease
        if lease is not None and (lease.publisher is None or lease.publisher.max_batch == 1):
            self._begun.put_nowait(sending)
            return
        key: object = sending.task.lane if lease is None else id(lease)
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = _Waiting(key, lease, deque())
            self._begun.put_nowait(waiting)
        waiting.sendings.append(sending)

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
            for task, group in self._under_way.items():
                if group.began < edge and not group.overdue:
                    group.overdue = True
                    task.cancel()

    async def close(self) -> None:
        """Cuts off what is under way: it is left to its lease, and stays live."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _loop(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        while not self._closed:
            self._idle += 1
            try:
                begun = await self._begun.get()
            finally:
                self._idle -= 1
            group = _Group([begun] if isinstance(begun, Sending) else self._taken(begun))
            self._begin(group)
            self._under_way[me] = group
            try:
                if group.sendings[0].lease is None and await self._opened(group):
                    continue
                await self._send(group)
            except asyncio.CancelledError:
                if self._closed or (me.cancelling() and not group.overdue):
                    raise
                if group.overdue:
                    self._fail(group, "Overdue", delivery.Failed("timeout"))
                else:  # a library's own task was cancelled, not this one
                    self._fail(group, "CancelledError", FAULTY)
            finally:
                del self._under_way[me]
            while group.overdue and me.uncancel():  # asked for by the watch, whether the publisher heard it or not
                continue
            now = asyncio.get_running_loop().time()
            for sending in group.sendings:
                sending.took_ms = round((now - sending.began) * 1000)
                self._finished(sending)

    def _taken(self, waiting: _Waiting) -> list[Sending]:
        """As much of it as one send may carry; the rest stands in line again, for another sender."""
        lease, sendings = waiting.lease, waiting.sendings
        most = len(sendings)
        if lease is not None:
            most = 1 if lease.publisher is None else min(most, lease.publisher.max_batch)
        taken = [sendings.popleft() for _ in range(most)]
        if sendings:
            self._begun.put_nowait(waiting)
            self.staff()
        else:
            del self._waiting[waiting.key]
        return taken

    def _begin(self, group: _Group) -> None:
        """The time of what waited for its publisher to be opened goes on: its lease does too."""
        now, now_ms = asyncio.get_running_loop().time(), time.time_ns() // 1_000_000
        group.began = now
        for sending in group.sendings:
            if sending.began:
                group.began = min(group.began, sending.began)
            else:
                sending.began, sending.started_ms = now, now_ms

    async def _opened(self, group: _Group) -> bool:
        """Opens the publisher that the group waits for, and puts it in line again; False if that failed."""
        newest = group.sendings[-1]
        assert newest.field is not None
        try:
            lease = await self._publishers.open(newest.task.event.tenant, newest.task.id.destination, newest.field)
        except Exception as exc:  # noqa: BLE001 -- as in `_send`
            self._fail(group, type(exc).__name__, FAULTY)
            return False
        lease.users += len(group.sendings) - 1
        for sending in group.sendings:
            sending.lease = lease
            self.put(sending)
        self.staff()
        return True

    async def _send(self, group: _Group) -> None:
        """Gives every sending of the group its outcome."""
        first = group.sendings[0]
        if first.outcome is not None:  # its publisher could not be opened
            return
        lease = first.lease
        assert lease is not None
        if lease.publisher is None:
            self._fail(group, "", delivery.Failed("ERR", {"error": lease.problem}))
            return
        deadline = group.began + self._limits.timeout_ms / 1000
        try:
            outcomes = await lease.publisher.send([_delivery(sending) for sending in group.sendings], deadline)
            for sending, outcome in zip(group.sendings, outcomes, strict=True):
                sending.outcome = lease.redactor.outcome(outcome)
        except Exception as exc:  # noqa: BLE001 -- a fault of an adapter is a failed attempt, not a lost one
            self._fail(group, type(exc).__name__, FAULTY)

    def _fail(self, group: _Group, fault: str, outcome: delivery.Failed) -> None:
        """`fault`: what the adapter did wrong, if it did."""
        for sending in group.sendings:
            sending.outcome = outcome
        if fault:
            destination = group.sendings[0].task.id.destination
            telemetry.emit_sampled("adapter_failed", "error", kind=fault, destination=destination)


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
