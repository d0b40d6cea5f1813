"""Where tasks wait in a process: one lane a destination, served round robin between tenants, then destinations.

A slow destination holds only its own lane, and all that do not answer share half of the send slots. Retries take
turns among themselves, one for each first attempt: however many are due at once, live traffic does not stall.
Everything is bounded: what exceeds a bound of tasks is put aside as overflow, to leave memory and come back by
`due`, and room is left for newcomers whatever floods or does not answer; what exceeds the bound of bytes stays
without its payload, which is read again when its turn comes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from outpost.dispatch.fairness import lane as lane_rules
from outpost.dispatch.fairness import turns, unproven
from outpost.queue import base

MOST_TASKS = 100_000
MOST_BYTES = 64 * 1024 * 1024  # of payloads, over all lanes
DOUBTFUL_SHARE = 2  # one in so many of them may wait for destinations that do not answer
READING_SHARE = 8  # of its sends at once are left to a lane while a flood is read
FULL_DELAY_MS = 10_000  # until a task is tried again that found the whole process full


class Lanes:
    """All lanes of a process. Synchronous but for `changed`; owned by one event loop.

    `cap` bounds the sends at once to one destination, `doubtful` those to all that have not answered lately
    (None: no difference is made); these fill their part in `fill_s` seconds at the fastest.
    """

    def __init__(self, cap: int, doubtful: int | None = None, fill_s: float = 0.0) -> None:
        self._cap = cap
        self._doubt = unproven.Doubt(doubtful, MOST_TASKS // DOUBTFUL_SHARE, fill_s)
        self._lanes: dict[lane_rules.Key, lane_rules.Lane] = {}
        self._sure, self._unsure = turns.Alternating(), turns.Alternating()
        self._unsure_next = False
        self._most = cap  # sends of one lane now
        self._held: set[tuple[int, str]] = set()  # waiting
        self._taken: set[tuple[int, str]] = set()  # being begun, sent or recorded
        self._bytes = 0
        self._wake = asyncio.Event()
        self._overflow: list[tuple[base.Task, int]] = []

    def __len__(self) -> int:
        return len(self._held)

    @property
    def full(self) -> bool:
        """Whether nothing more is to be read from the log for now."""
        return len(self._held) >= MOST_TASKS

    @property
    def crowded(self) -> bool:
        """Whether payloads are left out, or soon will be."""
        return self._bytes > MOST_BYTES // 2

    def let_read(self, flood: bool) -> None:
        """While a `flood` is read a lane sends a few at a time: whoever stands behind it waits for its reading,
        which shares a CPU with the sends."""
        self._most = max(1, self._cap // READING_SHARE) if flood else self._cap

    def receive(self, tasks: Sequence[base.Task]) -> None:
        """Puts tasks into their lanes. One that is here already is left as it is, under way too: while Redis is
        away leases end, and what was sent and only waits to be recorded must not be sent again."""
        for task in tasks:
            name = (task.partition, task.text)
            if name in self._held or name in self._taken:
                continue
            key = task.lane
            lane = self._lanes.get(key)
            if lane is None:
                lane = lane_rules.Lane(key, self._doubt.standing(key))
            elif lane.standing == "answers" and len(lane.waiting) < lane_rules.LEAST_WAITING and not self.full:
                lane.waiting.append(self._remember(lane, task))  # the usual case: no bound is near
                if lane.turn is None:
                    self._queue(lane)
                continue
            if self.full:
                self._put_aside(task, FULL_DELAY_MS)
            elif (doubted := self._doubt.holds_its_part(lane)) or (
                len(lane.waiting) >= lane.most(MOST_TASKS - len(self._held))
            ):
                self._put_aside(task, lane.put_aside_ms(doubted))
            else:
                self._lanes[key] = lane
                lane.waiting.append(self._remember(lane, task))
                self._queue(lane)
        self._wake.set()

    def take(self, most: int) -> list[base.Task]:
        """Up to `most` tasks, each the next of the next ready lane of the next tenant; they count as in flight
        until `done`."""
        taken: list[base.Task] = []
        while len(taken) < most and (lane := self._next_lane()) is not None:
            task = lane.waiting.popleft()
            self._move(lane, 1)
            self._forget(lane, task)
            self._taken.add((task.partition, task.text))
            taken.append(task)
            self._queue(lane)
        return taken

    def done(self, task: base.Task, answered: bool | None = None) -> None:
        """The task was recorded or dropped; its lane may go on. `answered`: whether the destination answered in
        time (None: nothing was sent)."""
        lane = self._lanes[task.lane]
        self._taken.discard((task.partition, task.text))
        self._move(lane, -1)
        lane.finished += 1
        if answered is not None:
            self._judge(lane, "answers" if answered else "times_out")
        self._queue(lane)
        self._wake.set()
        if not lane.waiting and not lane.in_flight:
            del self._lanes[task.lane]

    def back(self, task: base.Task) -> None:
        """A taken task that is to be tried again goes to the head of its lane."""
        lane = self._lanes[task.lane]
        self._taken.discard((task.partition, task.text))
        self._move(lane, -1)
        lane.waiting.appendleft(self._remember(lane, task))
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
                    self._forget(lane, task)
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

    def those_waiting(self, partition: int, texts: Sequence[str]) -> list[str]:
        """Those of them that wait here."""
        return [text for text in texts if (partition, text) in self._held]

    def take_overflow(self) -> list[tuple[base.Task, int]]:
        """What exceeded a bound since the last call, each with the ms after which it is to come back."""
        overflow, self._overflow = self._overflow, []
        return overflow

    async def changed(self) -> None:
        """Until something is received or done, or what was held back may start."""
        self._wake.clear()
        limit_s = (self._doubt.wait_s() or None) if self._unsure else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._wake.wait()

    def wake(self) -> None:
        """Lets `changed` return."""
        self._wake.set()

    def _put_aside(self, task: base.Task, delay_ms: int) -> None:
        event = msgspec.structs.replace(task.event, data=b"")
        self._overflow.append((msgspec.structs.replace(task, event=event, loaded=False), delay_ms))

    def _next_lane(self) -> lane_rules.Lane | None:
        """Sure and unsure lanes by turns, so that neither starves; unsure ones within their share."""
        unsure = bool(self._unsure) and self._doubt.may_start()
        if not unsure and not self._sure:
            return None
        chosen = self._unsure if unsure and (self._unsure_next or not self._sure) else self._sure
        self._unsure_next = chosen is self._sure
        lane = chosen.next()
        lane.turn = None
        if chosen is self._unsure:
            self._doubt.started()
        return lane

    def _judge(self, lane: lane_rules.Lane, standing: lane_rules.Standing) -> None:
        self._doubt.learn(lane.key, standing)
        if lane.standing == standing:
            return
        self._unqueue(lane)
        if lane.doubtful:
            self._doubt.in_flight -= lane.in_flight
            self._doubt.waiting -= len(lane.waiting)
        lane.standing = standing
        if lane.doubtful:
            self._doubt.in_flight += lane.in_flight
            self._doubt.waiting += len(lane.waiting)
            self._shorten(lane)

    def _shorten(self, lane: lane_rules.Lane) -> None:
        """What waits for a destination that stopped to answer leaves, if too much waits for such already."""
        while len(lane.waiting) > lane_rules.MOST_TIMED_OUT and self._doubt.holds_its_part(lane):
            task = lane.waiting.pop()
            self._forget(lane, task)
            self._put_aside(task, lane.put_aside_ms())

    def _move(self, lane: lane_rules.Lane, change: int) -> None:
        lane.in_flight += change
        if lane.doubtful:
            self._doubt.in_flight += change

    def _queue(self, lane: lane_rules.Lane) -> None:
        if lane.turn is None and lane.ready(self._most, not self._doubt.off):
            late = lane.waiting[0].id.attempt > 1 or lane.standing == "times_out"
            among = self._unsure if self._doubt.of(lane) else self._sure
            lane.turn = among.again if late else among.first
            lane.turn.add(lane)

    def _unqueue(self, lane: lane_rules.Lane) -> None:
        if lane.turn is not None:
            lane.turn.remove(lane)
            lane.turn = None

    def _remember(self, lane: lane_rules.Lane, task: base.Task) -> base.Task:
        """The task as it waits here: without its payload where those of the others fill the budget."""
        self._held.add((task.partition, task.text))
        self._doubt.waiting += lane.doubtful
        if self._bytes + len(task.event.data) > MOST_BYTES:
            return msgspec.structs.replace(task, event=msgspec.structs.replace(task.event, data=b""), loaded=False)
        self._bytes += len(task.event.data)
        return task

    def _forget(self, lane: lane_rules.Lane, task: base.Task) -> None:
        self._held.discard((task.partition, task.text))
        self._doubt.waiting -= lane.doubtful
        self._bytes -= len(task.event.data)
