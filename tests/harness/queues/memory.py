"""A broker in memory, for what is done with messages: it keeps, redelivers and buries as services do, and harms
what passes through it as a test asks."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from outpost.queue import broker
from tests.harness.queues import world


class Message(msgspec.Struct):
    """On the queue. `deliveries` counts what consumers got of it."""

    body: bytes
    id: str
    deliveries: int = 0
    attributes: dict[str, str] = {}


class MemoryQueue:
    """What the processes of a test share. A switch is a fault while it is on."""

    def __init__(self) -> None:
        self.ready: deque[Message] = deque()
        self.taken: dict[int, Message] = {}
        self.dead: list[tuple[Message, str]] = []
        self.acknowledged = 0
        self.away = False  # every call fails
        self.mute = False  # takes everything, hands out nothing
        self.refuses = False  # confirms nothing, keeps nothing
        self.eats_confirms = False  # keeps, and does not confirm
        self.eats_acknowledgements = False
        self.copies: Callable[[], int] = lambda: 1  # how often a message arrives that is sent
        self.places: Callable[[int], int] = lambda size: size  # where it is put: at the end
        self._ids = itertools.count(1)
        self.news = asyncio.Event()

    def put(self, body: bytes, message_id: str | None = None) -> None:
        """As a producer."""
        name = f"m-{next(self._ids)}" if message_id is None else message_id
        for _ in range(self.copies()):
            self.ready.insert(self.places(len(self.ready)), Message(body, name))
        self.news.set()

    def redeliver(self) -> None:
        """The lock of everything that is in hand ends."""
        self.ready.extend(self.taken.values())
        self.taken.clear()
        self.news.set()


class MemoryBroker:
    """One connection to it. See `outpost.queue.broker.Broker`."""

    name = "memory"

    def __init__(
        self,
        queue: MemoryQueue,
        limits: broker.Limits | None = None,
        dead_letters: bool = True,
        problems: Sequence[str] = (),
    ) -> None:
        self.queue = queue
        self.names: Mapping[str, str] = {"queue": "q"}
        self._limits = limits or broker.Limits(message_bytes=262_144, call_messages=10, call_bytes=1 << 20)
        self._dead_letters = dead_letters
        self._problems = problems
        self._receipts = itertools.count(1)
        self.prepared = 0
        self.receiving = False
        self.extended: list[float] = []
        self.given_back: list[float] = []

    @property
    def limits(self) -> broker.Limits:
        """As the test says."""
        return self._limits

    async def prepare(self, provision: bool) -> list[str]:
        """What the test says."""
        self._check()
        self.prepared += 1
        return list(self._problems)

    async def send(self, bodies: Sequence[bytes]) -> list[bool]:
        """Puts them, or not."""
        self._check()
        await asyncio.sleep(0)
        if self.queue.refuses:
            return [False] * len(bodies)
        for body in bodies:
            assert len(body) <= self._limits.message_bytes
            self.queue.put(body)
        return [not self.queue.eats_confirms] * len(bodies)

    async def receive(self, count: int, wait_s: float) -> list[broker.Received]:
        """The oldest ones."""
        self.receiving = True
        try:
            return await self._receive(count, wait_s)
        finally:
            self.receiving = False

    async def _receive(self, count: int, wait_s: float) -> list[broker.Received]:
        self._check()
        queue = self.queue
        if not queue.ready or queue.mute:
            queue.news.clear()
            try:
                async with asyncio.timeout(min(wait_s, 0.05)):
                    await queue.news.wait()
            except TimeoutError:
                return []
        self._check()
        found = []
        while queue.ready and len(found) < count and not queue.mute:
            message = queue.ready.popleft()
            message.deliveries += 1
            receipt = next(self._receipts) * 1_000_000 + id(self) % 1_000_000
            queue.taken[receipt] = message
            found.append(
                broker.Received(
                    body=message.body,
                    receipt=receipt,
                    message_id=message.id,
                    deliveries=message.deliveries,
                    attributes=message.attributes,
                )
            )
        return found

    async def acknowledge(self, receipts: Sequence[Any]) -> None:
        """They are gone."""
        self._check()
        if self.queue.eats_acknowledgements:
            return
        for receipt in receipts:
            self.queue.acknowledged += self.queue.taken.pop(receipt, None) is not None

    async def extend(self, receipts: Sequence[Any], seconds: float) -> None:
        """Notes it."""
        self._check()
        self.extended.append(seconds)

    async def give_back(self, receipts: Sequence[Any], delay_s: float = 0.0) -> None:
        """To the head of the queue."""
        self._check()
        self.given_back.append(delay_s)
        for receipt in receipts:
            if message := self.queue.taken.pop(receipt, None):
                self.queue.ready.append(message)

    async def bury(self, received: broker.Received, reason: str) -> bool:
        """To the dead letters, if there are any."""
        self._check()
        if not self._dead_letters:
            return False
        self.queue.dead.append((self.queue.taken.pop(received.receipt), reason))
        return True

    async def depth(self) -> broker.Depth | None:
        """What lies there."""
        self._check()
        queue = self.queue
        return broker.Depth(ready=len(queue.ready), unacknowledged=len(queue.taken), dead_letters=len(queue.dead))

    async def close(self) -> None:
        """Nothing to close."""

    def _check(self) -> None:
        if self.queue.away:
            raise broker.BrokerError("connection_refused", "nobody listens there")


class World(world.World):
    """The queue in memory."""

    name = "memory"

    def __init__(self) -> None:
        self.queue = MemoryQueue()

    def broker(self) -> MemoryBroker:
        return MemoryBroker(self.queue)

    def missing(self) -> MemoryBroker:
        return MemoryBroker(self.queue, problems=["QUEUE names a queue that does not exist"])

    def unauthorized(self) -> MemoryBroker:
        return MemoryBroker(self.queue, problems=["the login is refused"])

    async def put(self, bodies: list[bytes]) -> None:
        for body in bodies:
            self.queue.put(body)

    async def dead_letters(self) -> list[tuple[bytes, str]]:
        return [(message.body, reason) for message, reason in self.queue.dead]

    async def end_locks(self, held: broker.Broker) -> None:
        self.queue.redeliver()

    async def go_away(self) -> None:
        self.queue.away = True

    async def come_back(self) -> None:
        self.queue.away = False
