"""From `evt` to the queue: read as the group, open, hand over.

`open` acknowledges and makes the tasks live in one step, before anything is handed over, so that an entry read by
two dispatchers is handed over once and a crash at any point leaves the task where the scheduler finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from outpost import errors, pacing, telemetry
from outpost.dispatch import lanes as lane_rules
from outpost.domain import events
from outpost.log import client, consumers, envelope, read, tasks
from outpost.log import partition as partitions
from outpost.queue import base as queues
from projections.due import repair

READ_COUNT = 100  # entries of each partition by one read
MOST_A_READ = 1_000  # where fewer partitions have so many; small enough for the others to wait for no 100 ms
OPEN_COUNT = 500  # entries opened by one round trip
MOST_AHEAD = 8  # reads of a flood in one step, each while what the last one brought is opened
FEWEST = 4
READ_BYTES = 16 * 1024 * 1024  # about what one read brings into memory, going by the size of the last ones
CAUTIOUS_BYTES = 64 * 1024  # an entry, before anything was read
LOOK_EVERY_S = 2.0  # for names whose lease is over
ORPHAN_IDLE_MS = 1_000  # then a pending entry this old is taken over, be it a living process's: that is harmless
SWEEP_EVERY_S = 15.0
SWEEP_IDLE_MS = 20_000  # at other times one this old, whoever read it: replies get lost, and processes hang
FULL_PAUSE_S = 0.02  # while the lanes are full, the log keeps what is not read yet


class Dispatcher:
    """One a process. `run` until `stop`."""

    def __init__(
        self,
        log: client.Log,
        queue: queues.Queue,
        lanes: lane_rules.Lanes,
        watchdog_ms: int,
        holder: str,
    ) -> None:
        self._log = log
        self._queue = queue
        self._lanes = lanes
        self._watchdog_ms = watchdog_ms
        self._holder = holder
        self._name: str | None = None
        self._renew_at = 0.0
        self._look_at = 0.0
        self._sweep_at = 0.0
        self._recover = True
        self._count = max(FEWEST, READ_BYTES // CAUTIOUS_BYTES // partitions.PARTITIONS)
        self.health = telemetry.Health("dispatcher")

    async def run(self, stop: asyncio.Event) -> None:
        """Reads and opens until `stop`; backs off while Redis is away; gives its name back."""
        pause = pacing.Pause()
        while not stop.is_set():
            try:
                await self.step()
            except errors.OutpostError as exc:
                self._recover = True  # what a lost reply held is pending under our own name
                self.health.fell("redis", type(exc).__name__)
                await pacing.sleep(pause.next_s(), stop)
            else:
                self.health.rose()
                pause.reset()
        if self._name is not None:
            with contextlib.suppress(errors.OutpostError):  # then its lease ends by itself
                await consumers.release_name(self._log, self._holder, self._name)

    async def step(self, block_ms: int = client.BLOCK_MS) -> int:
        """One read and what comes of it; returns how many entries were opened by us.
        Raises errors.StoreUnavailable."""
        name = await self._leased_name()
        if self._recover:
            await repair.mend_if_needed(self._log)
            opened = await self._read_own_pending(name)
            self._recover = False
            return opened
        if self._lanes.full:
            await asyncio.sleep(FULL_PAUSE_S)
            return 0
        opened = await self._sweep(name)
        found = await read.as_group(self._log, name, self._count, block_ms=block_ms)
        for _ in range(MOST_AHEAD):
            ahead = self._read_ahead(name, found)
            try:
                opened += await self._open(found)
            finally:
                found = await ahead if ahead else []
            if not found:
                break
        return opened + await self._open(found)

    def _read_ahead(self, name: str, found: Sequence[read.Read]) -> asyncio.Task[list[read.Read]] | None:
        """Reads on while what was found is opened, where more stands there: alone, a round trip takes as long as a
        turn of a loop that delivers at full speed."""
        flood = len(found) >= self._count and not self._lanes.full
        self._lanes.let_read(flood)
        if found:
            self._count = _next_count(found)
        if not flood:
            return None
        return asyncio.create_task(read.as_group(self._log, name, self._count, block_ms=0))

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
        while found := await read.as_group(self._log, name, self._count, start="0-0"):
            self._count = _next_count(found)
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
                opened = await self._claim(name, ORPHAN_IDLE_MS)
                await consumers.reap(self._log, ended)
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY_S
            opened += await self._claim(name, SWEEP_IDLE_MS)
        return opened

    async def _claim(self, name: str, idle_ms: int) -> int:
        opened = 0
        for partition in range(partitions.PARTITIONS):
            start = "0-0"
            while True:
                start, found = await read.claim_idle(self._log, partition, name, idle_ms, self._count, start)
                opened += await self._open(found)
                if start == "0-0":
                    break
        return opened

    async def _open(self, found: Sequence[read.Read]) -> int:
        """Opens what was read and hands over what is ours; first the partitions of which little was read, so that
        none waits for the flood of another."""
        sizes = Counter(item.position.partition for item in found)
        ordered = sorted(found, key=lambda item: sizes[item.position.partition])
        opened = 0
        for at in range(0, len(ordered), OPEN_COUNT):
            opened += await self._open_some(ordered[at : at + OPEN_COUNT])
        return opened

    async def _open_some(self, found: Sequence[read.Read]) -> int:
        openings: dict[int, list[tasks.Opening]] = defaultdict(list)
        asked: dict[int, list[list[queues.Task]]] = defaultdict(list)
        for item in found:
            wanted = _first_attempts(item)
            entry = tasks.Opening(item.position.entry_id, tuple(task.text for task in wanted))
            openings[item.position.partition].append(entry)
            asked[item.position.partition].append(wanted)
        answers = await tasks.open_entries(self._log, dict(openings), self._watchdog_ms)
        ours: list[queues.Task] = []
        opened = 0
        for partition, each in asked.items():
            for wanted, mine in zip(each, answers[partition], strict=True):
                opened += mine
                if mine:
                    ours += wanted
        await self._queue.publish(ours)
        telemetry.emit_sampled("dispatch_opened", "debug", entries=len(found), opened=opened, tasks=len(ours))
        return opened


def _next_count(found: Sequence[read.Read]) -> int:
    """How many entries of each partition to ask for, so that large payloads come in small reads, and the flood of
    one partition in large ones, which even from all of them would fit into memory."""
    sizes = Counter(item.position.partition for item in found)
    mean_bytes = sum(len(item.fields.get(b"d", b"")) for item in found) // len(found) + 256
    usual = min(READ_COUNT, READ_BYTES // mean_bytes // len(sizes))
    flooded = -(-len(found) // max(sizes.values()))  # as many partitions as would hold that with the largest share
    flood = min(MOST_A_READ // flooded, READ_BYTES // mean_bytes // partitions.PARTITIONS)
    return max(FEWEST, usual, flood)


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
