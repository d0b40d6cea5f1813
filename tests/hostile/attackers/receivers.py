"""False webhook receivers: each answers a delivery as no service should.

A `FalseReceiver` is one misbehaviour. It runs in two ways: `opened` gives its URL to a test that sends to it,
`run` makes it a tenant's webhook of a server under attack. None sends more than `MOST_BYTES` for each connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gzip
import itertools
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httpx

from tests.hostile import attack

MOST_BYTES = 16_000_000  # that one connection pours
PIECE_BYTES = 65_536
PAUSE_S = 0.02  # between the bytes of one that trickles
SEND_BUFFER_BYTES = 262_144  # of the kernel, so that what a receiver pours is soon what the client took
LINE = b"HTTP/1.1 200 OK\r\n"
CHUNKED = LINE + b"Transfer-Encoding: chunked\r\n\r\n"
EMPTY = LINE + b"Content-Length: 0\r\n\r\n"
BOMB = gzip.compress(bytes(50_000_000))  # 50 kB


class Exchange:
    """One connection of the client, from the receiver's side. `poured` is how many bytes it was sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.poured = 0
        self._reader = reader
        self._writer = writer

    async def request(self) -> None:
        """Reads one whole request."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await self._reader.readexactly(int(length.partition(b":")[2]))

    async def say(self, data: bytes) -> None:
        """Sends `data` as fast as it is taken."""
        self._writer.write(data)
        await self._writer.drain()
        self.poured += len(data)

    async def pour(self, pieces: Iterator[bytes]) -> None:
        """Sends `pieces` until `MOST_BYTES` are out."""
        for piece in pieces:
            await self.say(piece)
            if self.poured >= MOST_BYTES:
                return

    async def trickle(self, data: bytes) -> None:
        """Sends `data` byte by byte."""
        for byte in data:
            await self.say(bytes([byte]))
            await asyncio.sleep(PAUSE_S)

    async def until_hung_up(self) -> None:
        """Reads what comes until the other side is gone."""
        while await self._reader.read(PIECE_BYTES):
            continue

    async def until_gone_unread(self) -> None:
        """Waits for the other side without taking any of its bytes."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]
        await self._writer.wait_closed()


Behaviour = Callable[[Exchange], Awaitable[None]]


def pouring(start: bytes, piece: bytes) -> Behaviour:
    """Answers a request with `start`, and then `piece` again and again."""
    whole = piece * max(1, PIECE_BYTES // len(piece))

    async def behave(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.say(start)
        await exchange.pour(itertools.repeat(whole))

    return behave


def trickling(start: bytes, rest: bytes) -> Behaviour:
    """Answers a request with `start`, and `rest` byte by byte."""

    async def behave(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.say(start)
        await exchange.trickle(rest)

    return behave


async def _speaks_first(exchange: Exchange) -> None:
    await exchange.say(EMPTY)
    await exchange.until_hung_up()


async def _answers_unread(exchange: Exchange) -> None:
    await exchange.say(EMPTY)
    await exchange.until_gone_unread()


async def _never_answers(exchange: Exchange) -> None:
    await exchange.until_hung_up()


async def _goes_on_after_the_answer(exchange: Exchange) -> None:
    await exchange.request()
    await exchange.say(EMPTY)
    await exchange.trickle(b"x" * 3)
    await exchange.pour(itertools.repeat(b"x" * PIECE_BYTES))


@dataclasses.dataclass(frozen=True)
class FalseReceiver:
    """`behaviour` serves one connection; `codes` are what an attempt at a delivery to it may end with. `pours` if
    it sends as much as the client takes, `event_bytes` is the size of the events that it is sent."""

    name: str
    codes: tuple[str, ...]
    behaviour: Behaviour
    pours: bool = False
    event_bytes: int = 100
    scheme: str = "http"
    receive_buffer_bytes: int = 0  # 0: the system's own

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[str, list[Exchange]]]:
        """Its URL, and every connection so far."""
        exchanges: list[Exchange] = []
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            exchanges.append(Exchange(reader, writer))
            try:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await self.behaviour(exchanges[-1])
                    await exchanges[-1].until_hung_up()
            finally:
                tasks.discard(task)
                writer.transport.abort()

        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if self.receive_buffer_bytes:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer_bytes)
        listening.bind(("127.0.0.1", 0))
        server = await asyncio.start_server(serve, sock=listening)
        try:
            yield f"{self.scheme}://127.0.0.1:{listening.getsockname()[1]}/", exchanges
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def run(self, target: attack.Target, seconds: float) -> None:
        """See attack.Attack: a tenant of its own has it as its webhook, and is sent events."""
        until = time.monotonic() + seconds
        tenant = f"false-{self.name.replace(' ', '-')}"
        event = {"tenant_id": tenant, "topic": "user.created", "data": {"text": "x" * self.event_bytes}}
        base, headers = f"http://{target.host}:{target.port}/api/v1", {"Authorization": f"Bearer {target.api_key}"}
        async with (
            self.opened() as (url, exchanges),
            httpx.AsyncClient(base_url=base, headers=headers, trust_env=False, timeout=seconds + 60) as http,
        ):
            made = {"type": "webhook", "topics": ["*"], "config": {"url": url}}
            with contextlib.suppress(httpx.HTTPError):
                await http.put(f"/tenants/{tenant}")
                await http.post(f"/tenants/{tenant}/destinations", json=made)
            while time.monotonic() < until:
                exchanges.clear()
                with contextlib.suppress(httpx.HTTPError):
                    await http.post("/publish", json=event)
                await asyncio.sleep(target.pause_s)


NO_HTTP = ("network_error",)
CUT_BODY = ("200",)  # the attempt counts by its status, without its body
LATE = ("timeout",)
FALSE_RECEIVERS = (
    FalseReceiver("endless chunks", CUT_BODY, pouring(CHUNKED, b"400\r\n" + b"x" * 1024 + b"\r\n"), pours=True),
    FalseReceiver("endless body", CUT_BODY, pouring(LINE + b"\r\n", b"x" * 1024), pours=True),
    FalseReceiver(
        "terabyte announced", CUT_BODY, pouring(LINE + b"Content-Length: 1000000000000\r\n\r\n", b"x"), pours=True
    ),
    FalseReceiver("chunks of one byte", CUT_BODY, pouring(CHUNKED, b"1\r\nx\r\n"), pours=True),
    FalseReceiver("chunk extensions", CUT_BODY, pouring(CHUNKED, b"1;" + b"e" * 8_000 + b"\r\nx\r\n"), pours=True),
    FalseReceiver("endless trailers", CUT_BODY, pouring(CHUNKED + b"0\r\n", b"X-A: b\r\n"), pours=True),
    FalseReceiver("giant header", NO_HTTP, pouring(LINE + b"X-A: ", b"x" * 1024), pours=True),
    FalseReceiver("giant name", NO_HTTP, pouring(LINE, b"x" * 1024), pours=True),
    FalseReceiver("many headers", NO_HTTP, pouring(LINE, b"a:\r\n"), pours=True),
    FalseReceiver("folded header", NO_HTTP, pouring(LINE + b"X-A: b", b"\r\n b"), pours=True),
    FalseReceiver("interim answers", NO_HTTP, pouring(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), pours=True),
    FalseReceiver(
        "interim answers with heads",
        NO_HTTP,
        pouring(b"", b"HTTP/1.1 103 Early Hints\r\nLink: " + b"l" * 30_000 + b"\r\n\r\n"),
        pours=True,
    ),
    FalseReceiver("blank lines", NO_HTTP, pouring(b"", b"\r\n"), pours=True),
    FalseReceiver("noise", NO_HTTP, pouring(b"", bytes(range(256))), pours=True),
    FalseReceiver(
        "gzip bomb",
        CUT_BODY,
        pouring(
            LINE + b"Content-Encoding: gzip\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(BOMB), BOMB
        ),
        pours=True,
    ),
    FalseReceiver("bytes after the answer", CUT_BODY, _goes_on_after_the_answer, pours=True),
    FalseReceiver("trickled head", LATE, trickling(b"", LINE + b"X-A: " + b"x" * 50_000)),
    FalseReceiver("trickled body", CUT_BODY, trickling(CHUNKED, b"1\r\nx\r\n" * 10_000)),
    FalseReceiver("silence", LATE, _never_answers),
    FalseReceiver("silence where TLS is to begin", LATE, _never_answers, scheme="https"),
    FalseReceiver("noise where TLS is to begin", ("tls_error", "connection_reset"), _speaks_first, scheme="https"),
    # Where the request was written before the greeting was there, no client can tell it from an answer.
    FalseReceiver("speaks first", ("early_answer", "200"), _speaks_first),
    FalseReceiver(
        "success for an unread request",
        ("early_answer",),
        _answers_unread,
        event_bytes=200_000,
        receive_buffer_bytes=4_096,
    ),
)
