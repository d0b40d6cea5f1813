"""An HTTP receiver that does what a script says: answers, waits, talks nonsense, hangs up.

It is a plain TCP server, so that it can break every rule of HTTP. A script is a list of steps; each request takes
the next script that was queued with `then`, or else the standing one of `always` (200 with an empty body).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import Self


class Do(enum.Enum):
    """What a script can do beside writing bytes."""

    HANG = "write nothing more until the peer hangs up or the receiver is closed"
    CLOSE = "hang up"
    RESET = "hang up with a TCP reset"


@dataclasses.dataclass(frozen=True)
class Sleep:
    """Waits, in seconds."""

    seconds: float


@dataclasses.dataclass(frozen=True)
class WaitFor:
    """Waits until the test sets the event."""

    event: asyncio.Event


@dataclasses.dataclass(frozen=True)
class Take:
    """Reads so many bytes of the request, and no more."""

    count: int


_HUNG_UP = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError)

Step = bytes | Do | Sleep | Take | WaitFor
Script = list[Step]


@dataclasses.dataclass(frozen=True)
class Request:
    """A request as it came in. Header names are in lower case; `connection` counts from 0."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int
    raw_head: bytes


def head(status: int = 200, *headers: str, reason: str = "X") -> bytes:
    """A status line and headers, with the empty line."""
    return "\r\n".join([f"HTTP/1.1 {status} {reason}", *headers, "", ""]).encode("latin-1")


def answer(status: int = 200, body: bytes = b"", *headers: str) -> Script:
    """A whole answer."""
    return [head(status, f"Content-Length: {len(body)}", *headers) + body]


def chunked(status: int, parts: Iterable[bytes]) -> Script:
    """An answer in chunks, each written by itself."""
    return [
        head(status, "Transfer-Encoding: chunked"),
        *(b"%x\r\n%s\r\n" % (len(part), part) for part in parts),
        b"0\r\n\r\n",
    ]


def after(seconds: float, script: Script) -> Script:
    """`script`, later."""
    return [Sleep(seconds), *script]


class Receiver:
    """`async with Receiver() as receiver:` listens on a free port of 127.0.0.1.

    `greeting` are steps that every new connection takes before anything is read from it.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        greeting: Script | None = None,
        port: int = 0,
    ) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.open = 0
        self._tls = tls
        self._greeting = greeting or []
        self._port = port
        self._queued: deque[Script] = deque()
        self._standing: Script | Callable[[Request], Script] = answer()
        self._closing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self._port, ssl=self._tls, backlog=1024
        )
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._closing.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        return self._port

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        """An address of this receiver."""
        return f"{'https' if self._tls else 'http'}://{host}:{self._port}{path}"

    def then(self, *scripts: Script) -> None:
        """Queues what to do with the next requests."""
        self._queued.extend(scripts)

    def always(self, script: Script | Callable[[Request], Script]) -> None:
        """What to do with every request that finds no queued script."""
        self._standing = script

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        number = self.connections
        self.connections += 1
        self.open += 1
        try:
            with contextlib.suppress(*_HUNG_UP):
                await self._serve(reader, writer, number)
        finally:
            self.open -= 1
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        if not await self._play(self._greeting, reader, writer):
            return
        while True:
            raw = await reader.readuntil(b"\r\n\r\n")
            first, *lines = raw[:-4].decode("utf-8").split("\r\n")
            method, target, _ = first.split(" ", 2)
            headers: dict[str, str] = {}
            for line in lines:
                name, _, value = line.partition(":")
                name = name.lower()
                headers[name] = f"{headers[name]},{value.strip()}" if name in headers else value.strip()
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            request = Request(method, target, headers, body, number, raw)
            self.requests.append(request)
            if self._queued:
                script = self._queued.popleft()
            else:
                script = self._standing(request) if callable(self._standing) else self._standing
            if not await self._play(script, reader, writer):
                return

    async def _play(self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        for step in script:
            match step:
                case bytes():
                    writer.write(step)
                    await writer.drain()
                case Sleep(seconds):
                    await asyncio.sleep(seconds)
                case Take(count):
                    await reader.readexactly(count)
                case WaitFor(event):
                    await event.wait()
                case Do.HANG:
                    while await reader.read(65_536):
                        pass
                    return False
                case Do.CLOSE:
                    writer.close()
                    await writer.wait_closed()
                    return False
                case Do.RESET:
                    raw = writer.get_extra_info("socket")
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return False
        return True
