"""From `evt` to the queue: read as the group, open, hand over.

`open` acknowledges and makes the tasks live in one step, before anything is handed over, so that an entry read by
two dispatchers is handed over once and a crash at any point leaves the task where the scheduler finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from outpost import errors, pacing, telemetry
from outpost.dispatch.fairness import lanes as lane_rules
from outpost.domain import events
from outpost.log import batching, envelope, read
from outpost.log import budget as budgets
from outpost.log import partition as partitions
from outpost.log.delivery import consumers, tasks
from outpost.log.redis import client
from outpost.queue import base as queues
from projections.due import repair

READ_COUNT = 100  # entries of each partition by one read
MOST_A_READ = 1_000  # where fewer partitions have so many; small enough for the others to wait for no 100 ms
OPEN_COUNT = 500  # entries opened by one round trip
OPEN_TASKS = 5_000  # made live by it: 12 ms of Redis (measured); the tasks of one event are made live together
READ_BYTES = batching.ANSWER_BYTES  # expected of one read
MOST_AHEAD = 8  # reads of a flood in one step, each while what the last one brought is opened
LOOK_EVERY_S = 2.0  # for names whose lease is over
ORPHAN_IDLE_MS = 1_000  # then a pending entry this old is taken over, be it a living process's: that is harmless
SWEEP_EVERY_S = 15.0
SWEEP_IDLE_MS = 20_000  # at other times one this old, whoever read it: replies get lost, and processes hang
REFUSED_PAUSE_S = 1.0  # until what a partition did not open is read again
FULL_PAUSE_S = 0.02  # while the lanes are full, the log keeps what is not read yet
_ALL = range(partitions.PARTITIONS)


class Dispatcher:
    """One a process. `run` until `stop`."""

    def __init__(
        self,
        log: client.Log,
        queue: queues.Queue,
        lanes: lane_rules.Lanes,
        watchdog_ms: int,
        holder: str,
        budget: budgets.Budget | None = None,
    ) -> None:
        self._log = log
        self._budget = budget or budgets.Budget()
        self._queue = queue
        self._lanes = lanes
        self._watchdog_ms = watchdog_ms
        self._holder = holder
        self._name: str | None = None
        self._renew_at = 0.0
        self._look_at = 0.0
        self._stayed: set[str] = set()  # ended names of which something was pending at the last look
        self._sweep_at = 0.0
        self._recover = True
        self._recover_at = math.inf
        self._refused: dict[int, str] = {}  # partitions that did not open what was read, and why
        self._reading = batching.Reading(MOST_A_READ * partitions.PARTITIONS, READ_BYTES)
        self._opening = batching.Sending(OPEN_COUNT, OPEN_TASKS)
        self._active = self._flooded = partitions.PARTITIONS  # of the last read, as `_spread` has them
        self._asked = READ_COUNT  # entries of each partition by the last read
        self._turn = 0  # the first of the partitions that the next read of few entries asks
        self.health = telemetry.Health("dispatcher")

    async def run(self, stop: asyncio.Event) -> None:
        """Reads and opens until `stop`; backs off while Redis is away; gives its name back."""
        await pacing.repeat(
            self._step_or_recover, stop, self.health, failures=errors.OutpostError, judge=self._judge
        )
        if self._name is not None:
            with contextlib.suppress(errors.OutpostError):  # then its lease ends by itself
                await consumers.release_name(self._log, self._holder, self._name)

    async def _step_or_recover(self) -> float:
        try:
            await self.step()
        except errors.OutpostError:
            self._recover = True  # what a lost reply held is pending under our own name
            raise
        return 0

    def _judge(self) -> None:
        for reason in self._refused.values():
            self.health.fell("redis", reason)
        if not self._refused:
            self.health.rose()

    async def step(self, block_ms: int = client.BLOCK_MS) -> int:
        """One read and what comes of it; returns how many entries were opened by us.
        Raises errors.StoreUnavailable."""
        name = await self._leased_name()
        if self._recover or asyncio.get_running_loop().time() >= self._recover_at:
            return await self._recovered(name)
        if not self._queue.hungry or len(self._refused) == partitions.PARTITIONS:
            await asyncio.sleep(FULL_PAUSE_S)
            return 0
        opened = await self._sweep(name)
        found = await self._read(name, block_ms)
        for _ in range(MOST_AHEAD):
            ahead = self._read_ahead(name, found)
            try:
                opened += await self._open(found)
            finally:
                found = await ahead if ahead else []
            if not found:
                break
        return opened + await self._open(found)

    async def _recovered(self, name: str) -> int:
        """Completes what may be missing, and opens what was read and not opened."""
        self._recover_at, self._refused = math.inf, {}
        await repair.mend_if_needed(self._log)
        opened = await self._read_own_pending(name)
        self._recover = False
        return opened

    async def _read(self, name: str, block_ms: int = 0, start: str = ">") -> list[read.Read]:
        """Entries of the partitions that open what is read: new ones, or with `start` `0-0` those that are pending
        under our name. Where not even one of each
        partition fits into an answer, asks some partitions after others; once none of them has any, waits for
        news, which comes from one partition at a time."""
        asked, most = [p for p in _ALL if p not in self._refused], self._reading.count
        flood = min(MOST_A_READ // self._flooded, most // partitions.PARTITIONS)
        count = max(flood, min(READ_COUNT, most // self._active))
        if not asked:
            return []
        self._asked = max(1, count)
        for _ in range(0 if count else len(asked)):
            among = self._next_partitions(asked, most)
            if found := await read.as_group(self._log, name, 1, start, 0, among, self._reading):
                return found
        if not count and not block_ms:
            return []
        return await read.as_group(self._log, name, self._asked, start, block_ms, asked, self._reading)

    def _next_partitions(self, asked: Sequence[int], count: int) -> list[int]:
        among = [asked[(self._turn + n) % len(asked)] for n in range(min(count, len(asked)))]
        self._turn += len(among)
        return among

    def _read_ahead(self, name: str, found: Sequence[read.Read]) -> asyncio.Task[list[read.Read]] | None:
        """Reads on while what was found is opened, where more stands there: alone, a round trip takes as long as a
        turn of a loop that delivers at full speed."""
        flood = len(found) >= self._asked and self._queue.hungry
        self._lanes.let_read(flood)
        if found:
            self._active, self._flooded = _spread(found)
        if not flood:
            return None
        return asyncio.create_task(self._read(name, block_ms=0))

    async def _leased_name(self) -> str:
        now = asyncio.get_running_loop().time()
        if self._name is None or now >= self._renew_at:
            renewed = (
                None if self._name is None else await consumers.lease_name(self._log, self._holder, self._name)
            )
            self._recover = self._recover or renewed is None
            self._name = renewed or await consumers.lease_name(self._log, self._holder)
            self._renew_at = now + consumers.RENEW_MS / 1000
        assert self._name is not None
        return self._name

    async def _read_own_pending(self, name: str) -> int:
        opened = 0
        while len(self._refused) < partitions.PARTITIONS and (found := await self._read(name, start="0-0")):
            opened += await self._open(found)
        return opened

    async def _sweep(self, name: str) -> int:
        """Takes over what lies pending too long, and soon what is a dead process's, whose name is then reaped."""
        now = asyncio.get_running_loop().time()
        opened = 0
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            ended = [each for each in await consumers.ended(self._log) if each != name]
            if ended:
                # What still stays was read while the clock of Redis was ahead, and would for as long as it was.
                idle_ms = 0 if self._stayed.intersection(ended) else ORPHAN_IDLE_MS
                opened = await self._claim(name, idle_ms)
                self._stayed = set(await consumers.reap(self._log, ended))
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY_S
            await repair.mend_if_needed(self._log)  # a mark stays where who was to repair it has died
            opened += await self._claim(name, SWEEP_IDLE_MS)
        return opened

    async def _claim(self, name: str, idle_ms: int) -> int:
        opened = 0
        for partition in range(partitions.PARTITIONS):
            start = "0-0"
            while True:
                count = min(READ_COUNT, self._reading.count)
                start, found = await read.claim_idle(
                    self._log, partition, name, idle_ms, count, start, self._reading
                )
                opened += await self._open(found)
                if start == "0-0":
                    break
        return opened

    async def _open(self, found: Sequence[read.Read]) -> int:
        """Opens what was read and hands over what is ours; first the partitions of which little was read, so that
        none waits for the flood of another."""
        sizes = Counter(item.position.partition for item in found)
        ordered = sorted(found, key=lambda item: sizes[item.position.partition])
        wanted: list[list[queues.Task]] = []

        def weights(first: int) -> Iterator[int]:
            for at in range(first, len(ordered)):
                if at == len(wanted):
                    wanted.append(_first_attempts(ordered[at]))
                yield 1 + len(wanted[at])

        opened = at = 0
        while at < len(ordered):
            count = self._opening.cut(weights(at))
            opened += await self._open_some(ordered[at : at + count], wanted[at : at + count])
            at += count
        return opened

    async def _open_some(self, found: Sequence[read.Read], wanted: Sequence[list[queues.Task]]) -> int:
        openings: dict[int, list[tasks.Opening]] = defaultdict(list)
        asked: dict[int, list[list[queues.Task]]] = defaultdict(list)
        for item, each in zip(found, wanted, strict=True):
            entry = tasks.Opening(item.position.entry_id, tuple(task.text for task in each))
            openings[item.position.partition].append(entry)
            asked[item.position.partition].append(each)
        if not self._budget.opens(sum(budgets.task_bytes(o.tasks) for each in openings.values() for o in each)):
            self._refuse(
                dict.fromkeys(openings, "the memory budget is used up")
            )  # all stays pending under our name
            return 0
        try:
            answers = await tasks.open_entries(self._log, openings, self._watchdog_ms)
        except errors.StoreUnavailable:
            self._opening.failed()
            raise
        self._opening.passed()
        # What the others opened is handed over all the same.
        self._refuse({partition: refused.reason for partition, refused in answers.failed.items()})
        ours = [
            task
            for partition, opened in answers.items()
            for each, mine in zip(asked[partition], opened, strict=True)
            if mine
            for task in each
        ]
        await self._queue.publish(ours)
        number = sum(map(sum, answers.values()))
        telemetry.emit_sampled("dispatch_opened", "debug", entries=len(found), opened=number, tasks=len(ours))
        return number

    def _refuse(self, why: Mapping[int, str]) -> None:
        """Reads nothing more of these partitions for a while, and then what is pending first."""
        if why:
            self._refused.update(why)
            self._recover_at = asyncio.get_running_loop().time() + REFUSED_PAUSE_S


def _spread(found: Sequence[read.Read]) -> tuple[int, int]:
    """How many partitions had something, and how many of them would hold all of it with the largest share: few,
    where one is flooded."""
    sizes = Counter(item.position.partition for item in found)
    return len(sizes), -(-len(found) // max(sizes.values()))


def _first_attempts(item: read.Read) -> list[queues.Task]:
    """The tasks that an entry asks for, one a matched destination."""
    event = _decode(item)
    if event is None:
        return []
    ids = tasks.first_attempts(event, item.position.entry_id)
    return [queues.Task(item.position.partition, str(each), each, event) for each in ids]


def _decode(item: read.Read) -> events.Event | None:
    """The event, or None where it does not decode: the log projection keeps such an entry in `log_rejected`."""
    try:
        entry = envelope.decode("evt", item.position, item.fields)
    except errors.UndecodableEntry as exc:
        telemetry.emit("entry_undecodable", "error", **read.undecodable(item, exc))
        return None
    return entry if isinstance(entry, events.Event) else None
