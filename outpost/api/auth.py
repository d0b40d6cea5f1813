"""Who asks: the API key, or nobody. Compared in constant time, so that a key is not guessed letter by letter."""

from __future__ import annotations

import functools
import hmac
from collections.abc import Iterable

from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.handlers import BaseRouteHandler

from outpost import ids
from outpost.api import problems
from outpost.commands import actor as actors

_HEADER = b"authorization"
_SCHEME = b"bearer"  # in any case, with blanks behind it (RFC 9110 section 11.1)
_BLANKS = b" \t"


def check(headers: Iterable[tuple[bytes, bytes]], api_key: str) -> None:
    """Raises problems.Unauthorized unless the request carries the key. An empty key, which only
    OUTPOST_INSECURE lets start, lets everybody in."""
    if not api_key:
        return
    for name, value in headers:
        if name == _HEADER:
            scheme, token = value[: len(_SCHEME)], value[len(_SCHEME) :]
            key = token.strip(_BLANKS)
            if (
                scheme.lower() == _SCHEME
                and token[:1] in (b" ", b"\t")
                and hmac.compare_digest(key, _key(api_key))
            ):
                return
            break
    raise problems.Unauthorized


@functools.cache  # a process has one key
def _key(api_key: str) -> bytes:
    return api_key.encode()


def guard(connection: ASGIConnection[object, object, object, State], _handler: BaseRouteHandler) -> None:
    """`check` for what Litestar routes."""
    check(connection.scope["headers"], connection.app.state.deps.settings.api_key)


def admin() -> actors.Actor:
    """The holder of the API key, in a request of its own."""
    return actors.Actor("admin", ids.request_id())
