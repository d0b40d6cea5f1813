"""A service with one queue on it, for the suite that every broker passes (test_queue_brokers.py)."""

from __future__ import annotations

import abc
import asyncio
from typing import Self

from outpost.queue import broker


class World(abc.ABC):
    """`locks`: what is received comes again after a time, and can be kept for longer. Without, it comes again when
    its connection ends. `told_ids`: every message has an id that its redelivery has too. `dead_letter_reasons`: a
    dead letter says why. `most_bytes`: the longest message that the suite is to send."""

    name: str
    locks = False
    told_ids = True
    dead_letter_reasons = True
    most_bytes = 192 * 1024

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:  # noqa: B027  # most have nothing to end
        """Ends what was made for the test."""

    def is_of_stand_in(self, task: asyncio.Task[object]) -> bool:
        """Whether it is a task of a stand-in that runs in the loop of the test."""
        return False

    @abc.abstractmethod
    def broker(self) -> broker.Broker:
        """Another connection to the queue, not prepared."""

    @abc.abstractmethod
    def missing(self) -> broker.Broker:
        """A connection to a queue that does not exist."""

    @abc.abstractmethod
    def unauthorized(self) -> broker.Broker:
        """A connection with a wrong password, key or token; the secret in it is `hunter2`."""

    @abc.abstractmethod
    async def put(self, bodies: list[bytes]) -> None:
        """As a producer with a client of the service's own."""

    @abc.abstractmethod
    async def dead_letters(self) -> list[tuple[bytes, str]]:
        """What lies there, each with its reason ("" where none is told)."""

    @abc.abstractmethod
    async def end_locks(self, held: broker.Broker) -> None:
        """What `held` has received and not settled comes again."""

    @abc.abstractmethod
    async def go_away(self) -> None:
        """Nobody answers any more; connections that stand are cut."""

    @abc.abstractmethod
    async def come_back(self) -> None:
        """It answers again, with what it had."""
