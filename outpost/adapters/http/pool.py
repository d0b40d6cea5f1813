"""The connections of a client: those in use, those kept for the next request, and the bound on both.

The connection used last is the first to be used again, so that what is too many falls idle and is closed.
"""

from __future__ import annotations

import asyncio
import contextlib

from outpost.adapters.http import connection as connections
from outpost.adapters.http import reading

CLOSE_SECONDS = 1.0  # for the loop to close sockets that were aborted


class Pool:
    """At most `limit` connections, kept ones included: the one unused for longest makes room. That no more than
    `limit` are in use at once is for the caller to see to."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int, max_body: int) -> None:
        self._loop = loop
        self._limit = limit
        self._max_body = max_body
        self._all: set[connections.Connection] = set()
        self._kept: dict[connections.Connection, float] = {}  # since when; the oldest first
        self._by_origin: dict[str, dict[connections.Connection, None]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._gone: asyncio.Future[None] | None = None

    def take(self, origin: str) -> connections.Connection | None:
        """A kept connection to `origin` that can be written to, if there is one."""
        kept = self._by_origin.get(origin)
        while kept:
            connection, _ = kept.popitem()
            del self._kept[connection]
            if connection.fit():
                return connection
            connection.abort()
        return None

    def new(self, origin: str, *, keep_headers: bool = False) -> connections.Connection:
        """One that is still to be connected; `forget` it if that fails."""
        while len(self._all) >= self._limit and self._kept:
            self._drop(next(iter(self._kept)))
        reader = reading.HeaderReader(self._max_body) if keep_headers else reading.Reader(self._max_body)
        connection = connections.Connection(self._loop, origin, reader, self.forget)
        self._all.add(connection)
        return connection

    def give_back(self, connection: connections.Connection) -> None:
        """After an exchange: kept if it is whole, else aborted."""
        kept = self._by_origin.get(connection.origin)
        if self._gone is not None or not connection.keep():
            connection.abort()
            return
        if kept is None:
            kept = self._by_origin[connection.origin] = {}
        kept[connection] = None
        self._kept[connection] = self._loop.time()
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(connections.IDLE_SECONDS, self._sweep)

    def forget(self, connection: connections.Connection) -> None:
        """The connection is closed."""
        self._all.discard(connection)
        if self._kept.pop(connection, None) is not None:
            self._by_origin[connection.origin].pop(connection, None)
        if self._gone is not None and not self._all and not self._gone.done():
            self._gone.set_result(None)

    async def close(self) -> None:
        """Closes all, in use or not."""
        self._gone = self._loop.create_future()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._all):
            connection.abort()
        if self._all:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._gone

    def _drop(self, connection: connections.Connection) -> None:
        self._all.discard(connection)
        del self._kept[connection]
        del self._by_origin[connection.origin][connection]
        connection.abort()

    def _sweep(self) -> None:
        """Closes what was not used for long, and comes again while something is kept."""
        now = self._loop.time()
        for connection, since in list(self._kept.items()):
            if since + connections.IDLE_SECONDS > now:
                break
            self._drop(connection)
        self._by_origin = {origin: kept for origin, kept in self._by_origin.items() if kept}
        self._sweeper = None
        if self._kept:
            oldest = next(iter(self._kept.values()))
            self._sweeper = self._loop.call_at(max(oldest + connections.IDLE_SECONDS, now + 1.0), self._sweep)
