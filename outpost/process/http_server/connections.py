"""The connections that are open, how many there may be, and the bytes of requests that they may hold together.

At the limit the connection that has been idle for longest makes room. Where none is idle, a new one becomes spare:
it gets an answer to a health check and 503 to everything else, so that orchestrators see the process in any flood.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from typing import Protocol

MAX_SPARE = 32  # connections beyond the limit; the oldest makes room for the next
ADDRESS_SHARE = 2  # one address may hold one in so many of the bytes that wait
MAX_CLOSED_AT_ONCE = 256  # idle connections chosen in one look at all of them
_CROWDED = 0.75  # of the limit, from where idle connections are chosen ahead of need


class Member(Protocol):
    """A connection as far as this module knows it."""

    address: str
    idle_since: float  # infinite while a request is under way
    proven: bool  # it has had an answer that was not a refusal
    deadline: float
    write_deadline: float

    def abort(self) -> None:
        """Closes it at once."""

    def expire(self) -> None:
        """One of its deadlines has passed."""

    def end(self) -> None:
        """Closes it as soon as no request is under way."""


class Bytes:
    """Bytes that all connections hold together, of at most `limit`."""

    __slots__ = ("held", "limit")

    def __init__(self, limit: int) -> None:
        self.held = 0
        self.limit = limit

    def take(self, count: int) -> bool:
        """Whether so many more may be held; they count from now on if so."""
        if self.held + count > self.limit:
            return False
        self.held += count
        return True

    def give(self, count: int) -> None:
        """Gives back what `take` granted."""
        self.held -= count


class SharedBytes:
    """Bytes that all connections hold together, of at most `limit`, and those of one address half of that."""

    def __init__(self, limit: int) -> None:
        self.held = 0
        self.limit = limit
        self._by_address: dict[str, int] = {}

    def take(self, count: int, address: str) -> bool:
        """Tells whether an address may hold so many more; they count from now on if so."""
        own = self._by_address.get(address, 0) + count
        if self.held + count > self.limit or own > self.limit // ADDRESS_SHARE:
            return False
        self.held += count
        self._by_address[address] = own
        return True

    def give(self, count: int, address: str) -> None:
        """Gives back what `take` granted."""
        self.held -= count
        left = self._by_address[address] - count
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]


class Connections:
    """Every open connection of one server."""

    def __init__(self, limit: int, limit_per_address: int) -> None:
        self.open: set[Member] = set()
        self.emptied = asyncio.Event()
        self.limit = limit
        self.limit_per_address = limit_per_address
        self._by_address: dict[str, int] = {}
        self._spare: dict[Member, None] = {}  # in the order of their coming
        self._longest_idle: deque[Member] = deque()
        self._looked = False  # since the last sweep

    def enter(self, member: Member) -> bool:
        """Takes a new connection; False if it is a spare one."""
        self.emptied.clear()
        count = self._by_address.get(member.address, 0)
        if count >= self.limit_per_address or (
            len(self.open) - len(self._spare) >= self.limit and not self._close_longest_idle()
        ):
            self._enter_spare(member)
            return False
        self._by_address[member.address] = count + 1
        self.open.add(member)
        return True

    def leave(self, member: Member) -> None:
        """A connection is closed, or about to be. Harmless when repeated."""
        if member not in self.open:
            return
        self.open.discard(member)
        if member in self._spare:
            del self._spare[member]
        elif (count := self._by_address[member.address] - 1) > 0:
            self._by_address[member.address] = count
        else:
            del self._by_address[member.address]
        if not self.open:
            self.emptied.set()

    def swept(self) -> None:
        """Time has passed: idle connections are chosen anew, so that `enter` need not look at all of them."""
        self._looked = False
        self._longest_idle.clear()
        if len(self.open) >= self.limit * _CROWDED:
            self._look()

    def _enter_spare(self, member: Member) -> None:
        if len(self._spare) >= MAX_SPARE:
            next(iter(self._spare)).abort()
        self.open.add(member)
        self._spare[member] = None

    def _look(self) -> None:
        """Chooses those to close: first those that never were of use, and the longest idle first."""
        self._looked = True
        idle = [each for each in self.open if each.idle_since != float("inf") and each not in self._spare]
        self._longest_idle.extend(
            heapq.nsmallest(MAX_CLOSED_AT_ONCE, idle, key=lambda each: (each.proven, each.idle_since))
        )

    def _close_longest_idle(self) -> bool:
        if not self._longest_idle and not self._looked:
            self._look()
        while self._longest_idle:
            member = self._longest_idle.popleft()
            if member in self.open and member.idle_since != float("inf"):
                member.abort()
                return True
        return False
