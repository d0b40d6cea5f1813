"""The receiver of `outpost demo`: what a customer would write, on a free loopback port. It answers 200, keeps what
came, and checks signatures by itself instead of asking the code that made them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator
from time import monotonic

import msgspec

ANSWER_BODY = b'{"received":true}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(ANSWER_BODY), ANSWER_BODY)
)
MAX_HEAD_BYTES = 65_536
MAX_BODY_BYTES = 1_048_576
READ_LIMIT_S = 10.0


class Webhook(msgspec.Struct, frozen=True):
    """A request as it came: header names in lower case; `at` in seconds of the monotonic clock."""

    headers: dict[str, str]
    body: bytes
    at: float


class Receiver:
    """What listens; `url` is where."""

    def __init__(self) -> None:
        self.url = ""
        self._arrived: asyncio.Queue[Webhook] = asyncio.Queue()

    async def next(self, limit_s: float) -> Webhook | None:
        """The next request; None if none comes in time."""
        try:
            async with asyncio.timeout(limit_s):
                return await self._arrived.get()
        except TimeoutError:
            return None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one request, one answer. What is no request is hung up on."""
        with contextlib.suppress(ValueError, ConnectionError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            async with asyncio.timeout(READ_LIMIT_S):
                webhook = await _read(reader)
                writer.write(ANSWER)
                await writer.drain()
            self._arrived.put_nowait(webhook)
        writer.close()


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[Receiver]:
    """A receiver on a free port of 127.0.0.1."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, limit=MAX_HEAD_BYTES)
    async with server:
        receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/webhooks"
        yield receiver


async def _read(reader: asyncio.StreamReader) -> Webhook:
    head = await reader.readuntil(b"\r\n\r\n")
    request, *lines = head.decode("latin-1").split("\r\n")[:-2]
    if not request.startswith("POST "):
        raise ValueError
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= MAX_BODY_BYTES:
        raise ValueError
    body = await reader.readexactly(length)
    return Webhook(headers, body, monotonic())


def is_signed(webhook: Webhook, secret: str) -> bool:
    """Whether the signature header holds the HMAC-SHA256 of the body under `secret`, in hex behind `v0=`."""
    scheme, _, signatures = webhook.headers.get("x-outpost-signature", "").partition("=")
    expected = hmac.new(secret.encode(), webhook.body, hashlib.sha256).hexdigest()
    found = any(hmac.compare_digest(one.encode(), expected.encode()) for one in signatures.split(","))
    return scheme == "v0" and found
