"""One request that is answered by the ASGI application: its scope, its body on demand, its answer.

The body is read from the socket only when the application asks for it, so that a request without a key is refused
before anything of its body is kept. What the server leaves behind is emptied at the end: a scope that refers to
the request that holds it would otherwise wait for the garbage collector.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib import parse

from outpost import telemetry
from outpost.api import bodies
from outpost.process.http_server import answers, head

if TYPE_CHECKING:
    from outpost.process.http_server.exchange import Exchange
    from outpost.process.http_server.server import Server

_VERSIONS = {"version": "3.0", "spec_version": "2.3"}


class Call:
    """See the module."""

    __slots__ = (
        "_chunked", "_connection", "_deadline", "_ended", "_held", "_keep", "_request", "_server", "_start",
        "_waiting", "started", "status",
    )  # fmt: skip

    def __init__(self, server: Server, connection: Exchange, request: head.Head) -> None:
        self._server = server
        self._connection: Exchange | None = connection  # None once the client is gone or was answered
        self._request = request
        self._start: dict[str, Any] | None = None  # the answer's head, until its first bytes go out
        self._waiting: asyncio.Future[None] | None = None
        self._deadline = server.now + server.body_timeout_s  # for what is still to come of the body
        self._ended = False  # the application has the whole body
        self._held = 0
        self._keep = False
        self._chunked = False
        self.started = False
        self.status = 500

    async def run(self) -> None:
        """Lets the application answer."""
        scope = self._scope()
        try:
            await self._server.app(scope, self.receive, self.send)
            if self._connection is not None:
                self._fail("no complete answer", "")
        except Exception as exc:  # noqa: BLE001 - the border: whatever it is, the client gets an answer
            frame = exc.__traceback__
            while frame is not None and frame.tb_next is not None:
                frame = frame.tb_next
            self._fail(type(exc).__name__, f"{frame.tb_frame.f_code.co_name}:{frame.tb_lineno}" if frame else "")
        finally:
            scope.clear()
            self._server.body_bytes.give(self._held)

    def wake(self) -> bool:
        """More of the body has come; whether it is awaited."""
        if self._waiting is None or self._ended:
            return False
        if not self._waiting.done():
            self._waiting.set_result(None)
        return True

    def drop(self) -> None:
        """The client is gone, or was refused."""
        self._connection = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def receive(self) -> dict[str, Any]:
        """ASGI's `receive`."""
        while (connection := self._connection) is not None:
            if not self._ended:
                try:
                    piece, more = connection.take_body()
                    self._hold(len(piece))
                except answers.Refused as refused:
                    connection.refuse(refused)
                    continue
                if piece or not more:
                    self._ended = not more
                    return {"type": "http.request", "body": piece, "more_body": more}
                connection.await_body(self._deadline)
            await self._sleep()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        """ASGI's `send`. What is sent to a client that is gone is dropped."""
        connection = self._connection
        if connection is None:
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        piece, more = message.get("body", b""), bool(message.get("more_body"))
        data = [] if self.started else [self._begin_answer(connection)]
        if piece and self._request.method != b"HEAD":
            data.append(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)
        if self._chunked and not more and self._request.method != b"HEAD":
            data.append(b"0\r\n\r\n")
        connection.write(b"".join(data))
        if more:
            await connection.flushed()
        else:
            self._connection = None
            connection.answered(keep=self._keep, accepted=self.status < 400)
            self.drop()  # whoever waits for the end of the request

    def _begin_answer(self, connection: Exchange) -> bytes:
        start, self._start = self._start, None
        if start is None:
            raise RuntimeError("an answer without a head")
        self.status, headers = start["status"], start["headers"]
        closing = any(name.lower() == b"connection" and value.lower() == b"close" for name, value in headers)
        self._keep = connection.may_keep() and not closing
        self.started = True
        first, self._chunked = answers.head(
            self.status, headers, self._server.clock, keep_alive=self._keep, http_1_1=self._request.http_1_1
        )
        return first

    def _hold(self, count: int) -> None:
        """Counts bytes of the body. Raises answers.Refused."""
        if not self._server.body_bytes.take(count):
            raise answers.Refused(503, answers.FULL)
        self._held += count
        self._deadline += count * self._server.body_seconds_per_byte

    def _hold_more(self, count: int) -> bool:
        """Counts bytes that the body becomes; False if all clients hold too many."""
        if not self._server.body_bytes.take(count):
            return False
        self._held += count
        return True

    async def _sleep(self) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def _fail(self, kind: str, place: str) -> None:
        connection, self._connection = self._connection, None
        telemetry.emit_sampled("request_failed", "error", exception=kind, place=place)
        if connection is not None and self.started:
            connection.abort()
        elif connection is not None:
            connection.write_answer(answers.Refused(500, "internal server error").answer(), keep=False)

    def _scope(self) -> dict[str, Any]:
        request = self._request
        path = request.path.decode("ascii")
        return {
            "type": "http",
            "asgi": _VERSIONS,
            "http_version": "1.1" if request.http_1_1 else "1.0",
            "method": request.method.decode("ascii"),
            "scheme": "http",
            "path": parse.unquote(path) if "%" in path else path,
            "raw_path": request.path,
            "query_string": request.query,
            "root_path": "",
            "headers": request.headers,
            "client": self._connection.peer if self._connection else None,
            "server": self._server.address,
            "state": {bodies.HOLD: self._hold_more},
        }
