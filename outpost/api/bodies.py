"""Reading a request's body, up to the limit and not a byte further."""

from __future__ import annotations

from litestar.types import Receive

from outpost import errors
from outpost.api import problems


async def read(receive: Receive, limit: int) -> bytes:
    """The whole body. Raises problems.TooLarge at the first byte beyond `limit`, whether its length was announced
    or not, and errors.Refused if the client went away."""
    message = await receive()
    chunks: list[bytes] = []
    size = 0
    while True:
        if message["type"] != "http.request":
            raise errors.Refused("the request ended early")
        body = message.get("body", b"")
        size += len(body)
        if size > limit:
            raise problems.TooLarge(limit)
        if not message.get("more_body"):
            return b"".join((*chunks, body)) if chunks else body
        chunks.append(body)
        message = await receive()
