"""Hostile clients of the API: each holds, floods or confuses connections as no client should.

Every one opens its connections again and again until its time is over, and sends at most `MAX_BYTES` in all: some
at once, and the rest at a pace that lasts until the end, as a client with a line of a few Mbit/s would. Without a
pace all of it is out within seconds, and the server computes for nobody else meanwhile, as it does for any client
that asks as fast as it can. What it is answered is counted in `statuses`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

from tests.harness import framing
from tests.hostile.attack import Target

MAX_BYTES = 30_000_000
AT_ONCE_BYTES = 3_000_000
MAX_BYTES_PER_S = 1_000_000  # beyond these
PIECE = b"a" * 65_536
DRIP_S = 0.2  # between the bytes of one who drips
PAUSE_S = 0.01  # before a connection is opened again
PUBLISH = b"POST /api/v1/publish HTTP/1.1\r\nHost: h\r\n"
MEGABYTE = b'{"tenant_id":"flood","topic":"user.created","data":{"x":"' + b"y" * 1_000_000 + b'"}}'


class Line:
    """One connection, until `end` (of `time.monotonic`)."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, owner: Clients, target: Target
    ) -> None:
        self.key = b"Authorization: Bearer " + target.api_key.encode() + b"\r\n"
        self._reader = reader
        self._writer = writer
        self._owner = owner

    async def say(self, data: bytes) -> bool:
        """Sends `data` as fast as it is taken; False once the attacker has sent what it may."""
        if self._owner.sent + len(data) > MAX_BYTES:
            return False
        await self._owner.pace(len(data))
        self._writer.write(data)
        await self._writer.drain()
        return True

    async def pour(self, pieces: Iterator[bytes]) -> None:
        """Sends pieces, and counts the answer if the server stops it with one."""
        answering = asyncio.create_task(self.answer())
        try:
            for piece in pieces:
                if answering.done() or not await self.say(piece):
                    break
            await answering
        finally:
            answering.cancel()

    async def drip(self, data: bytes) -> None:
        """Sends `data` byte by byte."""
        for byte in data:
            await self.say(bytes([byte]))
            await asyncio.sleep(DRIP_S)

    async def answer(self) -> None:
        """Reads one answer and counts its status."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        self._owner.statuses[int(head.split(b" ", 2)[1])] += 1
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await self._reader.readexactly(int(length or 0))

    async def until_hung_up(self) -> None:
        """Reads and counts answers until the server closes the connection."""
        while True:
            await self.answer()


class Clients:
    """`count` connections at once that all behave in one way, and send `at_once_bytes` before any pace is kept."""

    def __init__(
        self,
        name: str,
        count: int,
        behave: Callable[[Line], Awaitable[None]],
        at_once_bytes: int = AT_ONCE_BYTES,
    ) -> None:
        self.name = name
        self.sent = 0
        self.statuses: Counter[int] = Counter()
        self._count = count
        self._behave = behave
        self._at_once_bytes = at_once_bytes
        self._began, self._seconds_per_byte = 0.0, 0.0

    async def pace(self, count: int) -> None:
        """Counts bytes that are to be sent, and waits until it is time for them."""
        self.sent += count
        due = self._began + (self.sent - self._at_once_bytes) * self._seconds_per_byte
        await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def run(self, target: Target, seconds: float) -> None:
        """See `Attack`."""
        self.sent = 0
        self.statuses.clear()
        self._began = time.monotonic()
        self._seconds_per_byte = max(seconds / MAX_BYTES, 1 / MAX_BYTES_PER_S)
        end = self._began + seconds
        await asyncio.gather(*(self._again_and_again(target, end) for _ in range(self._count)))

    async def _again_and_again(self, target: Target, end: float) -> None:
        while time.monotonic() < end and self.sent < MAX_BYTES:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(end - time.monotonic()):
                    await self._once(target)
            await asyncio.sleep(PAUSE_S)

    async def _once(self, target: Target) -> None:
        reader, writer = await asyncio.open_connection(target.host, target.port)
        try:
            await self._behave(Line(reader, writer, self, target))
        finally:
            writer.transport.abort()


async def _silent(line: Line) -> None:
    await line.until_hung_up()


async def _slow_head(line: Line) -> None:
    await line.drip(PUBLISH + b"X-A: " + b"a" * 10_000)


async def _slow_body(line: Line) -> None:
    await line.say(PUBLISH + line.key + b"Content-Length: 10000\r\n\r\n")
    await line.drip(b"a" * 10_000)


async def _giant_head(line: Line) -> None:
    await line.pour(itertools.chain([PUBLISH + b"X-A: "], itertools.repeat(PIECE, 100)))


async def _many_headers(line: Line) -> None:
    await line.pour(itertools.chain([PUBLISH], itertools.repeat(b"X: a\r\n" * 10_000, 100)))


async def _giant_url(line: Line) -> None:
    await line.pour(itertools.chain([b"GET /"], itertools.repeat(PIECE, 100)))


async def _body_without_a_key(line: Line) -> None:
    await line.pour(itertools.chain([PUBLISH + b"Content-Length: 1000000\r\n\r\n"], itertools.repeat(PIECE, 15)))


async def _body_too_large(line: Line) -> None:
    head = PUBLISH + line.key + b"Content-Length: 100000000\r\n\r\n"
    await line.pour(itertools.chain([head], itertools.repeat(PIECE, 100)))


async def _held_body(line: Line) -> None:
    await line.say(PUBLISH + line.key + b"Content-Length: 1000000\r\n\r\n" + b"a" * 900_000)
    await line.until_hung_up()


async def _tiny_chunks(line: Line) -> None:
    head = PUBLISH + line.key + framing.CHUNKED + b"\r\n\r\n"
    await line.pour(itertools.chain([head], itertools.repeat(b"1\r\na\r\n" * 10_000, 100)))


async def _broken(line: Line) -> None:
    for attack in itertools.islice(_broken_requests, 1):
        await line.say(attack.sent)
        await line.until_hung_up()


async def _ahead(line: Line) -> None:
    await line.say(b"GET /api/v1/healthz HTTP/1.1\r\nHost: h\r\n\r\n" * 2_000)
    await line.until_hung_up()


async def _refused_ahead(line: Line) -> None:
    await line.say((PUBLISH + b"Content-Length: 0\r\n\r\n") * 2_000)
    await line.until_hung_up()


async def _never_reads(line: Line) -> None:
    for _ in range(200):
        await line.say(b"GET /openapi.json HTTP/1.1\r\nHost: h\r\n\r\n" * 50)
        await asyncio.sleep(DRIP_S)


async def _megabytes(line: Line) -> None:
    head = PUBLISH + line.key + b"Content-Length: %d\r\n\r\n" % len(MEGABYTE)
    while await line.say(head + MEGABYTE):
        await line.answer()


_broken_requests = itertools.cycle([*framing.REFUSED, *framing.UNAUTHORIZED])

ALL = (
    Clients("silent connections", 300, _silent),
    Clients("heads that drip", 100, _slow_head),
    Clients("bodies that drip", 100, _slow_body),
    Clients("giant heads", 4, _giant_head),
    Clients("heads of many headers", 4, _many_headers),
    Clients("giant URLs", 4, _giant_url),
    Clients("bodies without a key", 8, _body_without_a_key),
    Clients("bodies beyond the limit", 8, _body_too_large),
    Clients("held bodies", 20, _held_body, at_once_bytes=20 * 1_000_000),
    Clients("bodies in tiny chunks", 4, _tiny_chunks),
    Clients("broken requests", 8, _broken),
    Clients("requests sent ahead", 4, _ahead),
    Clients("refused requests sent ahead", 4, _refused_ahead),
    Clients("answers that nobody reads", 4, _never_reads),
    Clients("megabytes over one connection", 2, _megabytes),
)
