"""What paths name, and what a write tells about itself in its headers."""

from __future__ import annotations

from outpost import errors
from outpost.api.deps import Call
from outpost.commands import actor as actors
from outpost.commands import values
from outpost.log import position as positions

POSITION = "X-Outpost-Position"  # where a write stands in the log; never in a body that a published client models
REQUEST_ID = "X-Request-Id"
# What the server makes of bytes that are no UTF-8: two such ids would be one tenant.
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def tenant(request: Call) -> str:
    """The tenant id. Raises errors.Invalid if no tenant may have it."""
    id_: str = request.path_params["tenant_id"]
    problem = values.text_problem("tenant_id", id_)
    if _REPLACEMENT in id_:
        problem = errors.Problem("tenant_id", "utf8")
    if problem is not None:
        raise errors.Invalid([problem])
    return id_


def named(request: Call, name: str) -> str:
    """Any other id of the path; one that cannot exist is simply not found later."""
    id_: str = request.path_params[name]
    return id_


def written(actor: actors.Actor, position: positions.Position | None) -> dict[str, str]:
    """The headers of an answer to a write; there is no position if nothing had to change."""
    headers = {REQUEST_ID: actor.request}
    return headers if position is None else {**headers, POSITION: str(position)}
