"""A TCP proxy that misbehaves on demand: latency, a slow link, resets, cuts in the middle of an answer, stalls,
refusals.

`async with Toxic(host, port) as proxy:` listens on `proxy.port` of 127.0.0.1. What is set holds for connections
that are open and for those to come. It runs in the loop of the test, so that a stalled test stalls it too.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Self

CHUNK = 65_536
_LINGER_NOT = struct.pack("ii", 1, 0)  # closing sends a reset and drops what was not sent


class Toxic:
    """One listener in front of one server. `latency_s` delays every piece either way; `rate` is how many bytes a
    second pass each way, of all connections together (0: as many as there are)."""

    host = "127.0.0.1"

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.latency_s = 0.0
        self.rate = 0.0
        self._free_at = [0.0, 0.0]  # when the link can take the next piece, each way
        self.accepted = 0
        self._upstream = (host, port)
        self._cut_after: int | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def open(self) -> int:
        """Connections under way."""
        return len(self._tasks)

    async def accept(self) -> None:
        """Listens, again on the same port after `refuse`."""
        if self._server is None:
            self._server = await asyncio.start_server(self._on_connection, self.host, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Whoever connects is refused, and who is connected is reset."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self.reset()

    def lead_to(self, host: str, port: int) -> None:
        """Connections to come are those of another server, as when a name points elsewhere."""
        self._upstream = (host, port)

    def reset(self) -> None:
        """Resets every open connection, on both sides."""
        for writer in list(self._writers):
            _reset(writer)

    def cut_after(self, answered: int) -> None:
        """Passes `answered` more bytes of answers, of all connections together, then resets the one that got the
        last of them. Once."""
        self._cut_after = answered

    def stall(self) -> None:
        """Half-open: connections are accepted and stay, and nothing passes until `flow`."""
        self._flowing.clear()

    def flow(self) -> None:
        """Ends a stall; what was held back arrives late."""
        self._flowing.set()

    def heal(self) -> None:
        """Behaves from now on."""
        self.latency_s, self.rate, self._cut_after = 0.0, 0.0, None
        self.flow()

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, RuntimeError, asyncio.CancelledError):  # uvloop: closed meanwhile
                await self._flowing.wait()
                await self._join(reader, writer)
        finally:
            self._writers.discard(writer)
            _reset(writer)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        self._writers.add(up_writer)
        ways = [
            asyncio.create_task(self._pump(reader, up_writer)),
            asyncio.create_task(self._pump(up_reader, writer, answers=True)),
        ]
        try:
            await asyncio.gather(*ways)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._writers.discard(up_writer)
            _reset(up_writer)

    async def _pass(self, size: int, *, answers: bool) -> None:
        """Waits until the link has carried a piece of this size."""
        now = asyncio.get_running_loop().time()
        free_at = max(self._free_at[answers], now) + size / self.rate
        self._free_at[answers] = free_at
        await asyncio.sleep(free_at - now)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False
    ) -> None:
        """One way, until its end, which is passed on. Raises ConnectionResetError where it is cut."""
        while piece := await reader.read(CHUNK):
            await self._flowing.wait()
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            if self.rate:
                await self._pass(len(piece), answers=answers)
            cut = answers and self._cut_after is not None and self._cut_after <= len(piece)
            if cut:
                piece, self._cut_after = piece[: self._cut_after], None
            elif answers and self._cut_after is not None:
                self._cut_after -= len(piece)
            writer.write(piece)
            await writer.drain()
            if cut:
                await asyncio.sleep(0)  # what was written leaves before the reset
                raise ConnectionResetError
        if writer.can_write_eof():
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError, ValueError):  # closed already
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()
