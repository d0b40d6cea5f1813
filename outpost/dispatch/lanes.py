"""Where tasks wait in a process: one lane a destination, served round robin between tenants, then destinations.

A slow destination holds only its own lane. Everything is bounded: what exceeds a bound is put aside as overflow,
to leave memory and come back through `due`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from outpost.queue import base

MOST_A_LANE = 20_000
MOST_A_PROCESS = 100_000
MOST_BYTES = 64 * 1024 * 1024  # of payloads, over all lanes

LaneKey = tuple[str, str, int]


class Lane(msgspec.Struct):
    """The tasks of one destination that wait, and how many of it are being sent or recorded."""

    key: LaneKey
    cap: int
    waiting: deque[base.Task] = msgspec.field(default_factory=deque)
    in_flight: int = 0
    queued: bool = False  # stands in its tenant's turn

    @property
    def ready(self) -> bool:
        return bool(self.waiting) and self.in_flight < self.cap


class Lanes:
    """All lanes of a process. Synchronous but for `wait`; owned by one event loop."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._lanes: dict[LaneKey, Lane] = {}
        self._turns: dict[str, deque[Lane]] = {}  # tenant -> its ready lanes, in turn; tenants in turn
        self._held: set[tuple[int, str]] = set()  # waiting
        self._taken: set[tuple[int, str]] = set()  # being begun, sent or recorded
        self._bytes = 0
        self._wake = asyncio.Event()
        self.overflow: list[base.Task] = []

    def __len__(self) -> int:
        return len(self._held)

    @property
    def full(self) -> bool:
        """Whether nothing more is to be read from the log for now."""
        return len(self._held) >= MOST_A_PROCESS or self._bytes >= MOST_BYTES

    def receive(self, tasks: Sequence[base.Task]) -> None:
        """Puts tasks into their lanes. One that is here already is left as it is, under way too: while Redis is
        away leases end, and what was sent and only waits to be recorded must not be sent again."""
        for task in tasks:
            name = (task.partition, task.text)
            if name in self._held or name in self._taken:
                continue
            lane = self._lanes.get(task.lane)
            if self.full or (lane is not None and len(lane.waiting) >= MOST_A_LANE):
                self.overflow.append(task)
                continue
            if lane is None:
                lane = self._lanes[task.lane] = Lane(task.lane, self._cap)
            self._held.add(name)
            self._bytes += len(task.event.data)
            lane.waiting.append(task)
            self._queue(lane)
        self._wake.set()

    def take(self, most: int) -> list[base.Task]:
        """Up to `most` tasks, each the next of the next ready lane of the next tenant; they count as in flight
        until `done`."""
        taken: list[base.Task] = []
        while len(taken) < most and self._turns:
            tenant = next(iter(self._turns))
            turn = self._turns.pop(tenant)
            lane = turn.popleft()
            lane.queued = False
            if turn:
                self._turns[tenant] = turn
            task = lane.waiting.popleft()
            lane.in_flight += 1
            self._forget(task)
            self._taken.add((task.partition, task.text))
            taken.append(task)
            self._queue(lane)
        return taken

    def done(self, task: base.Task) -> None:
        """The task was recorded or dropped; its lane may go on."""
        lane = self._lanes[task.lane]
        lane.in_flight -= 1
        self._taken.discard((task.partition, task.text))
        self._queue(lane)
        self._wake.set()
        if not lane.waiting and not lane.in_flight:
            del self._lanes[task.lane]

    def back(self, task: base.Task) -> None:
        """A taken task that is to be tried again goes to the head of its lane."""
        lane = self._lanes[task.lane]
        lane.in_flight -= 1
        self._taken.discard((task.partition, task.text))
        self._held.add((task.partition, task.text))
        self._bytes += len(task.event.data)
        lane.waiting.appendleft(task)
        self._queue(lane)
        self._wake.set()

    def drop(self, lost: Iterable[tuple[int, str]]) -> None:
        """These (partition, task) are not ours any more."""
        gone = set(lost) & self._held
        if not gone:
            return
        for key, lane in list(self._lanes.items()):
            kept = deque(t for t in lane.waiting if (t.partition, t.text) not in gone)
            for task in lane.waiting:
                if (task.partition, task.text) in gone:
                    self._forget(task)
            lane.waiting = kept
            if not kept:
                self._unqueue(lane)
                if not lane.in_flight:
                    del self._lanes[key]

    def held(self) -> dict[int, list[str]]:
        """What waits here, by partition."""
        result: dict[int, list[str]] = {}
        for partition, text in self._held:
            result.setdefault(partition, []).append(text)
        return result

    def take_overflow(self) -> list[base.Task]:
        """What exceeded a bound since the last call."""
        overflow, self.overflow = self.overflow, []
        return overflow

    async def changed(self) -> None:
        """Until something is received or done."""
        self._wake.clear()
        await self._wake.wait()

    def wake(self) -> None:
        """Lets `changed` return."""
        self._wake.set()

    def _queue(self, lane: Lane) -> None:
        if lane.ready and not lane.queued:
            lane.queued = True
            self._turns.setdefault(lane.key[0], deque()).append(lane)

    def _unqueue(self, lane: Lane) -> None:
        if lane.queued:
            lane.queued = False
            turn = self._turns[lane.key[0]]
            turn.remove(lane)
            if not turn:
                del self._turns[lane.key[0]]

    def _forget(self, task: base.Task) -> None:
        self._held.discard((task.partition, task.text))
        self._bytes -= len(task.event.data)
