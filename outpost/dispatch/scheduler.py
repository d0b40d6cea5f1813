"""From `due` to the lanes: retries whose time has come, and tasks whose watchdog or lease has ended.

Also keeps what waits in this process from coming due (`hold`), and sends what exceeds a bound of the lanes back to
`due` for a while. Any number of schedulers may run.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence

from outpost import errors, pacing, telemetry
from outpost.dispatch import payloads
from outpost.dispatch.fairness import lanes as lane_rules
from outpost.domain import delivery, events
from outpost.log import batching, clock, envelope, read
from outpost.log import position as positions
from outpost.log.delivery import tasks
from outpost.log.redis import client
from outpost.queue import base as queues

CLAIM = 200  # tasks of each partition by one claim
HAND_OVER = 100  # of them, with their payloads, by one read
HAND_OVER_BYTES = 8 * 1024 * 1024  # expected of such a read
LOOK_EVERY_S = 0.5  # the longest sleep: other processes make retries due, too
SHORTEST_SLEEP_S = 0.01
HOLD_EVERY_S = 10.0
HOLD_OVER = 0.9  # of the time between two rounds; a hundred thousand at once would hold up every delivery
HOLD_STEP_S = 0.05  # between two looks while a round lasts


class Scheduler:
    """One a process. `run` until `stop`."""

    def __init__(
        self,
        log: client.Log,
        lanes: lane_rules.Lanes,
        watchdog_ms: int,
        old: payloads.OldEvents | None = None,
        longest: tasks.Longest | None = None,
        redis_clock: clock.Clock | None = None,
    ) -> None:
        self._log = log
        self._longest = longest or tasks.Longest()
        self._old = old
        self._clock = redis_clock or clock.Clock()
        self._lanes = lanes
        self._watchdog_ms = watchdog_ms
        self._reading = batching.Reading(HAND_OVER, HAND_OVER_BYTES)
        self._hold_every_s = min(HOLD_EVERY_S, watchdog_ms / 3_000)  # or what waits comes due, and is claimed
        self._hold_at = 0.0
        self._round: list[tuple[int, list[str]]] = []  # what is still to be held in this round
        self._round_began = 0.0
        self._round_size = 0
        self._claimed: deque[tuple[int, str]] = deque()  # and not handed over yet
        self._failed: errors.StoreUnavailable | None = None  # why a partition could not be claimed from
        self.health = telemetry.Health("scheduler")

    async def run(self, stop: asyncio.Event) -> None:
        """Claims until `stop`, then gives back what waits in the lanes."""
        await pacing.repeat(self.step, stop, self.health, judge=self._judge)

    def _judge(self) -> None:
        if self._failed is None:
            self.health.rose()
        else:
            self.health.fell("redis", self._failed.reason)

    async def step(self) -> float:
        """One look at every partition; returns for how long nothing is due, in seconds.
        Raises errors.StoreUnavailable."""
        await self._keep()
        longest_s = HOLD_STEP_S if self._round else LOOK_EVERY_S
        if self._lanes.full:
            return longest_s
        claimed = await self._claim()
        while self._claimed and not self._lanes.full:
            part = list(itertools.islice(self._claimed, self._reading.count))
            await self._hand_over(part)
            for _ in part:
                self._claimed.popleft()
        self._claimed.clear()  # the lanes are full; they come back when their watchdog ends
        if any(len(c.tasks) >= CLAIM for c in claimed.values()):
            return 0.0
        next_ms = min((c.next_in_ms for c in claimed.values() if c.next_in_ms is not None), default=None)
        return longest_s if next_ms is None else min(max(next_ms / 1000, SHORTEST_SLEEP_S), longest_s)

    async def _claim(self) -> dict[int, tasks.Claimed]:
        """Claims what is due, once nothing is left of an earlier claim whose events could not be read."""
        if self._claimed:
            return {}
        claimed = await tasks.claim_due(self._log, self._watchdog_ms, CLAIM, longest=self._longest)
        self._claimed.extend((p, text) for p, c in claimed.items() for text in c.tasks)
        for each in claimed.values():
            self._clock.told(each.now_ms)
        self._failed = next(iter(claimed.failed.values()), None)
        return claimed

    async def release(self) -> None:
        """Gives back every task that waits here, to be claimed at once. Raises errors.StoreUnavailable."""
        held = self._lanes.held()
        gone = {(p, t) for p, texts in held.items() for t in texts}
        for partition, text in self._claimed:
            held.setdefault(partition, []).append(text)
        self._claimed.clear()
        for task, _ in self._lanes.take_overflow():
            held.setdefault(task.partition, []).append(task.text)
        await self._hold(held, 0)
        self._lanes.drop(gone)

    async def _keep(self) -> None:
        """What is recalled was put aside by an earlier call, or is by this one."""
        overflow, recalled = self._lanes.take_overflow(), self._lanes.take_recalled()
        for at in range(0, len(overflow), tasks.HOLD_TASKS):
            held: dict[int, list[tuple[str, int]]] = {}
            for task, delay_ms in overflow[at : at + tasks.HOLD_TASKS]:
                held.setdefault(task.partition, []).append((task.text, delay_ms))
            await tasks.put_aside(self._log, held)
        back: dict[int, list[str]] = {}
        for partition, text in recalled:
            back.setdefault(partition, []).append(text)
        await self._hold(back, 0)
        await self._hold_some()

    async def _hold_some(self) -> None:
        """As many of what waits here as are to be held by now, so that a round takes `HOLD_OVER` of its time."""
        now = asyncio.get_running_loop().time()
        if now >= self._hold_at and not self._round:
            self._hold_at = now + self._hold_every_s
            self._round = _batches(self._lanes.held())
            self._round_began, self._round_size = now, len(self._round)
        share = 1 - (now - self._round_began + HOLD_STEP_S) / (self._hold_every_s * HOLD_OVER)
        while self._round and len(self._round) > self._round_size * share:
            partition, texts = self._round.pop()
            waiting = self._lanes.those_waiting(partition, texts)
            self._lanes.drop(await tasks.hold(self._log, {partition: waiting}, self._watchdog_ms))

    async def _hold(self, held: dict[int, list[str]], delay_ms: int) -> None:
        for partition, texts in _batches(held):
            await tasks.hold(self._log, {partition: texts}, delay_ms)

    async def _hand_over(self, found: Sequence[tuple[int, str]]) -> None:
        """Reads the events of claimed tasks and hands them over. Those that were trimmed are left to `old`."""
        ids = [delivery.parse_task_id(text) for _, text in found]
        wanted = list(dict.fromkeys((p, i.event) for (p, _), i in zip(found, ids, strict=True)))
        places = [positions.of_entry("evt", p, event) for p, event in wanted]
        entries = await read.exactly(self._log, places, self._reading)
        known = {place: _decode(entry) for place, entry in zip(wanted, entries, strict=True)}
        ready, gone = [], []
        for (partition, text), task_id in zip(found, ids, strict=True):
            event = known[partition, task_id.event]
            if event is not None:
                ready.append(queues.Task(partition, text, task_id, event))
            elif self._old is not None:
                gone.append((partition, text))
            else:
                telemetry.emit_sampled("task_without_event", "error", partition=partition, task=text)
        self._lanes.receive(ready)
        if gone and self._old is not None:
            self._old.ask(gone)


def _batches(held: dict[int, list[str]]) -> list[tuple[int, list[str]]]:
    each = tasks.HOLD_TASKS
    return [(p, texts[at : at + each]) for p, texts in held.items() for at in range(0, len(texts), each)]


def _decode(item: read.Read | None) -> events.Event | None:
    if item is None:
        return None
    try:
        entry = envelope.decode("evt", item.position, item.fields)
    except errors.UndecodableEntry:
        return None
    return entry if isinstance(entry, events.Event) else None
