"""A receiver of webhooks as a customer would write it, on loopback, for `outpost demo` and `outpost receive`.

It keeps what came, answers as it was told, and checks signatures by itself instead of calling the code that made
them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator
from http import HTTPStatus
from time import monotonic

import msgspec

ANSWER_BODY = b'{"received":true}'
HOST = "127.0.0.1"
MAX_HEAD_BYTES = 65_536
MAX_BODY_BYTES = 1_048_576
MAX_WAITING_WEBHOOKS = 100  # that nobody has taken yet; a further one is answered when there is room again
READ_LIMIT_S = 10.0


class Answer(msgspec.Struct, frozen=True):
    """What every request is answered with: a status after a delay, or nothing at all until the sender gives up."""

    status: int = 200
    delay_s: float = 0.0
    hang: bool = False

    def head(self) -> bytes:
        """The status line and the headers."""
        phrase = HTTPStatus(self.status).phrase if self.status in set(HTTPStatus) else "Status"
        return (
            f"HTTP/1.1 {self.status} {phrase}\r\nContent-Type: application/json\r\nConnection: close\r\n"
            f"Content-Length: {len(ANSWER_BODY)}\r\n\r\n"
        ).encode()


class Webhook(msgspec.Struct, frozen=True):
    """A request as it came: header names are in lower case, and `at` is in seconds of the monotonic clock."""

    target: str
    headers: dict[str, str]
    body: bytes
    at: float


class Receiver:
    """The webhooks that arrive at `url`, in the order of their arrival."""

    def __init__(self, answer: Answer) -> None:
        self.url = ""
        self._answer = answer
        self._arrived: asyncio.Queue[Webhook] = asyncio.Queue(MAX_WAITING_WEBHOOKS)

    async def next(self, limit_s: float | None) -> Webhook | None:
        """Returns the next request, or None if none comes within the limit."""
        try:
            async with asyncio.timeout(limit_s):
                return await self._arrived.get()
        except TimeoutError:
            return None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes one request from a connection and answers it. What is not a request is not answered."""
        with contextlib.suppress(ValueError, ConnectionError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            async with asyncio.timeout(READ_LIMIT_S):
                webhook = await _read(reader)
            await self._arrived.put(webhook)
            if self._answer.hang:
                await reader.read()  # ends when the sender closes
            else:
                await asyncio.sleep(self._answer.delay_s)
                writer.write(self._answer.head() + ANSWER_BODY)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def listening(port: int = 0, answer: Answer | None = None) -> AsyncIterator[Receiver]:
    """A receiver on a port of 127.0.0.1 (0: a free one). Raises OSError where the port is taken."""
    receiver = Receiver(answer or Answer())
    server = await asyncio.start_server(receiver.serve, HOST, port, limit=MAX_HEAD_BYTES)
    async with server:
        receiver.url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}/"
        yield receiver


async def _read(reader: asyncio.StreamReader) -> Webhook:
    head = await reader.readuntil(b"\r\n\r\n")
    request, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, _, rest = request.partition(" ")
    if method != "POST":
        raise ValueError
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= MAX_BODY_BYTES:
        raise ValueError
    body = await reader.readexactly(length)
    return Webhook(rest.partition(" ")[0], headers, body, monotonic())


def is_signed(webhook: Webhook, secret: str) -> bool:
    """Tells whether the signature header holds the HMAC-SHA256 of the body under `secret`, in hex behind `v0=`."""
    scheme, _, signatures = webhook.headers.get("x-outpost-signature", "").partition("=")
    expected = hmac.new(secret.encode(), webhook.body, hashlib.sha256).hexdigest()
    found = any(hmac.compare_digest(one.encode(), expected.encode()) for one in signatures.split(","))
    return scheme == "v0" and found
