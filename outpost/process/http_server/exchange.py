"""The request that a connection is at: how much of it has come, its answer, and what follows the answer.

`Connection` reads requests from the buffer that is kept here. Whoever answers, the route in place or a call over
ASGI, does so here; and here it is decided whether the connection goes on, drops the rest of a body, or ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from outpost import telemetry
from outpost.api import in_place as http_in_place
from outpost.process.http_server import answers, asgi, body, wire
from outpost.process.http_server.wire import NEVER

if TYPE_CHECKING:
    from outpost.process.http_server.server import Server

MAX_DRAINED_BYTES = 65_536  # of a body that nobody wants, to keep its connection; beyond it the connection ends

# What a connection waits for: a head; the body of a request in place; the answer to a request, whose body is read
# as its handler asks for it; the rest of a body that nobody wants; the end.
HEAD, BODY, BUSY, DRAIN, ENDING = range(5)


class Exchange(wire.Wire):
    """See the module."""

    __slots__ = (
        "_body", "_buffer", "_call", "_counted", "_held", "_keep", "_owes_continue", "_reader", "_searched",
        "_state",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._state = HEAD
        self._buffer = bytearray()  # what came and is not read yet
        self._counted = 0  # bytes of the buffer that the server's budget counts
        self._searched = 0  # bytes of the buffer that hold no end of a head
        self._keep = True  # the connection, after the present request
        self._owes_continue = False
        self._reader: body.Reader | None = None  # of a body that has not come whole
        self._body = bytearray()  # of a request in place, as far as it has come
        self._held = 0  # bytes of it that the server's budget counts
        self._call: asgi.Call | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Lets go of everything but what a handler still works with."""
        super().connection_lost(exc)
        if self._state == BODY:
            self._release_body()
        self._drop_request()
        self._buffer.clear()
        self._count_buffer()

    def expire(self) -> None:
        """A deadline has passed: a client in the middle of its request is told, if no answer has begun."""
        in_request = self._state in (BODY, BUSY) or (self._state == HEAD and self._buffer)
        if in_request and self._writable is None:
            self.refuse(answers.Refused(408, "the request did not come in time"))
        else:
            self.abort()

    def end(self) -> None:
        """The server stops: an idle connection is closed, a busy one after its answer."""
        self._keep = False
        if self._state in (HEAD, DRAIN):
            self._state = ENDING
            self._close(all_read=not self._buffer and self._reader is None)

    def abort(self) -> None:
        """Closes the connection at once."""
        if self._state == BODY:
            self._release_body()
        self._state = ENDING
        self._drop_request()
        super().abort()

    def take_body(self) -> tuple[bytes, bool]:
        """What has come of the body since it was asked for last, and whether more is to come. Raises
        answers.Refused."""
        self.deadline = NEVER
        if self._reader is None:
            return b"", False
        piece = bytearray()
        self._feed(piece)
        return bytes(piece), self._reader is not None

    def await_body(self, deadline: float) -> None:
        """More of the body has to come before `deadline`."""
        if self._owes_continue:
            self._send_continue()
        self.deadline = deadline
        self._read(on=self._writable is None)

    def may_keep(self) -> bool:
        """Whether the connection goes on behind an answer that is given now; it cannot where much of the body, or
        an unknown part of it, is still to come."""
        if self._reader is not None and self._keep and not self._owes_continue:
            try:
                self._feed(bytearray())
            except answers.Refused:
                return False
        if self._reader is None:
            return self._keep and not self._server.stopping
        left = self._reader.left()
        return self._keep and not self._owes_continue and left is not None and left <= MAX_DRAINED_BYTES

    def write(self, data: bytes) -> None:
        """Sends bytes of an answer."""
        if self._transport is not None:
            self._transport.write(data)

    def write_answer(self, answer: http_in_place.Answer, *, keep: bool) -> None:
        """Sends a whole answer."""
        keep = keep and not self._server.stopping and "Connection" not in answer.headers
        self.write(answers.in_place(answer, self._server.clock, keep_alive=keep))
        self.answered(keep=keep, accepted=answer.status < 400)

    def answered(self, *, keep: bool, accepted: bool) -> None:
        """The answer is complete."""
        self._call = None
        self.proven = self.proven or accepted
        if not keep:
            self._end_with_answer()
        elif self._reader is not None:
            self._state = DRAIN
            self.deadline = self._server.now + self._server.body_timeout_s
            self._advance()
        else:
            self._wait_for_head()
            if self._buffer or not self._reading or self._peer_ended:
                self._advance()

    def refuse(self, refused: answers.Refused) -> None:
        """Answers a request that is not taken, and ends the connection; its framing may be anything."""
        telemetry.count(f"http_refused.{refused.status}")
        telemetry.emit_sampled("request_refused", "warning", per_second=1, status=refused.status)
        answered_already = self._state in (DRAIN, ENDING) or (self._call is not None and self._call.started)
        if answered_already or self._transport is None:
            self.abort()
            return
        if self._state == BODY:
            self._release_body()
        self.write(answers.in_place(refused.answer(), self._server.clock, keep_alive=False))
        self._drop_request()
        self._end_with_answer(all_read=False)

    def _advance(self) -> None:
        """Reads the buffer as far as requests can be begun or go on without waiting for an answer."""
        raise NotImplementedError

    def _wait_for_head(self) -> None:
        now = self._server.now
        self._state = HEAD
        self._searched = 0
        self.idle_since = now
        self.deadline = now + self._server.keep_alive_s

    def _be_busy(self) -> None:
        self._state = BUSY
        self.idle_since = self.deadline = NEVER

    def _end_with_answer(self, *, all_read: bool = True) -> None:
        all_read = all_read and not self._buffer and self._reader is None
        self._state = ENDING
        self._reader = None
        self._buffer.clear()
        self._count_buffer()
        self._close(all_read=all_read)

    def _drop_request(self) -> None:
        call, self._call = self._call, None
        self._reader = None
        if call is not None:
            call.drop()

    def _feed(self, into: bytearray) -> None:
        """Moves what the buffer has of the present body. Raises answers.Refused."""
        assert self._reader is not None
        data = bytes(self._buffer)
        self._buffer.clear()
        rest = self._reader.feed(data, into)
        if rest is not None:
            self._reader = None
            self._buffer += rest

    def _count_buffer(self) -> bool:
        """Counts what waits in the buffer; False if that is more than all, or one address, may hold together."""
        more = len(self._buffer) - self._counted
        if more > 0 and not self._server.waiting_bytes.take(more, self.address):
            return False
        if more < 0:
            self._server.waiting_bytes.give(-more, self.address)
        self._counted += more
        return True

    def _release_body(self) -> None:
        self._server.body_bytes.give(self._held)
        self._held = 0
        self._body = bytearray()

    def _send_continue(self) -> None:
        self._owes_continue = False
        self.write(answers.CONTINUE)
