"""The receiver process: takes webhook deliveries as cheaply as Python can, and notes when each (event,
destination) came first. It shares the machine with the server under test, so it parses, stores one integer
and answers.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from array import array
from pathlib import Path
from time import monotonic_ns
from typing import cast

import httptools
import uvloop

from outpost.cli.bench import hole, pipe, wire

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
# Outpost's default header, and that of Standard Webhooks mode.
ID_HEADERS = {b"x-outpost-event-id": True, b"webhook-id": True}
ID_HEADER_LENGTHS = frozenset(len(name) for name in ID_HEADERS)
GROWTH = array("q", bytes(8 * 65_536))
BACKLOG = 4_096
SHOWN_DOUBLES = 5


class Sheet:
    """First arrival of every delivery, by key, and the counts of what should not have come."""

    def __init__(self, run: str, tenants: int, fan_out: int) -> None:
        self.prefix = wire.event_prefix(run).encode()
        self.id_length = len(self.prefix) + wire.DIGITS
        self.tenants = tenants
        self.fan_out = fan_out
        self.first = array("q")
        self.places = {wire.hook_path(n).encode(): divmod(n, fan_out) for n in range(tenants * fan_out)}
        self.distinct = self.doubled = self.misrouted = self.foreign = self.malformed = 0
        self.doubled_ids: list[int] = []
        self.hole = hole.Count()

    def arrived(self, path: bytes, event_id: bytes) -> None:
        """Note a complete request now."""
        now = monotonic_ns()
        try:
            tenant, place = self.places[path]
            number = int(event_id[-wire.DIGITS :])
        except (KeyError, ValueError):
            self.foreign += 1
            return
        if len(event_id) != self.id_length or not event_id.startswith(self.prefix):
            self.foreign += 1
            return
        if number % self.tenants != tenant:
            self.misrouted += 1
            return
        self._count(number, number * self.fan_out + place, now)

    def _count(self, number: int, key: int, now: int) -> None:
        first = self.first
        while key >= len(first):
            first.extend(GROWTH)
        if first[key]:
            self.doubled += 1
            if len(self.doubled_ids) < SHOWN_DOUBLES:
                self.doubled_ids.append(number)
            return
        first[key] = now
        self.distinct += 1

    def counts(self) -> wire.Received:
        """The counts so far."""
        return wire.Received(
            distinct=self.distinct,
            doubled=self.doubled,
            misrouted=self.misrouted,
            foreign=self.foreign,
            malformed=self.malformed,
            doubled_ids=self.doubled_ids,
            hole_most=self.hole.most,
            hole_connections=self.hole.taken,
        )


class Hook(asyncio.Protocol):
    """One connection of the server under test. Requests may come in pieces or several in one read."""

    __slots__ = ("event_id", "parser", "path", "sheet", "transport")

    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet
        self.path = self.event_id = b""
        self.parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport for the answers."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's transports are not subclasses

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls the methods below."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.sheet.malformed += 1
            self.transport.close()

    def on_url(self, url: bytes) -> None:
        """The path; a piece of it, when it was split between two reads."""
        self.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Only the event id is of interest; the length spares most names the lower-casing."""
        if len(name) in ID_HEADER_LENGTHS and name.lower() in ID_HEADERS:
            self.event_id = value

    def on_message_complete(self) -> None:
        """Count, answer, and be ready for the next request."""
        self.sheet.arrived(self.path, self.event_id)
        self.path = self.event_id = b""
        self.transport.write(ANSWER)
        if not self.parser.should_keep_alive():
            self.transport.close()


async def serve(commands: pipe.Commands) -> None:
    """Listen, tell the port, and answer `Collect` commands until the command closes the pipe."""
    plan = commands.decode(await commands.line(), wire.Plan)
    sheet = Sheet(plan.run, plan.tenants, plan.fan_out)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Hook(sheet), plan.host, 0, backlog=BACKLOG)
    silent = await loop.create_server(lambda: hole.Hole(sheet.hole), plan.host, 0, backlog=BACKLOG)
    commands.answer(wire.Ready(_port(server), _port(silent)))
    try:
        while line := await commands.line():
            collect = commands.decode(line, wire.Collect)
            if collect.path:
                with Path(collect.path).open("wb") as file:  # noqa: ASYNC230 (nobody else needs the loop now)
                    sheet.first.tofile(file)
            commands.answer(sheet.counts())
    finally:
        server.close()
        silent.close()


def _port(server: asyncio.AbstractServer) -> int:
    return int(server.sockets[0].getsockname()[1])  # type: ignore[attr-defined] # uvloop's has them, too


async def _main() -> None:
    await serve(await pipe.Commands.open())


if __name__ == "__main__":
    gc.disable()  # nothing here makes cycles, and a collection would show up as latency
    uvloop.run(_main())
    sys.exit(0)
