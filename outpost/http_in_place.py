"""One route answered inside uvicorn's protocol: no ASGI messages, no task a request, one write an answer.

An ASGI cycle costs uvicorn about as much CPU as the publish it carries. Only plain requests for the route are
taken here; what is unusual (HTTP/1.0, `Expect`, pipelining behind an unfinished request) goes through ASGI, and
the same route gives the same answers. This leans on the insides of `HttpToolsProtocol`: the tests of publish run
against it on the locked version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Protocol, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_Parsed = list[tuple[bytes, bytes]]
Headers = Iterable[tuple[bytes, bytes]]
Respond = Callable[[int, bytes, dict[str, str]], None]  # status, JSON body, further headers

MOST_HEADS = 1_024  # that are known; a client that varies its headers must not fill the memory
MOST_HEAD_BYTES = 4_096

_END = b"\r\n\r\n"
_STATUS = {int(s): f"HTTP/1.1 {int(s)} {s.phrase}\r\n".encode() for s in HTTPStatus}


class Route(Protocol):
    """What is answered in place. `accept` never raises and calls `respond` once, now or later."""

    path: bytes
    max_body_bytes: int

    def accept(self, headers: Headers, body: bytes, respond: Respond) -> None:
        """Answers a POST."""

    def too_large(self, respond: Respond) -> None:
        """Answers a POST whose body is larger than `max_body_bytes`."""


class _Cycle:
    """A request taken in place. To the protocol it is a cycle like any other; it is its own `message_event`, so
    that it hears of every piece of the body without a task that waits."""

    more_body = True
    disconnected = False
    response_complete = False

    def __init__(self, protocol: InPlaceProtocol, headers: _Parsed, keep_alive: bool) -> None:
        self._protocol = protocol
        self.headers = headers
        self._accepted = False
        self.message_event = self
        self.body = bytearray()
        self.keep_alive = keep_alive

    def set(self) -> None:
        """Something came, or the client went."""
        if self._accepted or self.disconnected:
            return
        route = self._protocol.route
        if len(self.body) > route.max_body_bytes:
            self._accepted = True
            self.keep_alive = False
            route.too_large(self._respond)
        elif not self.more_body:
            self.take(bytes(self.body))
        else:
            self._protocol.flow.resume_reading()  # the protocol pauses for a reader that is slow; none is here

    def take(self, body: bytes) -> None:
        """The whole body has come."""
        self._accepted = True
        self._protocol.route.accept(self.headers, body, self._respond)

    def _respond(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.response_complete = True
        protocol = self._protocol
        if self.disconnected or protocol.transport.is_closing():
            return
        further = "".join([f"{name.lower()}: {value}\r\n" for name, value in headers.items()])
        if not self.keep_alive and "Connection" not in headers:
            further += "connection: close\r\n"
        protocol.transport.write(
            b"%b%bcontent-length: %d\r\n%b\r\n%b"
            % (_STATUS[status], protocol.fixed_headers(), len(body), further.encode("latin-1"), body)
        )
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()


class _Head:
    """The headers of a request that was taken before, and how long the body was that they announced."""

    __slots__ = ("headers", "length")

    def __init__(self, headers: _Parsed, length: int) -> None:
        self.headers = headers
        self.length = length


class InPlaceProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with one route short-cut; `route` is set by a subclass.

    A head that is byte for byte one of an earlier request is not parsed again: clients that keep their connection
    send the same one for ever. Keep-alive is one timer a connection that looks at the clock, not one a request.
    """

    route: Route
    heads: dict[bytes, _Head]  # of all connections
    _between = True  # no message is under way
    _quiet_since = 0.0
    _fixed: tuple[object, bytes] = (None, b"")  # uvicorn's default headers, which are another list every second

    def data_received(self, data: bytes) -> None:
        """Takes a request whose head is known, whole and alone; the rest is parsed."""
        if not self._between or not (self.cycle is None or self.cycle.response_complete):
            super().data_received(data)
            return
        end = data.find(_END)
        head = self.heads.get(data[:end]) if end > 0 else None
        if head is not None and len(data) == end + len(_END) + head.length:
            cycle = _Cycle(self, head.headers, keep_alive=True)
            cycle.more_body = False
            self.cycle = cast("Any", cycle)
            cycle.take(data[-head.length :])
            return
        super().data_received(data)
        if 0 < end <= MOST_HEAD_BYTES and self._between and isinstance(self.cycle, _Cycle):
            self._learn(data[:end], len(data) - end - len(_END), self.cycle)

    def _learn(self, head: bytes, length: int, cycle: _Cycle) -> None:
        """What came was `head` and a body of `length`; it is known from now on, if that is what it announced."""
        announced = [value for name, value in cycle.headers if name == b"content-length"]
        framed = any(name == b"transfer-encoding" for name, _ in cycle.headers)
        if cycle.keep_alive and not framed and length and announced == [b"%d" % length]:
            if len(self.heads) >= MOST_HEADS:
                self.heads.clear()
            self.heads[head] = _Head(cycle.headers, length)

    def on_message_begin(self) -> None:
        """A message is under way."""
        self._between = False
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """It has come whole."""
        self._between = True
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        """Takes the request if it is a plain one for the route."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if self.url != self.route.path or self.parser.get_method() != b"POST" or busy or not self._plain():
            super().on_headers_complete()
            return
        self.cycle = cast("Any", _Cycle(self, self.headers, self.parser.should_keep_alive()))

    def on_response_complete(self) -> None:
        """The connection is quiet, unless more was asked for already."""
        self._quiet_since = self.loop.time()
        if self.pipeline or self.timeout_keep_alive_task is None or self.transport.is_closing():
            super().on_response_complete()
        else:  # the timer that runs finds out
            self.server_state.total_requests += 1
            self.flow.resume_reading()

    def timeout_keep_alive_handler(self) -> None:
        """Closes the connection if it has been quiet for long enough, and looks again later if not."""
        self.timeout_keep_alive_task = None
        if self.cycle is not None and not self.cycle.response_complete:
            return  # its end sets the timer
        left_s = self._quiet_since + self.timeout_keep_alive - self.loop.time()
        if left_s <= 0:
            super().timeout_keep_alive_handler()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)

    def fixed_headers(self) -> bytes:
        """The headers that every answer has."""
        default = self.server_state.default_headers
        if InPlaceProtocol._fixed[0] is not default:
            lines = [b"%b: %b\r\n" % header for header in default]
            InPlaceProtocol._fixed = (default, b"".join([*lines, b"content-type: application/json\r\n"]))
        return InPlaceProtocol._fixed[1]

    def _plain(self) -> bool:
        return (
            not self.expect_100_continue
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
        )


def protocol_for(route: Route) -> type[InPlaceProtocol]:
    """The protocol class that answers `route` in place."""
    return type("RouteInPlaceProtocol", (InPlaceProtocol,), {"route": route, "heads": {}})
