"""The black hole of the receiver process: a port that accepts connections, reads what comes and never answers."""

from __future__ import annotations

import asyncio


class Count:
    """How many connections the hole has, the most it ever had at once, and all it took."""

    def __init__(self) -> None:
        self.now = self.most = self.taken = 0


class Hole(asyncio.Protocol):
    """One connection. It reads, since the end of a connection is seen by reading only."""

    __slots__ = ("count",)

    def __init__(self, count: Count) -> None:
        self.count = count

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: ARG002 (nothing is written)
        """Count it."""
        count = self.count
        count.now += 1
        count.taken += 1
        count.most = max(count.most, count.now)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (the reason does not matter)
        """The server gave up."""
        self.count.now -= 1
