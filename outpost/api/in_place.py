"""The seam between the HTTP server and a route that it answers itself, without an ASGI call and its task.

An ASGI call costs about as much CPU as the publish that it carries, so the hot route is taken by the connection as
soon as its body is there. The same route is served over ASGI too, for paths that are spelt in other ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

Headers = Iterable[tuple[bytes, bytes]]  # names in lower case


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A finished answer with a JSON body."""

    status: int
    body: bytes
    headers: dict[str, str]


Respond = Callable[[Answer], None]


class Route(Protocol):
    """What is answered in place: POST requests for `path`. None of its methods raises."""

    path: bytes
    max_body_bytes: int

    def refusal(self, headers: Headers) -> Answer | None:
        """The answer to a request that may not be made, as its head shows; None if its body is to be read."""

    def too_large(self) -> Answer:
        """The answer to a body larger than `max_body_bytes`."""

    def accept(self, body: bytes, respond: Respond) -> None:
        """Takes an allowed request and calls `respond` once, now or later."""
