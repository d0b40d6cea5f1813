"""Reading a request's body, up to the limit and not a byte further."""

from __future__ import annotations

from litestar.types import Receive, Scope

from outpost import errors
from outpost.api import problems

_LENGTH = b"content-length"


async def read(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body. Raises problems.TooLarge before anything is read if more than `limit` was announced, and at
    the first byte beyond it if nothing was; errors.Refused if the client went away."""
    for name, value in scope["headers"]:
        if name == _LENGTH and value.isdigit() and (len(value) > len(str(limit)) + 1 or int(value) > limit):
            raise problems.TooLarge(limit)
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
