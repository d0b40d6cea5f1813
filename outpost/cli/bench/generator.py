"""The generator process: publishes over a fixed set of keep-alive connections, one request in flight on
each, and notes when each event was sent and answered. It shares the machine with the server under test, so
requests are rendered before the run and only the event's number is written into them.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
import sys
from array import array
from collections import deque
from pathlib import Path
from time import monotonic_ns
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop

from outpost import errors
from outpost.cli.bench import pipe, ticker, wire

CONNECT_LIMIT_S = 5.0
LEAD_NS = 50_000_000  # between the decision to start and the first event
TICK_FLOOR_NS = 250_000  # at high rates the timer fires this often and sends all that is due
LOST = -1
GROWTH = 65_536
NOTHING = wire.Phase(first=0, count=0, interval_ns=1.0, seconds=0.0, closed=False, limit_s=0.0, path="")


class Load:
    """One phase: what was sent when, what was answered when and how."""

    def __init__(self, phase: wire.Phase) -> None:
        self.phase = phase
        size = GROWTH if phase.closed else phase.count
        self.sent = array("q", bytes(8 * size))
        self.answered = array("q", bytes(8 * size))
        self.status = array("h", bytes(2 * size))
        self.start_ns = monotonic_ns() + LEAD_NS
        self.end_ns = self.start_ns + int(phase.seconds * 1e9)
        self.issued = self.finished = self.blocked = self.resent = 0
        self.over = asyncio.get_running_loop().create_future()

    def due(self, now: int) -> int:
        """How many events are due by `now`."""
        if self.phase.closed:
            return sys.maxsize if self.start_ns <= now < self.end_ns else self.issued
        return min(self.phase.count, int((now - self.start_ns) // self.phase.interval_ns) + 1)

    def issue(self) -> int:
        """The next event's place in the arrays, which grow in closed loop."""
        place = self.issued
        self.issued = place + 1
        if place == len(self.sent):
            self.sent.frombytes(bytes(8 * GROWTH))
            self.answered.frombytes(bytes(8 * GROWTH))
            self.status.frombytes(bytes(2 * GROWTH))
        return place

    def finish(self, place: int, status: int) -> None:
        """Note an answer, or the loss of its connection."""
        now = self.answered[place] = monotonic_ns()
        self.status[place] = status
        self.finished += 1
        if self.finished == self.issued and not self.over.done():
            whole = now >= self.end_ns if self.phase.closed else self.issued == self.phase.count
            if whole:
                self.over.set_result(None)

    def report(self) -> wire.Sent:
        """Write the arrays to the phase's file and say what they hold."""
        issued = self.issued
        with Path(self.phase.path).open("wb") as file:
            for samples in (self.sent, self.answered, self.status):
                samples[:issued].tofile(file)
        scheduled = issued if self.phase.closed else self.phase.count
        return wire.Sent(
            start_ns=self.start_ns, issued=issued, scheduled=scheduled, blocked=self.blocked, resent=self.resent
        )


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
                    lambda: Connection(self), host, port,
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
            old.load.finish(old.place, LOST)
            in_flight = False
        try:
            new = await self.connect()
        except errors.StartRefused:
            if in_flight:
                old.load.finish(old.place, LOST)
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
        tick_ns = LEAD_NS if phase.closed else max(TICK_FLOOR_NS, int(phase.interval_ns))
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
