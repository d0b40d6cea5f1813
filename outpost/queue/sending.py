"""The sending side of a queue over a broker: tasks become chunks in groups, as a group commit does.

A flush takes what is there, so that a task that comes alone leaves at once and a flood fills the chunks. What is
not confirmed in time goes into the lanes of this process (K7 of docs/queues.md), and so does everything while the
broker is away: it costs balance between processes, not deliveries.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from outpost import pacing
from outpost.queue import base, broker, chunk
from outpost.queue.standing import Standing

FLUSH_TASKS = 10 * chunk.CHUNK_TASKS
FLUSHES = 2  # unconfirmed at a time


class Sender:
    """`publish` from one dispatcher; `run` owns the flushes and the probes."""

    def __init__(
        self,
        to: broker.Broker,
        codec: chunk.Codec,
        receiver: base.Receiver,
        clock: Callable[[], int | None],
        standing: Standing,
    ) -> None:
        self._broker = to
        self._codec = codec
        self._receiver = receiver
        self._clock = clock
        self._standing = standing
        self._buffer: deque[base.Task] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._stopping = False

    @property
    def full(self) -> bool:
        """Whether both flushes are under way and the next one is full."""
        return len(self._buffer) >= FLUSH_TASKS

    async def publish(self, tasks: Sequence[base.Task]) -> None:
        """See `base.Queue`."""
        if self._stopping or not self._standing.through:
            self._deliver_here(tasks)
            return
        self._buffer.extend(tasks)
        self._wake.set()
        while self.full and not self._stopping:
            self._room.clear()
            await self._room.wait()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, and then until the last flush is confirmed or its tasks are in the lanes."""
        flushes = [asyncio.create_task(self._flush_each()) for _ in range(FLUSHES)]
        probes = asyncio.create_task(self._probe_while_away(stop))
        try:
            await stop.wait()
            self._stopping = True
            self._wake.set()
            self._room.set()
            await asyncio.gather(*flushes)
        finally:
            self._stopping = True
            for task in (*flushes, probes):
                task.cancel()
            await asyncio.gather(*flushes, probes, return_exceptions=True)
            self._deliver_here(list(self._buffer))
            self._buffer.clear()

    async def _flush_each(self) -> None:
        while True:
            while not self._buffer:
                if self._stopping:
                    return
                self._wake.clear()
                await self._wake.wait()
            taken = [self._buffer.popleft() for _ in range(min(len(self._buffer), FLUSH_TASKS))]
            self._room.set()
            await self._flush(taken)

    async def _flush(self, taken: Sequence[base.Task]) -> None:
        now_ms = self._clock()
        if now_ms is None or not self._standing.through:
            self._deliver_here(taken)
            return
        limit = min(chunk.CHUNK_BYTES, self._broker.limits.message_bytes)
        packed = self._codec.pack(taken, now_ms, limit)
        confirmed = [False] * len(packed)
        try:
            confirmed = await self._send([each.body for each in packed])
        finally:  # cancelled as well
            for each, arrived in zip(packed, confirmed, strict=True):
                if not arrived:
                    self._deliver_here(each.tasks)

    async def _send(self, bodies: Sequence[bytes]) -> list[bool]:
        try:
            async with asyncio.timeout(broker.SEND_S):
                confirmed = await self._broker.send(bodies)
        except TimeoutError:
            self._standing.sending_fell("timeout", f"a message was not confirmed within {broker.SEND_S:g} s")
            return [False] * len(bodies)
        except broker.BrokerError as exc:
            self._standing.sending_fell(exc.code, exc.text)
            return [False] * len(bodies)
        self._standing.count("published", len(bodies))
        self._standing.count("confirmed", sum(confirmed))
        if all(confirmed):
            self._standing.sending_rose()
        else:
            self._standing.sending_fell("ERR", "the broker does not take every message")
        return confirmed

    async def _probe_while_away(self, stop: asyncio.Event) -> None:
        """While the broker refuses messages an empty chunk asks whether it takes one again."""
        pause = pacing.Pause(broker.FIRST_PAUSE_S, broker.LONGEST_PAUSE_S)
        while not stop.is_set():
            await self._standing.sending_is_away()
            await pacing.sleep(pause.next_s(), stop)
            now_ms = self._clock()
            if stop.is_set() or not self._standing.reached or now_ms is None:
                continue
            if await self._send([self._codec.probe(now_ms)]) == [True]:
                pause.reset()

    def _deliver_here(self, tasks: Sequence[base.Task]) -> None:
        if tasks:
            self._standing.count("in_process", len(tasks))
            self._receiver.receive(tasks)
