"""What paths name, and what a write tells about itself in its headers.

Requests are routed on the path as it was sent, and each segment is decoded by itself, so that an id with a slash
or a percent sign in it can be addressed. Dots alone cannot: clients fold `.` and `..`, escaped or not, into the
segments before them.
"""

from __future__ import annotations

import contextlib
import re
import string
from collections.abc import AsyncIterator
from typing import Any
from urllib import parse

from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.types import Scope

from outpost import errors
from outpost.api.deps import Call
from outpost.commands import actor as actors
from outpost.commands import values
from outpost.log import position as positions
from outpost.log.redis import client
from projections.config import query as config

POSITION = "X-Outpost-Position"  # where a write stands in the log; never in a body that a published client models
REQUEST_ID = "X-Request-Id"

_THINGS = {
    "destination_id": "destination",
    "event_id": "event",
    "attempt_id": "attempt",
    "type": "destination type",
}
# Escapes that mean what the character itself does (RFC 3986 section 6.2.2.2).
_UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")
_ESCAPE = re.compile("%([2-7][0-9A-Fa-f])")
_ESCAPED = string.punctuation.replace("%", "")  # what a path keeps where an ASGI server has decoded it


def to_route(scope: Scope) -> str:
    """The path to route a request on: as it was sent, but for escapes that nobody needs. Raises NotFoundException
    for one with an empty segment, which stands for an id that a client forgot; one slash at the end is allowed."""
    raw = scope.get("raw_path")
    path = raw.decode("latin-1") if raw else parse.quote(scope["path"], safe=_ESCAPED)
    if "%" in path:
        path = _ESCAPE.sub(_unescaped, path)
    if "//" in path:
        raise NotFoundException
    return path


def tenant(request: ASGIConnection[Any, Any, Any, State]) -> str:
    """The tenant id. Raises errors.NotFound if no tenant can have it."""
    id_ = _decoded(request.path_params["tenant_id"])
    if id_ is None or values.text_problem("tenant_id", id_):
        raise errors.NotFound("tenant")
    return id_


@contextlib.asynccontextmanager
async def tenant_first(log: client.Log, tenant: str) -> AsyncIterator[None]:
    """That a tenant does not exist is told before whatever else is wrong with a request: errors.NotFound is raised
    in the place of errors.Invalid."""
    try:
        yield
    except errors.Invalid:
        if (await config.fresh(log, tenant)).tenant is None:
            raise errors.NotFound("tenant") from None
        raise


def new_tenant(request: Call) -> str:
    """The id of a tenant that may be made. Raises errors.Invalid if no tenant may have it."""
    id_ = _decoded(request.path_params["tenant_id"])
    if id_ is None:
        raise errors.Invalid([errors.Problem("tenant_id", "utf8")])
    if problem := values.id_problem("tenant_id", id_):
        raise errors.Invalid([problem])
    return id_


def named(request: Call, name: str) -> str:
    """Any other id of the path. Raises errors.NotFound if it is no text; one that does not exist is simply not
    found later."""
    id_ = _decoded(request.path_params[name])
    if id_ is None:
        raise errors.NotFound(_THINGS[name])
    return id_


def _decoded(segment: str) -> str | None:
    """What a segment of the path says; None if it is no UTF-8."""
    try:
        return parse.unquote(segment, errors="strict")
    except UnicodeDecodeError:
        return None


def _unescaped(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return character if character in _UNRESERVED else found[0]


def written(actor: actors.Actor, position: positions.Position | None) -> dict[str, str]:
    """The headers of an answer to a write; there is no position if nothing had to change."""
    headers = {REQUEST_ID: actor.request}
    return headers if position is None else {**headers, POSITION: str(position)}
