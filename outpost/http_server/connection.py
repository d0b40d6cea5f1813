"""One connection of a client: HTTP/1.x, one request at a time, every byte counted before it is kept.

A head that is byte for byte one of an earlier request to the route in place is neither parsed nor checked again,
since clients that keep their connection send the same one for ever. Requests that were sent ahead wait in the
buffer while reading pauses. Nothing of a request refers to itself, so that it is freed once it is answered.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from outpost import http_in_place, telemetry
from outpost.http_server import answers, asgi, body, head, wire
from outpost.http_server.wire import NEVER

if TYPE_CHECKING:
    from outpost.http_server.server import Server

MAX_DRAINED_BYTES = 65_536  # of a body that nobody wants, to keep its connection; beyond it the connection ends
MAX_REQUESTS_AT_ONCE = 16  # of one connection, until others have their turn

_END = b"\r\n\r\n"
# What a connection waits for: a head; the body of a request in place; the answer to a request, whose body is read
# as its handler asks for it; the rest of a body that nobody wants; the end.
_HEAD, _BODY, _BUSY, _DRAIN, _ENDING = range(5)


class Connection(wire.Wire):
    """See the module."""

    __slots__ = (
        "_advancing", "_body", "_buffer", "_call", "_counted", "_held", "_keep", "_owes_continue", "_reader",
        "_searched", "_sent_ahead", "_state",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._state = _HEAD
        self._buffer = bytearray()  # what came and is not read yet
        self._counted = 0  # bytes of the buffer that the server's budget counts
        self._searched = 0  # bytes of the buffer that hold no end of a head
        self._sent_ahead = 0  # requests begun since the buffer was empty
        self._advancing = False
        self._keep = True  # the connection, after the present request
        self._owes_continue = False
        self._reader: body.Reader | None = None  # of a body that has not come whole
        self._body = bytearray()
        self._held = 0  # bytes of the present body that the server's budget counts
        self._call: asgi.Call | None = None

    def data_received(self, data: bytes) -> None:
        """Takes a request whose head is known, whole and alone, at once. The rest is read closely."""
        if self._state == _HEAD and not self._buffer and not self._spare:
            end = data.find(_END)
            length = self._server.known_heads.get(data[:end]) if end > 0 else None
            if length is not None and len(data) == end + len(_END) + length:
                self._keep = True
                self._accept(data[-length:])
                return
        if self._state == _ENDING:
            self._linger(data)
            return
        if not self._buffer:
            self._sent_ahead = 0
        self._buffer += data
        self._advance()

    def eof_received(self) -> bool:
        """A client that has sent whole requests may close its half, and still gets the answers."""
        self._peer_ended = True
        return self._state == _BUSY and self._reader is None

    def connection_lost(self, exc: Exception | None) -> None:
        """Lets go of everything but what a handler still works with."""
        super().connection_lost(exc)
        if self._state == _BODY:
            self._release_body()
        self._drop_request()
        self._buffer.clear()
        self._count_buffer()

    def resume_writing(self) -> None:
        """Goes on with the requests that wait."""
        super().resume_writing()
        self._advance()

    def expire(self) -> None:
        """A deadline has passed: a client in the middle of its request is told, if no answer has begun."""
        in_request = self._state in (_BODY, _BUSY) or (self._state == _HEAD and self._buffer)
        if in_request and self._writable is None:
            self.refuse(answers.Refused(408, "the request did not come in time"))
        else:
            self.abort()

    def end(self) -> None:
        """The server stops: an idle connection is closed, a busy one after its answer."""
        self._keep = False
        if self._state in (_HEAD, _DRAIN):
            self._state = _ENDING
            self._close(all_read=not self._buffer and self._reader is None)

    # Requests.

    def _advance(self) -> None:
        """Reads the buffer as far as requests can be begun or go on without waiting for an answer."""
        if self._advancing:  # an answer was given at once; the loop below goes on
            return
        self._advancing = True
        deferred = False
        try:
            for _ in range(MAX_REQUESTS_AT_ONCE):
                if not self._buffer or self._writable is not None or not self._go_on():
                    break
            else:
                deferred = True
                asyncio.get_running_loop().call_soon(self._advance)
        except answers.Refused as refused:
            self.refuse(refused)
        finally:
            self._advancing = False
        if not self._count_buffer():
            self._overrun()
        if self._peer_ended and not deferred and self._writable is None and self._state in (_HEAD, _BODY, _DRAIN):
            self._end_with_answer()
        if self._state != _BUSY:
            self._read(on=self._writable is None and not deferred)
        elif self._buffer and not (self._call is not None and self._call.wake()):
            self._read(on=False)

    def _go_on(self) -> bool:
        """Takes one step; False if more bytes or an answer have to come first. Raises answers.Refused."""
        if self._state == _HEAD:
            return self._begin_next()
        if self._state == _BODY:
            self._collect()
            return True
        if self._state == _DRAIN:
            self._feed(bytearray())
            if self._reader is None:
                self._wait_for_head()
            return True
        return False

    def _overrun(self) -> None:
        """All connections together hold too much. What was sent ahead is dropped, a request that is not answered
        yet is refused."""
        if self._state == _BUSY and self._reader is None:
            self._keep = False
            self._buffer.clear()
            self._count_buffer()
            self._read(on=False)
        else:
            self.refuse(answers.Refused(503, answers.FULL))

    def _begin_next(self) -> bool:
        server, buffer = self._server, self._buffer
        if not self._searched and buffer.startswith(b"\r\n"):
            del buffer[:2]  # a stray line end behind a body is no request (RFC 9112 section 2.2)
        end = buffer.find(_END, max(0, self._searched - len(_END) + 1))
        if end < 0:
            self._check_partial_head()
            return False
        if end > server.max_head_bytes:
            raise self._too_long()
        raw = bytes(buffer[:end])
        del buffer[: end + len(_END)]
        self._searched = 0
        self._sent_ahead += 1
        length = None if self._spare else server.known_heads.get(raw)
        if length is None:
            self._begin(raw, head.parse(raw, server.max_url_bytes, server.max_headers))
        else:
            self._keep = self._sent_ahead <= server.max_sent_ahead
            self._begin_body(body.ByLength(length))
        return True

    def _check_partial_head(self) -> None:
        """Raises answers.Refused if no head can become of what has come of one."""
        buffer, searched = self._buffer, self._searched
        if len(buffer) > self._server.max_head_bytes + len(_END):
            raise self._too_long()
        if buffer.count(b"\n", searched) != buffer.count(b"\r\n", max(0, searched - 1)):
            raise answers.Refused(400, "lines end in CRLF")
        if buffer and not searched:
            self.deadline = self._server.now + self.head_limit_s
        self._searched = len(buffer)

    def _too_long(self) -> answers.Refused:
        limit = self._server.max_url_bytes
        if 0 <= self._buffer.find(b"\r\n") <= limit + head.MAX_BYTES_BESIDE_URL:
            return answers.Refused(431, f"the head must be at most {self._server.max_head_bytes} bytes")
        return answers.Refused(414, f"the URL must be at most {limit} bytes")

    def _begin(self, raw: bytes, request: head.Head) -> None:
        server, route = self._server, self._server.route
        self._keep = request.keep_alive and self._sent_ahead <= server.max_sent_ahead and not self._spare
        if self._spare and request.path not in server.health_paths:
            raise answers.Refused(503, "too many connections")
        self._owes_continue = request.expects_continue and not self._buffer
        reader = body.reader_for(request.length, chunked=request.chunked)
        if route is None or request.path != route.path or request.method != b"POST" or request.query:
            self._reader = reader
            self._be_busy()
            self._call = asgi.Call(server, self, request)
            server.run(self._call)
            return
        refusal = route.refusal(request.headers)
        if refusal is None and request.length > route.max_body_bytes:
            refusal = route.too_large()
        if refusal is not None:
            self._reader = reader
            self._be_busy()
            self.write_answer(refusal, keep=self.may_keep())
            return
        if self._keep and request.length and not request.expects_continue:
            server.learn(raw, request.length)
        if self._owes_continue:
            self._send_continue()
        self._begin_body(reader)

    # The route in place.

    def _begin_body(self, reader: body.Reader | None) -> None:
        if reader is None:
            self._accept(b"")
            return
        self._state = _BODY
        self._reader = reader
        self.idle_since = NEVER
        self.deadline = self._server.now + self._server.body_timeout_s

    def _collect(self) -> None:
        """Takes more of the body. Raises answers.Refused."""
        server = self._server
        assert server.route is not None
        before = len(self._body)
        self._feed(self._body)
        more = len(self._body) - before
        if not server.body_bytes.take(more):
            raise answers.Refused(503, answers.FULL)
        self._held += more
        self.deadline += more * server.body_seconds_per_byte
        if len(self._body) > server.route.max_body_bytes:
            self._release_body()
            self._be_busy()
            self.write_answer(server.route.too_large(), keep=False)
        elif self._reader is None:
            whole = bytes(self._body)
            self._release_body()
            self._accept(whole)

    def _accept(self, whole: bytes) -> None:
        """Hands the body of an allowed request to the route."""
        server = self._server
        assert server.route is not None
        self._be_busy()
        if server.body_bytes.take(len(whole)):
            self._held = len(whole)
            server.route.accept(whole, self._respond)
        else:
            self.write_answer(answers.Refused(503, answers.FULL).answer(), keep=self._keep)

    def _respond(self, answer: http_in_place.Answer) -> None:
        self._server.body_bytes.give(self._held)
        self._held = 0
        if self._state == _BUSY and self._transport is not None:
            self.write_answer(answer, keep=self._keep)

    # Bodies that a call over ASGI asks for.

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

    # Answers.

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
            self._state = _DRAIN
            self.deadline = self._server.now + self._server.body_timeout_s
            self._advance()
        else:
            self._wait_for_head()
            if self._buffer or not self._reading or self._peer_ended:
                self._advance()

    def _wait_for_head(self) -> None:
        now = self._server.now
        self._state = _HEAD
        self._searched = 0
        self.idle_since = now
        self.deadline = now + self._server.keep_alive_s

    def refuse(self, refused: answers.Refused) -> None:
        """Answers a request that is not taken, and ends the connection; its framing may be anything."""
        telemetry.count(f"http_refused.{refused.status}")
        telemetry.emit_sampled("request_refused", "warning", per_second=1, status=refused.status)
        answered_already = self._state in (_DRAIN, _ENDING) or (self._call is not None and self._call.started)
        if answered_already or self._transport is None:
            self.abort()
            return
        if self._state == _BODY:
            self._release_body()
        self.write(answers.in_place(refused.answer(), self._server.clock, keep_alive=False))
        self._drop_request()
        self._end_with_answer(all_read=False)

    def _end_with_answer(self, *, all_read: bool = True) -> None:
        all_read = all_read and not self._buffer and self._reader is None
        self._state = _ENDING
        self._reader = None
        self._buffer.clear()
        self._count_buffer()
        self._close(all_read=all_read)

    def abort(self) -> None:
        """Closes the connection at once."""
        self._state = _ENDING
        self._drop_request()
        super().abort()

    # Pieces of the above.

    def _be_busy(self) -> None:
        self._state = _BUSY
        self.idle_since = self.deadline = NEVER

    def _feed(self, into: bytearray) -> None:
        """Moves what the buffer has of the present body. Raises answers.Refused."""
        assert self._reader is not None
        data = bytes(self._buffer)
        self._buffer.clear()
        rest = self._reader.feed(data, into)
        if rest is not None:
            self._reader = None
            self._buffer += rest

    def _release_body(self) -> None:
        self._server.body_bytes.give(self._held)
        self._held = 0
        self._body = bytearray()

    def _drop_request(self) -> None:
        call, self._call = self._call, None
        self._reader = None
        if call is not None:
            call.drop()

    def _send_continue(self) -> None:
        self._owes_continue = False
        self.write(answers.CONTINUE)

    def _count_buffer(self) -> bool:
        """Counts what waits in the buffer; False if that is more than all may hold together."""
        more = len(self._buffer) - self._counted
        if more > 0 and not self._server.waiting_bytes.take(more):
            return False
        if more < 0:
            self._server.waiting_bytes.give(-more)
        self._counted += more
        return True
