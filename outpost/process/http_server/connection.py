"""One connection of a client: HTTP/1.x, one request at a time, every byte counted before it is kept.

A head that is byte for byte one of an earlier request to the route in place is neither parsed nor checked again,
since clients that keep their connection send the same one for ever. Requests that were sent ahead wait in the
buffer while reading pauses. Nothing of a request refers to itself, so that it is freed once it is answered.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from outpost.api import in_place as http_in_place
from outpost.process.http_server import answers, asgi, body, exchange, head
from outpost.process.http_server.exchange import BODY, BUSY, DRAIN, ENDING, HEAD
from outpost.process.http_server.wire import NEVER

if TYPE_CHECKING:
    from outpost.process.http_server.server import Server

# Of one connection, until others have their turn; a body that has come whole may exceed the bytes.
MAX_REQUESTS_AT_ONCE = 16
MAX_BYTES_AT_ONCE = 65_536

_END = b"\r\n\r\n"


class Connection(exchange.Exchange):
    """See the module."""

    __slots__ = ("_advancing", "_sent_ahead")

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._sent_ahead = 0  # requests begun since the buffer was empty
        self._advancing = False

    def data_received(self, data: bytes) -> None:
        """Takes a request whose head is known, whole and alone, at once. The rest is read closely."""
        if self._state == HEAD and not self._buffer and not self._spare:
            end = data.find(_END)
            length = self._server.known_heads.get(data[:end]) if end > 0 else None
            if length is not None and len(data) == end + len(_END) + length:
                self._keep = True
                self._accept(data[-length:])
                return
        if self._state == ENDING:
            self._linger(data)
            return
        if not self._buffer:
            self._sent_ahead = 0
        self._buffer += data
        self._advance()

    def eof_received(self) -> bool:
        """A client that has sent whole requests may close its half, and still gets the answers."""
        self._peer_ended = True
        return self._state == BUSY and self._reader is None

    def resume_writing(self) -> None:
        """Goes on with the requests that wait."""
        super().resume_writing()
        self._advance()

    def _advance(self) -> None:
        """Reads the buffer as far as requests can be begun or go on without waiting for an answer."""
        if self._advancing:  # an answer was given at once; the loop below goes on
            return
        self._advancing = True
        deferred = False
        try:
            steps, before = 0, len(self._buffer)
            while self._buffer and self._writable is None:
                deferred = steps == MAX_REQUESTS_AT_ONCE or before - len(self._buffer) > MAX_BYTES_AT_ONCE
                if deferred:
                    asyncio.get_running_loop().call_soon(self._advance)
                if deferred or not self._go_on():
                    break
                steps += 1
        except answers.Refused as refused:
            self.refuse(refused)
        finally:
            self._advancing = False
        if not self._count_buffer():
            self._overrun()
        if self._peer_ended and not deferred and self._writable is None and self._state in (HEAD, BODY, DRAIN):
            self._end_with_answer()
        if self._state != BUSY:
            self._read(on=self._writable is None and not deferred)
        elif self._buffer and not (self._call is not None and self._call.wake()):
            self._read(on=False)

    def _go_on(self) -> bool:
        """Takes one step; False if more bytes or an answer have to come first. Raises answers.Refused."""
        if self._state == HEAD:
            return self._begin_next()
        if self._state == BODY:
            self._collect()
            return True
        if self._state == DRAIN:
            self._feed(bytearray())
            if self._reader is None:
                self._wait_for_head()
            return True
        return False

    def _overrun(self) -> None:
        """All connections together hold too much. What was sent ahead is dropped, a request that is not answered
        yet is refused."""
        if self._state == BUSY and self._reader is None:
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
            self._owes_continue = False
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
        in_place = route is not None and request.path == route.path and request.method == b"POST"
        if route is None or not in_place or request.query or request.coded:
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

    def _begin_body(self, reader: body.Reader | None) -> None:
        if reader is None:
            self._accept(b"")
            return
        self._state = BODY
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
        if self._state == BUSY and self._transport is not None:
            self.write_answer(answer, keep=self._keep)
