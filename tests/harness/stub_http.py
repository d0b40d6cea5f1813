"""The HTTP server in front of an application and a route of the test's own, on one event loop with the test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from outpost.api import in_place as http_in_place
from outpost.process.http_server import ports, server
from outpost.settings import Settings
from tests.harness.polling import eventually

KEY = b"Bearer key"
PATH = b"/publish"
HEALTH = frozenset({b"/healthz"})


class StubRoute:
    """A route in place that keeps nothing. With `held` it answers nobody until `release`."""

    path = PATH

    def __init__(self, max_body_bytes: int) -> None:
        self.max_body_bytes = max_body_bytes
        self.bodies: list[int] = []  # their lengths
        self.held: list[http_in_place.Respond] | None = None

    def refusal(self, headers: http_in_place.Headers) -> http_in_place.Answer | None:
        allowed = (b"authorization", KEY) in list(headers)
        return None if allowed else http_in_place.Answer(401, b'{"status":401}', {})

    def too_large(self) -> http_in_place.Answer:
        return http_in_place.Answer(413, b'{"status":413}', {"Connection": "close"})

    def accept(self, body: bytes, respond: http_in_place.Respond) -> None:
        self.bodies.append(len(body))
        if self.held is not None:
            self.held.append(respond)
        else:
            asyncio.get_running_loop().call_soon(respond, self.accepted())

    def accepted(self) -> http_in_place.Answer:
        return http_in_place.Answer(202, b"{}", {})

    def release(self) -> None:
        """Answers everybody who waits."""
        held, self.held = self.held or [], None
        for respond in held:
            respond(self.accepted())


class Stub:
    """A running server. `app` echoes the path; it reads a body only of requests with the key."""

    def __init__(self, settings: Settings, max_connections: int | None = None) -> None:
        self.route = StubRoute(settings.api_max_body_bytes)
        self.paths: list[str] = []
        self.server = server.Server(self.app, settings, self.route, HEALTH, max_connections)
        self.port = 0

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        status, body = 200, scope["path"].encode()
        if scope["method"] == "POST":
            if (b"authorization", KEY) in scope["headers"]:
                while (message := await receive())["type"] == "http.request" and message["more_body"]:
                    pass
            else:
                status, body = 401, b"{}"
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def serving(max_connections: int | None = None, **settings: Any) -> AsyncIterator[Stub]:
    """A stub behind a server with these settings."""
    stub = Stub(msgspec.structs.replace(Settings(api_key="key"), **settings), max_connections)
    bound = ports.bind("127.0.0.1", 0)
    stub.port = bound.getsockname()[1]
    task = asyncio.create_task(stub.server.serve(bound))
    try:
        await eventually(lambda: stub.server.started)
        yield stub
    finally:
        stub.route.release()
        stub.server.stop()
        await asyncio.wait_for(task, 60)
        bound.close()


def post(
    body: bytes = b"{}", *lines: bytes, path: bytes = PATH, key: bytes = KEY, length: int | None = None
) -> bytes:
    """A request with its body; `length` is what it announces, -1 nothing."""
    head = [b"POST " + path + b" HTTP/1.1", b"Host: h", b"Authorization: " + key, *lines]
    if length != -1:
        head.append(b"Content-Length: %d" % (len(body) if length is None else length))
    return b"\r\n".join([*head, b"", b""]) + body


def get(path: bytes = b"/a", *lines: bytes) -> bytes:
    """A request without a body."""
    return b"\r\n".join([b"GET " + path + b" HTTP/1.1", b"Host: h", *lines, b"", b""])
