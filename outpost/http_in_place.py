"""One route answered inside uvicorn's protocol: no ASGI messages, no task a request, one write an answer.

An ASGI cycle costs uvicorn about as much CPU as the publish it carries. Only plain requests for the route are
taken here; what is unusual (HTTP/1.0, `Expect`, pipelining behind an unfinished request) goes through ASGI, and
the same route gives the same answers. This leans on the insides of `HttpToolsProtocol`: the tests of publish run
against it on the locked version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Headers = Iterable[tuple[bytes, bytes]]
Respond = Callable[[int, bytes, dict[str, str]], None]  # status, JSON body, further headers

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

    def __init__(self, protocol: InPlaceProtocol, route: Route, keep_alive: bool) -> None:
        self._protocol = protocol
        self._route = route
        self._headers = protocol.headers
        self._accepted = False
        self.message_event = self
        self.body = bytearray()
        self.more_body = True
        self.disconnected = False
        self.keep_alive = keep_alive
        self.response_complete = False

    def set(self) -> None:
        """Something came, or the client went."""
        if self._accepted or self.disconnected:
            return
        if len(self.body) > self._route.max_body_bytes:
            self._accepted = True
            self.keep_alive = False
            self._route.too_large(self._respond)
        elif not self.more_body:
            self._accepted = True
            self._route.accept(self._headers, bytes(self.body), self._respond)
        else:
            self._protocol.flow.resume_reading()  # the protocol pauses for a reader that is slow; none is here

    def _respond(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.response_complete = True
        protocol = self._protocol
        if self.disconnected or protocol.transport.is_closing():
            return
        lines = [_STATUS[status]]
        for name, value in protocol.server_state.default_headers:
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body))
        lines += [f"{name.lower()}: {value}\r\n".encode("latin-1") for name, value in headers.items()]
        if not self.keep_alive and "Connection" not in headers:
            lines.append(b"connection: close\r\n")
        lines += (b"\r\n", body)
        protocol.transport.write(b"".join(lines))
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()


class InPlaceProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with one route short-cut; `route` is set by a subclass."""

    route: Route

    def on_headers_complete(self) -> None:
        """Takes the request if it is a plain one for the route."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if self.url != self.route.path or self.parser.get_method() != b"POST" or busy or not self._plain():
            super().on_headers_complete()
            return
        cycle: Any = _Cycle(self, self.route, self.parser.should_keep_alive())
        self.cycle = cycle

    def _plain(self) -> bool:
        return (
            not self.expect_100_continue
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
        )


def protocol_for(route: Route) -> type[InPlaceProtocol]:
    """The protocol class that answers `route` in place."""
    return type("RouteInPlaceProtocol", (InPlaceProtocol,), {"route": route})
