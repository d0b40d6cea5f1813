"""How much of the log may be in memory for all clients that read it.

A read reserves what its answer may be at most, before anything is fetched, and keeps what the answer is until the
client has taken it. Whoever asks for more than is free waits for its turn. One client, or one tenant where a read
is of one, has half of it at most, so that the others always find room.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any

import msgspec
from litestar import Response
from litestar.types import Scope, Send

from outpost import errors

WAIT_S = 5.0  # for room
MAX_WAITING = 256  # reads
SHARE = 2  # a holder has at most the whole divided by this
PIECE_BYTES = 64 * 1024  # of an answer that are given to the socket at once
_HELD = "outpost.read"  # in the state of a request's scope


def in_pieces(send: Send) -> Send:
    """Sends long bodies a piece at a time, each when the client has taken most of those before it."""

    async def send_piece(message: Any) -> None:
        body = message.get("body", b"")
        if message["type"] == "http.response.body" and len(body) > PIECE_BYTES and not message.get("more_body"):
            for start in range(0, len(body), PIECE_BYTES):
                piece = body[start : start + PIECE_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await send(message)

    return send_piece


class Reading:
    """The room of one read. `holder` is whose share it is of."""

    __slots__ = ("holder", "size")

    def __init__(self, holder: str, size: int) -> None:
        self.holder = holder
        self.size = size


class Reads:
    """The room of one process."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: dict[str, int] = {}  # holder -> bytes
        self._waiting: deque[tuple[Reading, asyncio.Future[None]]] = deque()

    async def reserve(self, scope: Scope, size: int, tenant: str | None = None) -> None:
        """Takes room for an answer of up to `size` bytes to the request of `scope`; `release` gives it back.
        Raises errors.Busy if there is none in time."""
        client = scope.get("client")
        reading = Reading(f"tenant {tenant}" if tenant else f"client {client[0] if client else ''}", size)
        if not self._fits(reading):
            await self._wait(reading)
        else:
            self._take(reading)
        scope.setdefault("state", {})[_HELD] = reading

    def answer(self, scope: Scope, found: object) -> Response[Any]:
        """The answer that shows `found`. What was reserved beyond its size is free again."""
        content = msgspec.json.encode(found)
        reading: Reading | None = scope.get("state", {}).get(_HELD)
        if reading is not None:
            before, reading.size = reading.size, len(content)
            self._held[reading.holder] += len(content) - before
            self._admit()
        return Response(content, media_type="application/json")

    def release(self, scope: Scope) -> None:
        """The answer was taken, or never will be. Does nothing for a request without room."""
        reading: Reading | None = scope.get("state", {}).pop(_HELD, None)
        if reading is not None:
            self._give(reading, reading.size)

    async def _wait(self, reading: Reading) -> None:
        if len(self._waiting) >= MAX_WAITING:
            raise errors.Busy("reading")
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((reading, turn))
        try:
            async with asyncio.timeout(WAIT_S):
                await turn
        except BaseException as exc:
            if turn.done() and not turn.cancelled():
                self._give(reading, reading.size)  # its turn came as it gave up
            with contextlib.suppress(ValueError):
                self._waiting.remove((reading, turn))
            if isinstance(exc, TimeoutError):
                raise errors.Busy("reading") from None
            raise

    def _fits(self, reading: Reading) -> bool:
        """A read of more than there is may go when it is alone."""
        whole, own = sum(self._held.values()), self._held.get(reading.holder, 0)
        share = self._max_bytes // SHARE
        return (not whole or whole + reading.size <= self._max_bytes) and (not own or own + reading.size <= share)

    def _take(self, reading: Reading) -> None:
        self._held[reading.holder] = self._held.get(reading.holder, 0) + reading.size

    def _give(self, reading: Reading, size: int) -> None:
        self._held[reading.holder] -= size
        if not self._held[reading.holder]:
            del self._held[reading.holder]
        self._admit()

    def _admit(self) -> None:
        still: deque[tuple[Reading, asyncio.Future[None]]] = deque()
        for waiting, turn in self._waiting:
            if not turn.done() and self._fits(waiting):
                self._take(waiting)
                turn.set_result(None)
            elif not turn.done():
                still.append((waiting, turn))
        self._waiting = still
