"""Reading a request's body, up to the limit and not a byte further, and undoing its gzip within the same limit."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable

from litestar.types import Receive, Scope

from outpost import errors
from outpost.api import problems

# In the state of a request's scope: counts bytes that are held beside the body as it came; False if there are too
# many of all requests. They are given back with the request.
HOLD = "outpost.hold"

_LENGTH = b"content-length"
_CODING = b"content-encoding"
_GZIP = frozenset({b"gzip", b"x-gzip"})
_PLAIN = frozenset({b"", b"identity"})
_GZIP_WINDOW = 16 + zlib.MAX_WBITS  # zlib's word for a gzip header
MAX_GZIP_MEMBERS = 64  # of one gzip, each a stream of its own


async def read(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body, decoded. Raises problems.TooLarge before anything is read if more than `limit` was
    announced, and at the first byte beyond it if nothing was; problems.UnknownCoding; errors.Invalid if its
    gzip is broken; errors.Refused if the client went away."""
    coding = b""
    for name, value in scope["headers"]:
        if name == _LENGTH and value.isdigit() and (len(value) > len(str(limit)) + 1 or int(value) > limit):
            raise problems.TooLarge(limit)
        if name == _CODING:
            coding += value.strip().lower()
    if coding not in _PLAIN and coding not in _GZIP:
        raise problems.UnknownCoding
    body = await _read(receive, limit)
    return await _decoded(scope, body, limit) if coding in _GZIP else body


async def _read(receive: Receive, limit: int) -> bytes:
    message = await receive()
    whole = bytearray()  # not a list of pieces: an object for each byte would be many times the limit
    while True:
        if message["type"] != "http.request":
            raise errors.Refused("the request ended early")
        piece = message.get("body", b"")
        if len(whole) + len(piece) > limit:
            raise problems.TooLarge(limit)
        if not message.get("more_body"):
            return bytes(whole + piece) if whole else piece
        whole += piece
        message = await receive()


async def _decoded(scope: Scope, body: bytes, limit: int) -> bytes:
    """`body` without its gzip. It is undone on a thread, since its work follows from `limit` and not its
    length."""
    decoded = await asyncio.to_thread(gunzip, body, limit)
    if len(decoded) > limit:
        raise problems.TooLarge(limit)
    hold: Callable[[int], bool] | None = scope.get("state", {}).get(HOLD)
    if hold is not None and not hold(len(decoded)):
        raise errors.Busy("reading")
    return decoded


def gunzip(body: bytes, limit: int) -> bytes:
    """What the gzip members of `body` hold, cut off a byte behind `limit`. Raises errors.Invalid if they are
    broken."""
    whole = bytearray()
    for _ in range(MAX_GZIP_MEMBERS):
        member = zlib.decompressobj(_GZIP_WINDOW)
        try:
            whole += member.decompress(body, limit + 1 - len(whole))
        except zlib.error:
            break
        if len(whole) > limit:
            return bytes(whole)
        if not member.eof:
            break
        body = member.unused_data
        if not body:
            return bytes(whole)
    raise errors.Invalid([errors.Problem("body", "gzip")], "invalid gzip")
