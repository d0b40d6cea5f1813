"""A client that sends the bytes it is told, whatever they are, and reads the answers strictly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple

LIMIT_S = 60.0  # generous: a wait ends when the server does what it should


class Answered(NamedTuple):
    """One answer; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Closed(Exception):
    """The server closed the connection where an answer was due."""


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Sends without waiting."""
        self.writer.write(data)

    async def answer(self) -> Answered:
        """The next answer. Raises Closed, and ValueError if what came is no HTTP answer."""
        async with asyncio.timeout(LIMIT_S):
            try:
                head = await self._reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError) as exc:
                if getattr(exc, "partial", b""):
                    raise ValueError("half an answer") from exc
                raise Closed from exc
            line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
            version, status, _ = line.split(" ", 2)
            if version != "HTTP/1.1" or len(status) != 3:
                raise ValueError(line)
            headers = {name.lower(): value for name, value in (each.split(": ", 1) for each in lines)}
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
            return Answered(int(status), headers, body)

    async def closed(self) -> bytes:
        """Waits until the server has closed the connection; what it sent before."""
        rest = b""
        async with asyncio.timeout(LIMIT_S):
            with contextlib.suppress(ConnectionError):
                while data := await self._reader.read(65_536):
                    rest += data
        return rest


@contextlib.asynccontextmanager
async def connect(port: int, host: str = "127.0.0.1") -> AsyncIterator[RawClient]:
    """A connection that is closed at the end."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def ask(port: int, sent: bytes) -> Answered:
    """The answer to one request on a connection of its own."""
    async with connect(port) as client:
        client.send(sent)
        return await client.answer()
