"""The generator process: publishes over a fixed set of keep-alive connections, one request in flight on
each, and notes when each event was sent and answered. It shares the machine with the server under test, so
requests are rendered before the run and only the event's number is written into them.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
import sys
from collections import deque
from time import monotonic_ns
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop

from outpost import errors
from outpost.cli.bench import pipe, ticker, wire
from outpost.cli.bench.load import Load

CONNECT_LIMIT_S = 5.0
TICK_FLOOR_NS = 250_000  # at high rates the timer fires this often and sends all that is due
CLOSED_TICK_NS = 50_000_000  # in closed loop the answers drive; the timer only starts idle connections
NOTHING = wire.Phase(first=0, count=0, interval_ns=1.0, seconds=0.0, closed=False, limit_s=0.0, path="")


class Connection(asyncio.Protocol):
    """One keep-alive connection to the target, and the event that is in flight on it (`place`, -1: none)."""

    __slots__ = ("again", "load", "number", "parser", "place", "pool", "transport")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.load = pool.load
        self.place = self.number = -1
        self.again = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A new connection takes up at once what is due."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's transports are not subclasses
        self.parser = httptools.HttpResponseParser(self)

    def take(self, load: Load) -> None:
        """Publish the next event of `load`. The answer counts there even if it comes after the phase."""
        self.load = load
        self.place = load.issue()
        self.number = load.phase.first + self.place
        load.sent[self.place] = monotonic_ns()
        self.write()

    def write(self) -> None:
        """Write the request of the event in flight."""
        pool, number = self.pool, self.number
        before, after = pool.requests[number % pool.tenants]
        self.transport.write(b"%b%09d%b" % (before, number, after))

    def data_received(self, data: bytes) -> None:
        """Feed the parser; an answer that is not HTTP costs the connection."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_message_complete(self) -> None:
        """The answer is whole: note it, and go on with what is due."""
        place = self.place
        if place < 0:
            return
        self.place = -1
        self.again = False
        self.load.finish(place, self.parser.get_status_code())
        if self.parser.should_keep_alive():
            self.pool.free(self)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (the reason does not matter)
        """The pool replaces the connection and sends an unanswered event once more: its id makes that safe."""
        self.pool.lost(self)


class Pool:
    """All connections, the idle ones in the order in which they became idle, so that all stay in use."""

    def __init__(self, plan: wire.Plan) -> None:
        self._plan = plan
        self._parts = urlsplit(plan.url)
        self.requests = wire.publish_requests(plan)
        self.tenants = plan.tenants
        self.idle: deque[Connection] = deque()
        self.load = Load(NOTHING)
        self._reconnecting: set[asyncio.Task[None]] = set()

    async def connect(self) -> Connection:
        """One connection; raises `StartRefused`."""
        host = self._parts.hostname or ""
        secure = self._parts.scheme == "https"
        port = self._parts.port or (443 if secure else 80)
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self),
                    host,
                    port,
                    ssl=ssl.create_default_context() if secure else None,
                )
        except (OSError, TimeoutError) as error:
            raise errors.StartRefused(f"cannot connect to {host}:{port}") from error
        return connection

    async def fill(self) -> None:
        """Bring the pool to its full number."""
        for _ in range(self._plan.connections):
            self.idle.append(await self.connect())

    def tick(self) -> None:
        """Send all that is due for which a connection is idle."""
        load, idle = self.load, self.idle
        due = load.due(monotonic_ns())
        while idle and load.issued < due:
            idle.popleft().take(load)

    def free(self, connection: Connection) -> None:
        """Give `connection` the next event if one is due already, else let it wait."""
        load = self.load
        if load.issued < load.due(monotonic_ns()):
            load.blocked += 1
            connection.take(load)
        else:
            self.idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """Replace a closed connection in the background."""
        if connection in self.idle:
            self.idle.remove(connection)
        task = asyncio.get_running_loop().create_task(self._replace(connection))
        self._reconnecting.add(task)
        task.add_done_callback(self._reconnecting.discard)

    async def _replace(self, old: Connection) -> None:
        in_flight = old.place >= 0
        if in_flight and old.again:
            old.load.finish(old.place, wire.LOST)
            in_flight = False
        try:
            new = await self.connect()
        except errors.StartRefused:
            if in_flight:
                old.load.finish(old.place, wire.LOST)
            return
        if not in_flight:
            self.free(new)
            return
        new.load, new.place, new.number, new.again = old.load, old.place, old.number, True
        new.load.resent += 1
        new.write()

    async def run(self, phase: wire.Phase) -> wire.Sent:
        """One phase, to its end or its limit."""
        load = self.load = Load(phase)
        tick_ns = CLOSED_TICK_NS if phase.closed else max(TICK_FLOOR_NS, int(phase.interval_ns))
        with ticker.ticking(self.tick, load.start_ns, tick_ns):
            try:
                async with asyncio.timeout(phase.seconds + phase.limit_s):
                    await load.over
            except TimeoutError:
                load.over.cancel()
        return load.report()

    async def close(self) -> None:
        """Cancel what reconnects."""
        for task in list(self._reconnecting):
            task.cancel()
        await asyncio.gather(*self._reconnecting, return_exceptions=True)


async def _main() -> int:
    commands = await pipe.Commands.open()
    pool = Pool(commands.decode(await commands.line(), wire.Plan))
    try:
        await pool.fill()
    except errors.StartRefused as error:
        print(f"outpost bench: {error}", file=sys.stderr)
        return 1
    commands.answer(wire.Ready())
    while line := await commands.line():
        commands.answer(await pool.run(commands.decode(line, wire.Phase)))
    await pool.close()
    return 0


if __name__ == "__main__":
    gc.disable()  # nothing here makes cycles, and a collection would show up as late sends
    sys.exit(uvloop.run(_main()))
