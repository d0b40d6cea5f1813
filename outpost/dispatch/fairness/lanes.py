"""Where tasks wait in a process: one lane a destination, served round robin between tenants, then destinations.

A slow destination holds only its own lane, all that do not answer share half of the send slots, and a tenant holds
a share of everything (`slots`, `tenant`). Retries take turns among themselves, one for each first attempt: however
many are due at once, live traffic does not stall. Everything is bounded: what exceeds a bound of tasks is put
aside as overflow, to leave memory and come back by `due`, and room is left for newcomers whatever floods or does
not answer; what exceeds a bound of bytes stays without its payload, which is read again when its turn comes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable, Sequence

from outpost.dispatch.fairness import aside, unproven
from outpost.dispatch.fairness import lane as lane_rules
from outpost.dispatch.fairness import slots as send_slots
from outpost.dispatch.fairness import tenant as tenants
from outpost.queue import base

MOST_TASKS = 100_000
MOST_BYTES = 64 * 1024 * 1024  # of payloads, over all lanes
TENANT_TASKS_SHARE = 2  # one tenant may have one in so many of the tasks that the others leave
TENANT_BYTES_SHARE = 2  # and of the bytes
DOUBTFUL_SHARE = 2  # one in so many of them may wait for destinations that do not answer
FULL_DELAY_MS = 10_000  # until a task is tried again that found the process or the share of its tenant full

Name = aside.Name


class Lanes:
    """All lanes of a process. Synchronous but for `changed`; owned by one event loop.

    `cap` bounds the sends at once to one destination, `doubtful` those to all that have not answered lately
    (None: no difference is made); these fill their part in `fill_s` seconds at the fastest. `tenant_slots` and
    `tenant_doubtful` bound both for one tenant.
    """

    def __init__(
        self,
        cap: int,
        doubtful: int | None = None,
        fill_s: float = 0.0,
        tenant_slots: int | None = None,
        tenant_doubtful: int | None = None,
    ) -> None:
        self._doubt = unproven.Doubt(doubtful, MOST_TASKS // DOUBTFUL_SHARE, fill_s)
        self._slots = send_slots.Slots(self._doubt, cap, tenant_slots, tenant_doubtful)
        self._lanes: dict[lane_rules.Key, lane_rules.Lane] = {}
        self._tenants = tenants.Tenants()
        self._held: set[Name] = set()  # waiting
        self._taken: set[Name] = set()  # being begun, sent or recorded
        self._bytes = 0
        self._wake = asyncio.Event()
        self._overflow: list[tuple[base.Task, int]] = []
        self._aside = aside.Aside()
        self._recalled: list[Name] = []

    def __len__(self) -> int:
        return len(self._held)

    @property
    def full(self) -> bool:
        """Whether nothing more is to be read from the log for now."""
        return len(self._held) >= MOST_TASKS

    def hungry(self, enough: int) -> bool:
        """Whether fewer than `enough` of the tasks that wait for destinations that answer may be sent at once.
        What waits for others is not counted: they would starve those that answer."""
        return not self.full and self._slots.startable(enough) < enough

    def let_read(self, flood: bool) -> None:
        """See `Slots.let_read`."""
        self._slots.let_read(flood)

    def receive(self, tasks: Sequence[base.Task]) -> None:
        """Puts tasks into their lanes. One that is here already is left as it is, under way too: while Redis is
        away leases end, and what was sent and only waits to be recorded must not be sent again."""
        least = lane_rules.LEAST_WAITING
        for task in tasks:
            name = (task.partition, task.text)
            if name in self._held or name in self._taken:
                continue
            key = task.lane
            lane = self._lanes.get(key)
            if self._aside:
                self._aside.back(key, name)
            if lane is None:
                lane = lane_rules.Lane(key, self._tenants.of(key[0]), self._doubt.standing(key))
            elif not lane.doubtful and len(lane.waiting) < least and self._room(lane.tenant) > 0:
                lane.waiting.append(self._remember(lane, task, name))  # the usual case: no bound is near
                if lane.turn is None:
                    self._slots.queue(lane)
                continue
            self._receive_carefully(lane, task, name)
        self._wake.set()

    def take(self, most: int, loads: int | None = None) -> list[base.Task]:
        """Up to `most` tasks, each the next of the next ready lane of the next tenant; they count as in flight
        until `done`. No more than `loads` of them, at least 1, are without their payload."""
        taken: list[base.Task] = []
        unloaded = 0
        while len(taken) < most and unloaded != loads and (lane := self._slots.next()) is not None:
            task = lane.waiting.popleft()
            name = (task.partition, task.text)
            size = task.payload_bytes
            self._slots.begin(lane, size)
            self._forget(lane, size, name)
            self._taken.add(name)
            taken.append(task)
            if not task.loaded:
                unloaded += 1
            self._slots.queue(lane)
        return taken

    def loaded(self, task: base.Task) -> None:
        """The payload of a taken task was read."""
        self._slots.loaded(self._lanes[task.lane], task.payload_bytes)

    def done(self, task: base.Task, answered: bool | None = None) -> None:
        """The task was recorded or dropped; its lane may go on. `answered`: whether the destination answered in
        time (None: nothing was sent)."""
        lane = self._lanes[task.lane]
        self._taken.discard((task.partition, task.text))
        self._slots.end(lane, task.payload_bytes)
        lane.finished += 1
        if answered is not None:
            self._judge(lane, "answers" if answered else "times_out")
        self._slots.queue(lane)
        self._wake.set()
        if not lane.waiting and not lane.in_flight:
            self._close(lane)

    def back(self, task: base.Task) -> None:
        """A taken task that is to be tried again goes to the head of its lane."""
        lane = self._lanes[task.lane]
        name = (task.partition, task.text)
        self._taken.discard(name)
        self._slots.end(lane, task.payload_bytes)
        lane.waiting.appendleft(self._remember(lane, task, name))
        self._slots.queue(lane)
        self._wake.set()

    def drop(self, lost: Iterable[Name]) -> None:
        """These (partition, task) are not ours any more."""
        gone = set(lost) & self._held
        if not gone:
            return
        for lane in list(self._lanes.values()):
            kept: deque[base.Task] = deque()
            for task in lane.waiting:
                name = (task.partition, task.text)
                if name in gone:
                    self._forget(lane, task.payload_bytes, name)
                else:
                    kept.append(task)
            lane.waiting = kept
            if not kept:
                self._slots.unqueue(lane)
                if not lane.in_flight:
                    self._close(lane)

    def held(self) -> dict[int, list[str]]:
        """What waits here, by partition."""
        result: dict[int, list[str]] = {}
        for partition, text in self._held:
            result.setdefault(partition, []).append(text)
        return result

    def those_waiting(self, partition: int, texts: Sequence[str]) -> list[str]:
        """Those of them that wait here."""
        return [text for text in texts if (partition, text) in self._held]

    def take_overflow(self) -> list[tuple[base.Task, int]]:
        """What exceeded a bound since the last call, each with the ms after which it is to come back."""
        overflow, self._overflow = self._overflow, []
        return overflow

    def take_recalled(self) -> list[Name]:
        """What was put aside for destinations that have answered since the last call: it is to come back now."""
        recalled, self._recalled = self._recalled, []
        return recalled

    async def changed(self) -> None:
        """Until something is received or done, or what was held back may start."""
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._slots.wait_s()):
                await self._wake.wait()

    def wake(self) -> None:
        """Lets `changed` return."""
        self._wake.set()

    def _room(self, tenant: tenants.Tenant) -> int:
        """What is free, less what this tenant has to leave to others beside what it holds. It may have more tasks
        waiting while that is above 0."""
        return MOST_TASKS - len(self._held) - tenant.waiting * (TENANT_TASKS_SHARE - 1)

    def _receive_carefully(self, lane: lane_rules.Lane, task: base.Task, name: Name) -> None:
        """Puts a task into its lane, which may be a new one, or puts it aside."""
        known = lane.waiting or lane.in_flight
        room = self._room(lane.tenant)
        if room <= 0 and (self.full or not known):
            self._put_aside(task, FULL_DELAY_MS)
        elif (doubted := self._doubt.holds_its_part(lane)) or len(lane.waiting) >= lane.most(room):
            self._put_aside(task, lane.put_aside_ms(doubted), lane)
        else:
            if not known:
                self._lanes[lane.key] = lane
                self._tenants.lane_opened(lane.tenant)
            lane.waiting.append(self._remember(lane, task, name))
            self._slots.queue(lane)

    def _close(self, lane: lane_rules.Lane) -> None:
        del self._lanes[lane.key]
        self._tenants.lane_closed(lane.tenant)

    def _put_aside(self, task: base.Task, delay_ms: int, lane: lane_rules.Lane | None = None) -> None:
        """`lane`: for what its destination did, or has not done yet."""
        self._overflow.append((task.unloaded(), delay_ms))
        if lane is not None and lane.doubtful:
            self._aside.add(lane.key, (task.partition, task.text))

    def _judge(self, lane: lane_rules.Lane, standing: lane_rules.Standing) -> None:
        self._doubt.learn(lane.key, standing)
        if standing == "answers" and self._aside:
            self._recalled += self._aside.take(lane.key)
        if lane.standing == standing:
            return
        self._doubt.waiting -= len(lane.waiting) * lane.doubtful
        self._slots.judge(lane, standing)
        self._doubt.waiting += len(lane.waiting) * lane.doubtful
        if lane.doubtful:
            self._shorten(lane)

    def _shorten(self, lane: lane_rules.Lane) -> None:
        """What waits for a destination that stopped to answer leaves, if too much waits for such already."""
        while len(lane.waiting) > lane_rules.MOST_TIMED_OUT and self._doubt.holds_its_part(lane):
            task = lane.waiting.pop()
            self._forget(lane, task.payload_bytes, (task.partition, task.text))
            self._put_aside(task, lane.put_aside_ms(), lane)

    def _remember(self, lane: lane_rules.Lane, task: base.Task, name: Name) -> base.Task:
        """The task as it waits here: without its payload where those of the others, or of its tenant, fill the
        budget."""
        self._held.add(name)
        self._doubt.waiting += lane.doubtful
        tenant = lane.tenant
        tenant.waiting += 1
        size = task.payload_bytes
        others = self._bytes - tenant.waiting_bytes
        if (tenant.waiting_bytes + size) * TENANT_BYTES_SHARE > MOST_BYTES - others:
            return task.unloaded()
        self._bytes += size
        tenant.waiting_bytes += size
        return task

    def _forget(self, lane: lane_rules.Lane, size: int, name: Name) -> None:
        self._held.discard(name)
        self._doubt.waiting -= lane.doubtful
        tenant = lane.tenant
        tenant.waiting -= 1
        tenant.waiting_bytes -= size
        self._bytes -= size
