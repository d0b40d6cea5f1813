"""The receiving side of a queue over a broker: chunks become tasks in the lanes of this process.

A chunk is acknowledged as soon as its tasks stand in lanes (K2 of docs/queues.md): `due` says what is live, a copy
finds its tasks there or gone. One that is older than the watchdog is acknowledged unread: its tasks have come due
by themselves (K6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from outpost import errors, pacing, telemetry
from outpost.queue import base, broker, chunk
from outpost.queue.standing import Standing

RECEIVE_COUNT = 64
WAIT_S = 2.0  # for the first message: short enough for a stop
FED_PAUSE_S = 0.02  # while this process has enough to send
AHEAD_S = 20.0  # what the broker sent ahead lies here unread for so long at most
HOLD_AGAIN_S = 600.0  # while Redis is away it is kept for so long
NOT_OURS_PAUSE_S = 1.0  # after messages that are given back
SILENT_S = 30.0  # without a message, although ..
SILENT_CHUNKS = 100  # .. so many were published: the receiving side is opened anew

Hold = Callable[[Sequence[base.Task], int], Awaitable[None]]


class Inbox:
    """`run` receives while the lanes are hungry. `enough`: with so many tasks that may be sent at once this
    process takes no more. `hold` lets tasks come due after so many ms and raises errors.StoreUnavailable."""

    def __init__(
        self,
        source: broker.Broker,
        codec: chunk.Codec,
        receiver: base.Receiver,
        hold: Hold,
        clock: Callable[[], int | None],
        standing: Standing,
        watchdog_ms: int,
        enough: int,
        provision: bool,
    ) -> None:
        self._broker = source
        self._codec = codec
        self._receiver = receiver
        self._hold = hold
        self._clock = clock
        self._standing = standing
        self._watchdog_ms = watchdog_ms
        self._enough = enough
        self._provision = provision
        self._fed_since: float | None = None
        self._ahead: list[broker.Received] = []  # to be given back by `due`
        self._ahead_since = 0.0
        self._heard_at = 0.0
        self._published_then = 0

    async def prepare(self) -> list[str]:
        """Connects for the first time; returns what is certainly wrong."""
        try:
            return await self._connect()
        except broker.BrokerError as exc:
            self._standing.receiving_fell(exc.code, exc.text)
            return []

    async def run(self, stop: asyncio.Event) -> None:
        """Connects, receives, and connects again after a failure; ends only at `stop`."""
        pause = pacing.Pause(broker.FIRST_PAUSE_S, broker.LONGEST_PAUSE_S)
        while not stop.is_set():
            try:
                if not self._standing.reached:
                    await self._connect_again()
                await self._step(stop)
            except broker.BrokerError as exc:
                self._standing.receiving_fell(exc.code, exc.text)
                await pacing.sleep(pause.next_s(), stop)
            else:
                pause.reset()

    async def _connect_again(self) -> None:
        if problems := await self._connect():
            raise broker.BrokerError("ERR", problems[0])

    async def _connect(self) -> list[str]:
        await broker.end(self._broker)
        async with broker.deadline(broker.PREPARE_S, "the broker did not answer"):
            problems = await self._broker.prepare(self._provision)
        if not problems:
            self._heard_now()
            self._standing.receiving_rose()
        return problems

    async def _step(self, stop: asyncio.Event) -> None:
        if not self._receiver.hungry(self._enough):
            await self._wait_fed(stop)
            return
        self._fed_since = None
        received = self._ahead or await self._received(RECEIVE_COUNT, WAIT_S)
        self._ahead = []
        if received:
            self._heard_now()
            await self._take(received, stop)
        else:
            self._standing.arrived(None)
            self._check_silence()

    async def _received(self, count: int, wait_s: float) -> list[broker.Received]:
        async with broker.deadline(wait_s + broker.RECEIVE_EXTRA_S, "receiving did not end in time"):
            return await self._broker.receive(count, wait_s)

    async def _take(self, received: Sequence[broker.Received], stop: asyncio.Event) -> None:
        tasks, done, not_ours = await self._read(received)
        self._receiver.receive(tasks)
        await self._acknowledge(done)
        if not_ours:
            async with broker.deadline(broker.SETTLE_S, "giving back did not end in time"):
                await self._broker.give_back([each.receipt for each in not_ours], NOT_OURS_PAUSE_S)
            await pacing.sleep(NOT_OURS_PAUSE_S, stop)

    async def _read(
        self, received: Sequence[broker.Received]
    ) -> tuple[list[base.Task], list[broker.Received], list[broker.Received]]:
        """The tasks of what is young, what is to be acknowledged, and what is to be given back."""
        now_ms = self._clock()
        tasks: list[base.Task] = []
        done: list[broker.Received] = []
        not_ours: list[broker.Received] = []
        oldest_ms: int | None = None
        for each in received:
            try:
                found = self._codec.read(each.body)
            except chunk.Refused as exc:
                if exc.why in ("foreign", "version"):
                    self._standing.count(exc.why)
                    telemetry.emit_sampled("chunk_not_ours", "warning", per_second=1, reason=exc.why)
                    not_ours.append(each)
                elif not await self._bury(each, exc.why):
                    done.append(each)
                continue
            age_ms = 0 if now_ms is None else max(0, now_ms - found.sent_ms)
            oldest_ms = max(age_ms, oldest_ms or 0)
            done.append(each)
            if age_ms > self._watchdog_ms:
                self._standing.count("stale")
            else:
                self._standing.count("received")
                tasks.extend(found.tasks)
        if oldest_ms is not None:
            self._standing.arrived(oldest_ms)
        return tasks, done, not_ours

    async def _bury(self, received: broker.Received, why: str) -> bool:
        self._standing.count("unreadable")
        telemetry.emit_sampled("chunk_unreadable", "warning", reason=why, bytes=len(received.body))
        async with broker.deadline(broker.SETTLE_S, "burying did not end in time"):
            buried = await self._broker.bury(received, f"not a chunk of this deployment: {why}")
        self._standing.count("buried", buried)
        return buried

    async def _acknowledge(self, done: Sequence[broker.Received]) -> None:
        if done:
            async with broker.deadline(broker.SETTLE_S, "an acknowledgement did not end in time"):
                await self._broker.acknowledge([each.receipt for each in done])

    async def _wait_fed(self, stop: asyncio.Event) -> None:
        """While this process has enough to do. What the broker has sent ahead goes to others by `due` before its
        lock ends."""
        now = asyncio.get_running_loop().time()
        self._fed_since = self._fed_since or now
        if self._broker.limits.ahead and now - self._fed_since >= AHEAD_S:
            self._fed_since = now
            await self._return_ahead(now)
        await pacing.sleep(FED_PAUSE_S, stop)

    async def _return_ahead(self, now: float) -> None:
        if not self._ahead:
            self._ahead, self._ahead_since = await self._received(self._broker.limits.ahead, 0), now
        tasks, done, not_ours = await self._read(self._ahead)
        try:
            await self._hold(tasks, 0)
        except errors.StoreUnavailable:
            if now - self._ahead_since < HOLD_AGAIN_S:
                return
            not_ours = self._ahead
        else:
            await self._acknowledge(done)
        self._ahead = []
        if not_ours:
            async with broker.deadline(broker.SETTLE_S, "giving back did not end in time"):
                await self._broker.give_back([each.receipt for each in not_ours])

    def _heard_now(self) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        self._published_then = self._standing.published

    def _check_silence(self) -> None:
        silent_s = asyncio.get_running_loop().time() - self._heard_at
        if silent_s >= SILENT_S and self._standing.published - self._published_then >= SILENT_CHUNKS:
            raise broker.BrokerError("timeout", f"nothing arrived for {SILENT_S:g} s although chunks were sent")
