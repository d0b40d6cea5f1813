"""The socket under a connection: when it is read, what is written to it, and how it ends.

It has no timers. The server's sweep compares the two deadlines of every connection with its clock and calls
`expire`; so a request costs no timer, and a deadline is kept to within a second.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from outpost.process.http_server.server import Server

MAX_LINGER_BYTES = 1_048_576  # read and dropped after a last answer, so that the client gets to see it
LINGER_S = 2.0
SPARE_HEAD_S = 2.0  # for the head of a spare connection
NEVER = float("inf")


class Wire(asyncio.Protocol):
    """What every connection does whatever it carries. `server` has what all connections share."""

    __slots__ = (
        "_lingered", "_peer_ended", "_reading", "_server", "_spare", "_transport", "_writable",
        "address", "deadline", "idle_since", "peer", "proven", "write_deadline",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._writable: asyncio.Future[None] | None = None  # there while the client does not take what was written
        self._reading = True
        self._spare = False
        self._lingered = 0  # bytes dropped since the last answer
        self._peer_ended = False
        self.peer: tuple[str, int] | None = None
        self.address = ""
        self.proven = False
        self.idle_since = server.now
        self.deadline = NEVER
        self.write_deadline = NEVER

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes a place among the connections."""
        self._transport = transport  # type: ignore[assignment]  # a socket's transport can do both ways
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            # A socket of both families has IPv4 addresses in the form of IPv6.
            self.peer = (str(peer[0]).removeprefix("::ffff:"), int(peer[1]))
            self.address = self.peer[0]
        self._spare = not self._server.connections.enter(self)
        self.deadline = self._server.now + self.head_limit_s

    def connection_lost(self, _exc: Exception | None) -> None:
        """Gives the place back."""
        self._server.connections.leave(self)
        self._transport = None
        self.deadline = self.write_deadline = NEVER
        self._wake(self._writable)

    def pause_writing(self) -> None:
        """The client does not take its answers as fast as they come, so nothing more is read from it."""
        self.write_deadline = self._server.now + self._server.write_timeout_s
        self._writable = asyncio.get_running_loop().create_future()
        self._read(on=False)

    def resume_writing(self) -> None:
        """The client has taken enough."""
        self.write_deadline = NEVER
        waiting, self._writable = self._writable, None
        self._wake(waiting)

    def abort(self) -> None:
        """Closes the connection at once, and drops what was not sent."""
        self._server.connections.leave(self)
        if self._transport is not None:
            self._transport.abort()

    def expire(self) -> None:
        """A deadline has passed."""
        self.abort()

    def end(self) -> None:
        """The server stops."""
        raise NotImplementedError

    @property
    def head_limit_s(self) -> float:
        """How long a head may take."""
        return SPARE_HEAD_S if self._spare else self._server.head_timeout_s

    async def flushed(self) -> None:
        """Returns once the client has taken most of what was written, or is gone."""
        while self._writable is not None and self._transport is not None:
            await asyncio.shield(self._writable)

    def _read(self, *, on: bool) -> None:
        if on != self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = on
            if on:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _close(self, *, all_read: bool) -> None:
        """Closes the connection behind the last answer. A client that is still sending would lose the answer with
        its connection, so that what it sends is read and dropped for a while."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._peer_ended or (all_read and self._reading):
            self.deadline = self._server.now + self._server.write_timeout_s
            self._transport.close()
            return
        self.deadline = self._server.now + LINGER_S
        try:
            self._transport.write_eof()
        except OSError:  # the client is gone, and nothing told us yet
            self._transport.abort()
        self._read(on=True)

    def _linger(self, data: bytes) -> None:
        self._lingered += len(data)
        if self._lingered > MAX_LINGER_BYTES:
            self.abort()

    @staticmethod
    def _wake(waiting: asyncio.Future[None] | None) -> None:
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
