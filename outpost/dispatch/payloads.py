"""Events that left the stream while a delivery of them is still due: read from the log store, then handed over.

Apart from the scheduler, so that a log store that is away or slow delays nothing but these. A task whose event is
not to be had now stays in `due`, a little later.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from outpost import errors, pacing, telemetry
from outpost.dispatch.fairness import lanes as lane_rules
from outpost.domain import delivery, events
from outpost.log import batching
from outpost.log import position as positions
from outpost.log.delivery import tasks
from outpost.log.redis import client
from outpost.queue import base as queues
from projections.config import catch_up

BATCH = 100  # events of one read
BATCH_BYTES = 8 * 1024 * 1024  # expected of their payloads, which are in memory beside the lanes
MOST = 10_000  # tasks that wait here; others come back when their watchdog ends
LIMIT_S = 5.0  # for one read of the log store
DELAY_MS = 5_000  # until a task is tried again whose event could not be read
FULL_PAUSE_S = 0.1  # while the lanes take nothing

Fetch = Callable[[Sequence[positions.Position]], Awaitable[Mapping[positions.Position, events.Event]]]
Name = tuple[int, str]  # partition and task


class OldEvents:
    """One a process. `ask` never waits; `run` is its one background task."""

    def __init__(self, log: client.Log, lanes: lane_rules.Lanes, fetch: Fetch) -> None:
        self._log = log
        self._lanes = lanes
        self._fetch = fetch
        self._reading = batching.Reading(BATCH, BATCH_BYTES)
        self._waiting: dict[Name, None] = {}
        self._asked = asyncio.Event()
        self.health = telemetry.Health("old_events")

    def ask(self, claimed: Sequence[Name]) -> None:
        """These tasks were claimed and their events are not in the stream."""
        for name in claimed:
            if len(self._waiting) < MOST:
                self._waiting[name] = None
        self._asked.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Reads and hands over until `stop`; `release` then."""
        with pacing.waking(stop, self._asked.set):
            while not stop.is_set():
                if not self._waiting:
                    self._asked.clear()
                    await self._asked.wait()
                elif self._lanes.full:
                    await pacing.sleep(FULL_PAUSE_S, stop)
                else:
                    await self._step()

    async def release(self) -> None:
        """Gives back what waits here, to be claimed at once. Raises errors.StoreUnavailable."""
        waiting, self._waiting = list(self._waiting), {}
        await self._hold(waiting, 0)

    async def _step(self) -> None:
        batch = list(itertools.islice(self._waiting, self._reading.count))
        try:
            async with asyncio.timeout(LIMIT_S):
                later = await self._hand_over(batch)
        except errors.StoreUnavailable as exc:
            self._reading.failed(len(batch))
            self.health.fell(exc.store, exc.reason)
            later = list(self._waiting)  # everything, since it needs the same store
        except TimeoutError:
            self._reading.failed(len(batch))
            self.health.fell("postgres", f"no answer within {LIMIT_S:g} s")
            later = list(self._waiting)
        else:
            self.health.rose()
        for name in (*batch, *later):
            self._waiting.pop(name, None)
        with contextlib.suppress(errors.StoreUnavailable):  # then the watchdog brings them back
            await self._hold(later, DELAY_MS)

    async def _hand_over(self, batch: Sequence[Name]) -> list[Name]:
        """Hands over what can be had; returns what is to be tried again later. Raises errors.StoreUnavailable."""
        ids = [delivery.parse_task_id(text) for _, text in batch]
        places = [positions.of_entry("evt", p, i.event) for (p, _), i in zip(batch, ids, strict=True)]
        found = await self._fetch(list(dict.fromkeys(places)))
        self._reading.answered(len(found), sum(len(event.data) for event in found.values()), len(batch))
        halted = await self._show({at.partition for at in found})
        ready: list[queues.Task] = []
        later: list[Name] = []
        for (partition, text), task_id, at in zip(batch, ids, places, strict=True):
            event = found.get(at)
            if partition in halted:
                later.append((partition, text))
            elif event is None:
                telemetry.emit_sampled("task_without_event", "error", partition=partition, task=text)
            else:
                event = msgspec.structs.replace(event, version=task_id.created)
                ready.append(queues.Task(partition, text, task_id, event))
        self._lanes.receive(ready)
        telemetry.count("old_events.read", len(ready))
        return later

    async def _show(self, among: set[int]) -> set[int]:
        """Brings the read model to its head, since a row does not say which version its event was matched against.
        Returns the partitions where it is halted."""
        halted = set()
        for partition in among:
            try:
                await catch_up.to_head(self._log, partition)
            except errors.Halted:
                halted.add(partition)
        return halted

    async def _hold(self, names: Sequence[Name], delay_ms: int) -> None:
        for at in range(0, len(names), tasks.HOLD_TASKS):
            held: dict[int, list[str]] = defaultdict(list)
            for partition, text in names[at : at + tasks.HOLD_TASKS]:
                held[partition].append(text)
            await tasks.hold(self._log, held, delay_ms)
