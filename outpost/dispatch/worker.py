"""From the lanes to the destinations and back into the log: begin in batches, send, record in batches.

A task is begun only with a send slot in hand, and the slot is free again when its attempt is recorded. One
recorder commits whatever has finished while its last commit was under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence

import msgspec

from outpost import errors, pacing, telemetry
from outpost.dispatch import publishers, reactors, senders
from outpost.dispatch.fairness import lanes as lane_rules
from outpost.domain import delivery, events
from outpost.log import batching, envelope, read
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.delivery import tasks
from outpost.log.redis import client
from outpost.queue import base as queues
from projections.config import catch_up

_encode = msgspec.json.Encoder().encode

MOST_A_BEGIN = 256  # tasks of one begin round trip
MOST_A_LOAD = 100  # of them while payloads are read again
LOAD_BYTES = 8 * 1024 * 1024  # of such payloads by one round trip: that many may be in memory beside the lanes
MOST_A_RECORD = 512
RECORD_OVERHEAD_BYTES = 512  # of a call, for an attempt beside its detail: task, tenant, event
LATER_MS = 5_000  # until a task is tried again whose partition could not begin it


class Worker:
    """Delivers what the lanes hold. Its background tasks are all owned by `run`: the beginner, the senders with
    their watch, the recorder."""

    def __init__(
        self,
        log: client.Log,
        lanes: lane_rules.Lanes,
        opened: publishers.Publishers,
        policy: delivery.RetryPolicy,
        limits: senders.Limits,
        by: str,
        gone: reactors.Gone | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._log = log
        self._lanes = lanes
        self._publishers = opened
        self._policy = policy
        self._limits = limits
        self._by = by
        self._gone = gone
        self._chance = chance  # 0 to 1, for the jitter of retries
        self._generations = dict.fromkeys(range(partitions.PARTITIONS), 1)
        self._free = limits.slots
        self._senders = senders.Senders(opened, limits, self._finish)
        self._finished: deque[senders.Sending] = deque()
        self._sending = batching.Sending(MOST_A_RECORD)
        self._reading = batching.Reading(MOST_A_LOAD, LOAD_BYTES)
        self._recordable = asyncio.Event()
        self._settled = asyncio.Event()  # nothing is in flight
        self._closing = False
        self.health = telemetry.Health("worker")

    @property
    def in_flight(self) -> int:
        """Tasks begun and not yet recorded."""
        return self._limits.slots - self._free

    async def run(self, stop: asyncio.Event, drain_s: float) -> None:
        """Until `stop`; then begins nothing more and gives what is under way `drain_s` to finish. What does not
        is left to its lease: it stays live."""
        recorder = asyncio.create_task(self._record_loop())
        work = (recorder, asyncio.create_task(self._begin_loop(stop)), asyncio.create_task(self._senders.watch()))
        try:
            ended, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()  # without one of them nothing would be delivered, in silence
            deadline = asyncio.get_running_loop().time() + drain_s
            await pacing.sleep(0 if not self.in_flight else drain_s, self._settled)
            self._closing = True
            self._recordable.set()
            await asyncio.wait([recorder], timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, self._senders.close(), return_exceptions=True)

    async def _begin_loop(self, stop: asyncio.Event) -> None:
        """Ends between two round trips, never inside one: what was begun goes out."""
        with pacing.waking(stop, self._lanes.wake):
            await pacing.repeat(self._begin_step, stop, self.health, failures=errors.OutpostError)

    async def _begin_step(self) -> float | None:
        taken = self._lanes.take(min(self._free, MOST_A_BEGIN), loads=self._reading.count)
        if not taken:
            await self._lanes.changed()
            return None
        self._free -= len(taken)
        self._settled.clear()
        try:
            await self._load(taken)
            await self._begin(taken)
        except errors.OutpostError:
            for task in reversed(taken):  # each goes to the head of its lane
                self._back(task)
            raise
        return 0

    async def _load(self, taken: list[queues.Task]) -> None:
        """Reads the payloads that were left out of memory. A task whose event has left the stream meanwhile is let
        go: it stays in `due`, and the scheduler finds its event."""
        missing = [at for at, task in enumerate(taken) if not task.loaded]
        if not missing:
            return
        places = [positions.of_entry("evt", taken[at].partition, taken[at].id.event) for at in missing]
        entries = await read.exactly(self._log, places, self._reading)
        for at, entry in reversed(list(zip(missing, entries, strict=True))):
            event = None if entry is None else envelope.decode("evt", entry.position, entry.fields)
            if isinstance(event, events.Event):
                taken[at] = msgspec.structs.replace(taken[at], event=event, loaded=True)
                self._lanes.loaded(taken[at])
            else:
                self._release(taken.pop(at))

    async def _begin(self, taken: list[queues.Task]) -> None:
        """Begins what was taken; consumes from `taken` what it has dealt with."""
        grouped: dict[int, list[queues.Task]] = defaultdict(list)
        for task in taken:
            grouped[task.partition].append(task)
        leases = {id(t): self._publishers.known(t.event.tenant, t.id.destination) for t in taken}
        try:
            begun = await tasks.begin(
                self._log,
                {p: [_beginning(t, leases[id(t)]) for t in group] for p, group in grouped.items()},
                self._generations,
                self._limits.timeout_ms + self._limits.margin_ms,
                self._by,
            )
            answers = begun.checked()
        except BaseException:
            for lease in leases.values():
                self._give_back(lease)
            raise
        taken.clear()
        behind: list[queues.Task] = []
        for partition, group in grouped.items():
            if partition in answers.failed:
                for task in group:
                    self._give_back(leases[id(task)])
                await self._put_aside(group)
                continue
            for task, answer in zip(group, answers[partition], strict=True):
                lease = leases[id(task)]
                match answer:
                    case tasks.Begun(manual, field, before):
                        if field is not None:
                            self._give_back(lease)
                            lease = None
                        self._senders.put(senders.Sending(task, manual, field, lease, before=before))
                        continue
                    case tasks.TryAgain(None):
                        behind.append(task)
                    case tasks.TryAgain(generation) if generation is not None:
                        self._generations[partition] = generation
                        self._back(task)
                    case _:
                        self._release(task)
                self._give_back(lease)
        self._senders.staff()
        if behind:
            await self._catch_up(behind)

    async def _catch_up(self, behind: list[queues.Task]) -> None:
        """Brings the read models up to where these tasks need them. Where one is halted its tasks are put aside,
        and nobody else waits for them."""
        by_partition: dict[int, list[queues.Task]] = defaultdict(list)
        for task in behind:
            by_partition[task.partition].append(task)
        while by_partition:
            partition, group = by_partition.popitem()
            try:
                await catch_up.to_head(self._log, partition)
            except errors.Halted:
                await self._put_aside(group)
            except BaseException:
                for task in itertools.chain(group, *by_partition.values()):
                    self._back(task)
                raise
            else:
                for task in group:
                    self._back(task)

    async def _put_aside(self, group: Sequence[queues.Task]) -> None:
        """Lets tasks of one partition go; they come back by `due` after a while."""
        try:
            held = {group[0].partition: [(task.text, LATER_MS) for task in group]}
            with contextlib.suppress(errors.StoreUnavailable):  # then their watchdog brings them back
                await tasks.put_aside(self._log, held)
        finally:
            for task in group:
                self._release(task)

    def _finish(self, sending: senders.Sending) -> None:
        self._finished.append(sending)
        self._recordable.set()

    async def _record_loop(self) -> None:
        """Until nothing more can finish and all is recorded."""
        done = asyncio.Event()

        async def step() -> float | None:
            if self._finished:
                await self._record(self._next_recordings())
                return 0
            if self._closing:
                done.set()
                return None
            self._recordable.clear()
            await self._recordable.wait()
            return None

        await pacing.repeat(step, done, self.health)

    def _next_recordings(self) -> list[tuple[senders.Sending, tasks.Recording]]:
        """The attempts of the next call, which stay in `_finished` until they are recorded."""
        made: list[tuple[senders.Sending, tasks.Recording]] = []

        def sizes() -> Iterator[int]:
            for sending in self._finished:
                made.append((sending, self._recording(sending)))
                yield len(made[-1][1].detail) + RECORD_OVERHEAD_BYTES

        return made[: self._sending.cut(sizes())]

    async def _record(self, batch: Sequence[tuple[senders.Sending, tasks.Recording]]) -> None:
        """Records the first ones of `_finished`, and takes out what is recorded; the attempts of a partition that
        failed go to its end. Raises errors.StoreUnavailable where all failed, or the store is away."""
        recording: dict[int, list[tasks.Recording]] = defaultdict(list)
        gone: list[tuple[senders.Sending, int]] = []
        for sending, attempt in batch:
            group = recording[sending.task.partition]
            if isinstance(sending.outcome, delivery.Failed) and sending.outcome.gone:
                gone.append((sending, len(group)))
            group.append(attempt)
        try:
            answers = (await tasks.record(self._log, recording, self._by)).checked()
        except errors.StoreUnavailable:
            self._sending.failed()
            raise
        self._sending.passed()
        for sending, at in gone:
            if sending.task.partition in answers:
                self._tell_gone(sending, answers[sending.task.partition][at])
        for sending, _ in batch:
            self._finished.popleft()
            if sending.task.partition in answers:
                self._recorded(sending)
            else:
                self._finished.append(sending)
        telemetry.emit_sampled(
            "deliveries_recorded",
            "debug",
            attempts=sum(len(group) for group in answers.values()),
            failed=sum(not attempt.succeeded for _, attempt in batch),
            duplicates=sum(position is None for group in answers.values() for position in group),
        )

    def _recorded(self, sending: senders.Sending) -> None:
        timed_out = isinstance(sending.outcome, delivery.Failed) and sending.outcome.code == "timeout"
        self._release(sending.task, answered=not timed_out)
        self._give_back(sending.lease)

    def _tell_gone(self, sending: senders.Sending, recorded: positions.Position | None) -> None:
        """`recorded` is None where the reply to an earlier try of recording it was lost, among others."""
        if self._gone is not None and sending.lease is not None:
            task, version = sending.task, sending.lease.version
            at = recorded or f"{positions.of_entry('evt', task.partition, task.id.event)}.{version}"
            answered_ms = sending.started_ms + sending.took_ms
            self._gone.ask(reactors.Ask(task.event.tenant, task.id.destination, version, answered_ms, str(at)))

    def _recording(self, sending: senders.Sending) -> tasks.Recording:
        task, outcome = sending.task, sending.outcome
        assert outcome is not None
        succeeded = isinstance(outcome, delivery.Delivered)
        retry_in_ms = if_manual = None
        if isinstance(outcome, delivery.Failed) and outcome.retryable and task.event.eligible:
            made, asked_ms, chance = task.id.attempt - sending.before, outcome.retry_after_ms, self._chance()
            retry_in_ms = self._policy.delay_ms(made, asked_ms, chance)
            if_manual = self._policy.delay_ms(made - 1, asked_ms, chance)  # a manual attempt uses up none
        response = events.NO_RESPONSE
        if outcome.response is not None:
            response = msgspec.Raw(_encode(outcome.response))
        detail = events.AttemptDetail(
            topic=task.event.topic,
            destination_type=sending.lease.type if sending.lease else "",
            status="success" if succeeded else "failed",
            code=outcome.code,
            started_ms=sending.started_ms,
            took_ms=sending.took_ms,
            manual=sending.manual,
            next="none",  # the script decides it
            response_data=response,
        )
        encoded = envelope.encode_detail(detail)
        return tasks.Recording(
            task.text, task.event.tenant, task.event.id, succeeded, retry_in_ms, encoded, if_manual
        )

    def _release(self, task: queues.Task, answered: bool | None = None) -> None:
        self._lanes.done(task, answered)
        self._freed()

    def _back(self, task: queues.Task) -> None:
        self._lanes.back(task)
        self._freed()

    def _freed(self) -> None:
        self._free += 1
        if self._free == self._limits.slots:
            self._settled.set()

    def _give_back(self, lease: publishers.Lease | None) -> None:
        if lease is not None:
            self._publishers.give_back(lease)


def _beginning(task: queues.Task, lease: publishers.Lease | None) -> tasks.Beginning:
    return tasks.Beginning(
        task=task.text,
        matched_version=task.event.version,
        tenant=task.event.tenant,
        event_id=task.event.id,
        destination=task.id.destination,
        created=task.id.created,
        cached_version=0 if lease is None else lease.version,
    )
