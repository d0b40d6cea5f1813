"""A queue over a broker: chunks of first attempts, spread over all processes that receive.

Whatever the broker does with a message, loses it, doubles it, delays it or refuses it, changes only when a task is
begun (docs/queues.md): `due` alone says what is live.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from outpost.queue import base, broker, chunk, receiving, sending
from outpost.queue.standing import Standing


class ChunkedQueue:
    """See `base.Queue`. `enough`: with so many tasks that may be sent at once this process asks for no more;
    `provision`: whether what is missing at the broker is made. `clock` is that of Redis in Unix ms, None while it
    is not known."""

    def __init__(
        self,
        over: broker.Broker,
        codec: chunk.Codec,
        receiver: base.Receiver,
        hold: receiving.Hold,
        clock: Callable[[], int | None],
        *,
        watchdog_ms: int,
        enough: int,
        provision: bool,
    ) -> None:
        self._broker = over
        self._receiver = receiver
        self._enough = enough
        self._standing = Standing(over.name, over.names)
        self._sender = sending.Sender(over, codec, receiver, clock, self._standing)
        self._inbox = receiving.Inbox(
            over,
            codec,
            receiver,
            hold,
            clock,
            self._standing,
            watchdog_ms=watchdog_ms,
            enough=enough,
            provision=provision,
        )
        self.health = self._standing.health

    @property
    def hungry(self) -> bool:
        """See `base.Queue`."""
        return not self._sender.full and self._receiver.hungry(self._enough)

    async def prepare(self) -> list[str]:
        """See `base.Queue`."""
        return await self._inbox.prepare()

    async def publish(self, tasks: Sequence[base.Task]) -> None:
        """See `base.Queue`."""
        await self._sender.publish(tasks)

    async def run(self, stop: asyncio.Event) -> None:
        """See `base.Queue`. What is still here at the end stands in the lanes."""
        sender = asyncio.create_task(self._sender.run(stop))
        inbox = asyncio.create_task(self._inbox.run(stop))
        try:
            done, _ = await asyncio.wait((sender, inbox), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            await asyncio.gather(sender, inbox)
        finally:
            for task in (sender, inbox):
                task.cancel()
            await asyncio.gather(sender, inbox, return_exceptions=True)
            await broker.end(self._broker)

    def state(self) -> base.State:
        """See `base.Queue`."""
        return self._standing.state()
