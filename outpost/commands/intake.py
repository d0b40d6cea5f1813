"""The publish queue: events that producers put on a broker, appended as those of `POST /publish` are.

A message is acknowledged after its event is in the log (N6 of docs/queues.md), and the same message delivered
twice is one event (N7). What breaks a rule goes to the dead-letter queue with its reason; while the log takes
nothing the consumer waits, instead of burning redeliveries.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Callable, Sequence

import msgspec

from outpost import errors, pacing, telemetry
from outpost.commands import actor as actors
from outpost.commands import forms, publish
from outpost.queue import broker
from outpost.settings import Settings

IN_HAND_MESSAGES = 1_000
IN_HAND_BYTES = 16 * 1024 * 1024
RECEIVE_COUNT = 100
WAIT_S = 2.0  # for the first message
STOP_S = 3.0  # in which what is in hand is appended at a stop
FULL_PAUSE_S = 0.02
HOLD_S = 600.0  # what the log does not take for so long goes back to the broker
REASON_CHARACTERS = 500

_IDS = uuid.UUID("9f4f0c1e-6f3b-5d0e-8a54-2f9a3d6c7b10")  # the namespace of ids that are derived from messages


class _Held(msgspec.Struct, frozen=True):
    """A message in hand, and what was read from it."""

    received: broker.Received
    actor: actors.Actor
    request: publish.Publish


class Intake:
    """One a process. `run` until `stop`; its background tasks are owned by it."""

    def __init__(
        self, source: broker.Broker, publisher: publish.Publisher, settings: Settings, now_ms: Callable[[], int]
    ) -> None:
        self._broker = source
        self._publisher = publisher
        self._settings = settings
        self._now_ms = now_ms
        self._queue = "/".join(source.names.values())
        self._messages = 0
        self._bytes = 0
        self._waiting = 0  # messages that the log did not take yet
        self._store_away = 0  # batches that wait for it
        self._stopped = asyncio.Event()
        self._connected = False
        self.health = telemetry.Health("publish-queue")

    async def prepare(self) -> list[str]:
        """Connects for the first time; returns what is certainly wrong, a sentence each."""
        try:
            return await self._connect()
        except broker.BrokerError as exc:
            self._fell(exc)
            return []

    async def run(self, stop: asyncio.Event) -> None:
        """Connects, consumes, and connects again after a failure; ends only at `stop`, when what is in hand is
        appended or given back."""
        batches: set[asyncio.Task[None]] = set()
        pause = pacing.Pause(broker.FIRST_PAUSE_S, broker.LONGEST_PAUSE_S)
        try:
            while not stop.is_set():
                try:
                    if not self._connected:
                        await self._connect_again()
                    if received := await self._receive(stop):
                        batches.add(task := asyncio.create_task(self._deal(received)))
                        task.add_done_callback(batches.discard)
                except broker.BrokerError as exc:
                    self._fell(exc)
                    await pacing.sleep(pause.next_s(), stop)
                else:
                    pause.reset()
            self._stopped.set()
            if batches:
                await asyncio.wait(batches, timeout=STOP_S)
        finally:
            self._stopped.set()
            for task in batches:
                task.cancel()
            await asyncio.gather(*batches, return_exceptions=True)
            await broker.end(self._broker)

    async def _connect_again(self) -> None:
        if problems := await self._connect():
            raise broker.BrokerError("ERR", problems[0])

    async def _connect(self) -> list[str]:
        await broker.end(self._broker)
        async with broker.deadline(broker.PREPARE_S, "the broker did not answer"):
            problems = await self._broker.prepare(False)
        if not problems:
            self._connected = True
            self.health.rose()
        return problems

    def _fell(self, exc: broker.BrokerError) -> None:
        self._connected = False
        self.health.fell(f"publish queue {self._broker.name}", f"{exc.code}: {exc.text}")

    async def _receive(self, stop: asyncio.Event) -> list[broker.Received]:
        """What comes next, while there is room for it and the log takes events."""
        room = IN_HAND_MESSAGES - self._messages
        if not room or self._bytes >= IN_HAND_BYTES or self._store_away or self._waiting * 2 >= IN_HAND_MESSAGES:
            await pacing.sleep(FULL_PAUSE_S, stop)
            return []
        async with broker.deadline(WAIT_S + broker.RECEIVE_EXTRA_S, "receiving did not end in time"):
            return await self._broker.receive(min(room, RECEIVE_COUNT), WAIT_S)

    async def _deal(self, received: Sequence[broker.Received]) -> None:
        """Everything that becomes of messages that came together. Their place in hand is free at the end."""
        size = sum(len(each.body) for each in received)
        self._messages += len(received)
        self._bytes += size
        telemetry.count("publish_queue.received", len(received))
        left = list(received)
        try:
            held, poison = self._read(received)
            for each, reason in poison:
                await self._bury(each, reason)
            left = [each.received for each in held]
            left = await self._append(held)
        except broker.BrokerError as exc:  # what was not acknowledged comes again, as the same events
            self._fell(exc)
        finally:
            self._messages -= len(received)
            self._bytes -= size
            await self._give_back(left)

    def _read(self, received: Sequence[broker.Received]) -> tuple[list[_Held], list[tuple[broker.Received, str]]]:
        held: list[_Held] = []
        poison: list[tuple[broker.Received, str]] = []
        for each in received:
            try:
                held.append(self._read_one(each))
            except errors.Invalid as exc:
                poison.append((each, _reason(exc)))
        return held, poison

    def _read_one(self, received: broker.Received) -> _Held:
        limit = self._settings.api_max_body_bytes
        if len(received.body) > limit:
            raise errors.Invalid([errors.Problem("body", "max_bytes", limit)])
        told = hashlib.sha256(received.body).hexdigest()
        name = f"{self._queue}\0{received.message_id}\0{told}" if received.message_id else ""
        missing_id = self._settings.idgen_event_prefix + str(uuid.uuid5(_IDS, name)) if name else None
        request = forms.publish_request(received.body, self._settings, self._now_ms(), missing_id)
        told_by = hashlib.sha256((name or f"{self._queue}\0{request.id}\0{told}").encode()).hexdigest()[:32]
        return _Held(received, actors.Actor("admin", f"mq-{told_by}"), request)

    async def _append(self, held: Sequence[_Held]) -> list[broker.Received]:
        """Appends and acknowledges; again, with pauses, what the log does not take. Returns what is left."""
        pause = pacing.Pause()
        loop = asyncio.get_running_loop()
        give_up, extended = loop.time() + HOLD_S, loop.time()
        waiting = list(held)
        while waiting:
            answers = await asyncio.gather(*map(self._publish, waiting))
            done: list[broker.Received] = []
            later: list[_Held] = []
            for each, failed in zip(waiting, answers, strict=True):
                if failed is None:
                    done.append(each.received)
                elif isinstance(failed, errors.Invalid):
                    await self._bury(each.received, _reason(failed))
                else:
                    later.append(each)
            if done:
                async with broker.deadline(broker.SETTLE_S, "an acknowledgement did not end in time"):
                    await self._broker.acknowledge([each.receipt for each in done])
                telemetry.count("publish_queue.acknowledged", len(done))
            waiting = later
            if not waiting or self._stopped.is_set() or loop.time() > give_up:
                break
            away = any(isinstance(failed, errors.StoreUnavailable) for failed in answers)
            self._waiting += len(waiting)
            self._store_away += away
            try:
                extended = await self._extend(waiting, extended)
                await pacing.sleep(pause.next_s(), self._stopped)
            finally:
                self._waiting -= len(waiting)
                self._store_away -= away
        return [each.received for each in waiting]

    async def _publish(self, held: _Held) -> errors.OutpostError | None:
        """None: the event is in the log. Otherwise why it may not be."""
        try:
            under_way = self._publisher.at_once(held.actor, held.request)
            if under_way is not None:
                matched, appended = under_way
                await asyncio.wait([appended])  # it is cancelled where the group commit stops, and we are not
                if appended.cancelled():
                    return errors.StoreUnavailable("redis", "shutting down")
                if publish.published(held.request, matched, appended.result()) is not None:
                    return None
            await self._publisher.publish(held.actor, held.request, fresh=under_way is not None)
        except errors.OutpostError as exc:
            return exc
        return None

    async def _extend(self, waiting: Sequence[_Held], extended: float) -> float:
        """Keeps the messages whose lock would end before the log takes them."""
        lock_s, now = self._broker.limits.lock_s, asyncio.get_running_loop().time()
        if lock_s is None or now - extended < lock_s / 3:
            return extended
        async with broker.deadline(broker.SETTLE_S, "extending did not end in time"):
            await self._broker.extend([each.received.receipt for each in waiting], lock_s)
        return now

    async def _bury(self, received: broker.Received, reason: str) -> None:
        """Where there is no dead-letter queue the message stays with the broker, at its longest delay."""
        telemetry.count("publish_queue.poison")
        telemetry.emit_sampled("publish_poison", "warning", reason=reason, bytes=len(received.body))
        async with broker.deadline(broker.SETTLE_S, "burying did not end in time"):
            if not await self._broker.bury(received, reason):
                await self._broker.give_back([received.receipt], broker.LONGEST_DELAY_S)

    async def _give_back(self, left: Sequence[broker.Received]) -> None:
        if not left:
            return
        try:
            async with broker.deadline(broker.SETTLE_S, "giving back did not end in time"):
                await self._broker.give_back([each.receipt for each in left])
        except broker.BrokerError:
            return  # their lock ends, or the connection does


def _reason(invalid: errors.Invalid) -> str:
    """Paths and rules of what is wrong, never a value."""
    return "; ".join(f"{problem.path} {problem.rule}" for problem in invalid.problems)[:REASON_CHARACTERS]
