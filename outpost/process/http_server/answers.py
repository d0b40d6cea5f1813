"""What the server writes: status lines, the headers that every answer has, and its own refusals."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus

import msgspec

from outpost.api import in_place as http_in_place

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
RETRY_AFTER = {"Retry-After": "1"}  # seconds; what is full now is emptier by then
FULL = "too many requests at once"
_CLOSE = b"connection: close\r\n"
_STATUS = {int(s): f"HTTP/1.1 {int(s)} {s.phrase}\r\n".encode() for s in HTTPStatus}
_BODILESS = frozenset({204, 304})


class Refused(Exception):
    """A request that the server itself does not take. `message` tells the client why and quotes nothing of it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    def answer(self) -> http_in_place.Answer:
        """The refusal as the API tells every error."""
        body = msgspec.json.encode({"status": self.status, "message": self.message})
        return http_in_place.Answer(self.status, body, RETRY_AFTER if self.status == 503 else {})


class Clock:
    """The Date header, formatted once a second, and the headers of an answer in place."""

    def __init__(self) -> None:
        self._second = 0
        self.date = b""
        self.fixed = b""
        self.tick()

    def tick(self) -> None:
        """Looks at the clock."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self.date = b"date: %b\r\n" % formatdate(second, usegmt=True).encode()
            self.fixed = self.date + b"content-type: application/json\r\n"


def in_place(answer: http_in_place.Answer, clock: Clock, *, keep_alive: bool, with_body: bool = True) -> bytes:
    """A whole answer. Without its body it is one to HEAD."""
    further = "".join([f"{name.lower()}: {value}\r\n" for name, value in answer.headers.items()])
    if not keep_alive and "Connection" not in answer.headers:
        further += "connection: close\r\n"
    return b"%b%bcontent-length: %d\r\n%b\r\n%b" % (
        _STATUS[answer.status],
        clock.fixed,
        len(answer.body),
        further.encode("latin-1"),
        answer.body if with_body else b"",
    )


def head(
    status: int, headers: list[tuple[bytes, bytes]], clock: Clock, *, keep_alive: bool, http_1_1: bool
) -> tuple[bytes, bool]:
    """The head of an answer over ASGI, and whether its body goes out in chunks, since nobody said its length."""
    lines = [_STATUS.get(status) or b"HTTP/1.1 %d \r\n" % status, clock.date]
    measured = status in _BODILESS
    for name, value in headers:
        lowered = name.lower()
        if lowered in (b"connection", b"transfer-encoding"):
            continue  # how the connection goes on is decided here
        measured = measured or lowered == b"content-length"
        lines.append(b"%b: %b\r\n" % (lowered, value))
    chunked = not measured and http_1_1
    if chunked:
        lines.append(b"transfer-encoding: chunked\r\n")
    if not keep_alive:
        lines.append(_CLOSE)
    lines.append(b"\r\n")
    return b"".join(lines), chunked
