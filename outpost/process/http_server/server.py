"""The HTTP server: it accepts connections on one socket, sweeps them for deadlines, and ends them in good order.

It is our own protocol, since uvicorn's cannot hold the limits; docs/bounds.md has the reasons and the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from outpost.api import in_place as http_in_place
from outpost.process.http_server import answers, asgi, connection, connections, ports
from outpost.settings import Settings

App = Callable[[Any, Any, Any], Awaitable[None]]

MAX_KNOWN_HEADS = 1_024  # a client that varies its headers must not fill the memory
MAX_KNOWN_HEAD_BYTES = 4_096
MAX_WAITING_BYTES = 16_777_216  # heads that have come in part, and requests sent ahead, of all clients
SWEEP_S = 0.5
GRACE_S = 5.0  # for open requests, at a stop


class Server:
    """A server for an ASGI application, which answers `route` itself. What a sweep needs and a request reads is
    public for `Connection`; others call `serve` and `stop` and read `started`. `health_paths` are answered beyond
    the limit of connections, too; `max_connections` is API_MAX_CONNECTIONS unless it is given."""

    def __init__(
        self,
        app: App,
        settings: Settings,
        route: http_in_place.Route | None = None,
        health_paths: frozenset[bytes] = frozenset(),
        max_connections: int | None = None,
    ) -> None:
        self.app = app
        self.route = route
        self.health_paths = health_paths
        self.known_heads: dict[bytes, int] = {}  # of allowed requests to the route -> the length of the body
        self.clock = answers.Clock()
        self.now = 0.0
        self.address: tuple[str, int] | None = None
        self.started = False
        self.stopping = False
        limit = settings.api_max_connections if max_connections is None else max_connections
        # Where there are fewer connections than was meant, an address has its part of them, too.
        share = settings.api_max_connections_per_address * limit // settings.api_max_connections
        self.connections = connections.Connections(limit, max(1, share))
        self.body_bytes = connections.Bytes(settings.api_max_body_bytes_in_flight)
        self.waiting_bytes = connections.SharedBytes(MAX_WAITING_BYTES)
        self.max_head_bytes = settings.api_max_head_bytes
        self.max_url_bytes = settings.api_max_url_bytes
        self.max_headers = settings.api_max_headers
        self.max_sent_ahead = settings.api_max_pipelined_requests
        self.head_timeout_s = settings.api_head_timeout_ms / 1000
        self.body_timeout_s = settings.api_body_timeout_ms / 1000
        self.body_seconds_per_byte = 1 / settings.api_body_min_bytes_per_second
        self.write_timeout_s = settings.api_write_timeout_ms / 1000
        self.keep_alive_s = settings.api_keep_alive_ms / 1000
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.TimerHandle | None = None

    async def serve(self, listening: socket.socket) -> None:
        """Serves on a bound socket until `stop`, then gives open requests `GRACE_S`."""
        loop = asyncio.get_running_loop()
        self._sweep_on()
        self.address = listening.getsockname()[:2]
        accepting = await loop.create_server(
            lambda: connection.Connection(self), sock=listening, backlog=ports.BACKLOG
        )
        self.started = True
        try:
            await self._stop.wait()
            accepting.close()
            await self._end_connections()
        finally:
            accepting.close()
            if self._sweeping is not None:
                self._sweeping.cancel()
            for each in list(self.connections.open):
                each.abort()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop(self) -> None:
        """Begins the stop. Harmless when repeated."""
        self.stopping = True
        self._stop.set()

    def run(self, call: asgi.Call) -> None:
        """Starts a request over ASGI."""
        task = asyncio.get_running_loop().create_task(call.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def learn(self, head: bytes, length: int) -> None:
        """An allowed request to the route had this head, and a body of `length` bytes behind it."""
        if len(head) > MAX_KNOWN_HEAD_BYTES:
            return
        if len(self.known_heads) >= MAX_KNOWN_HEADS:
            self.known_heads.clear()
        self.known_heads[head] = length

    async def _end_connections(self) -> None:
        for each in list(self.connections.open):
            each.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                if self.connections.open:
                    await self.connections.emptied.wait()

    def sweep(self, now: float) -> None:
        """It is `now` on the clock of the event loop: ends the connections whose deadline has passed."""
        self.now = now
        self.clock.tick()
        for each in [c for c in self.connections.open if c.deadline < now or c.write_deadline < now]:
            each.expire()
        self.connections.swept()

    def _sweep_on(self) -> None:
        loop = asyncio.get_running_loop()
        self.sweep(loop.time())
        self._sweeping = loop.call_later(SWEEP_S, self._sweep_on)
