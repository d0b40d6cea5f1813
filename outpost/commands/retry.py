"""Commands on a delivery: one more attempt, now; or none any more.

What the delivery did so far is handed in, as the log store has it. That its destination takes the event still is
looked up here, to answer who asks; what changes until the attempt begins is seen there.
"""

from __future__ import annotations

import msgspec

from outpost import errors
from outpost.commands import actor as actors
from outpost.commands import matching, values
from outpost.log import position as positions
from outpost.log.delivery import requests
from outpost.log.redis import client
from projections.config import query

_REQUIRED = ("event_id", "destination_id")
_FIELDS = (*_REQUIRED, "tenant_id")


class Outdated(errors.StoreUnavailable):
    """What was handed in of the delivery is older than what the log still holds: look again, and ask again."""

    def __init__(self) -> None:
        super().__init__("postgres", "what it says of the delivery is older than the log")


class Wanted(msgspec.Struct, frozen=True):
    """A checked body: which delivery. `tenant_id` None: of any tenant."""

    event_id: str
    destination_id: str
    tenant_id: str | None = None


def wanted(body: bytes, *, refuses_unknown: bool = True) -> Wanted:
    """The delivery that `body` names. Raises errors.Invalid with every problem."""
    given = values.read_object(body)
    found = values.unknown_problems(given, _FIELDS) if refuses_unknown else []
    texts: dict[str, str | None] = {}
    for name in _FIELDS:
        value = given.get(name)
        if value is None or value == "":
            if name in _REQUIRED:
                found.append(errors.Problem(name, "required"))
        elif not isinstance(value, str):
            found.append(errors.Problem(name, "type"))
        elif problem := values.text_problem(name, value):
            found.append(problem)
        else:
            texts[name] = value
    if found:
        raise errors.Invalid(found)
    return msgspec.convert(texts, Wanted)


async def retry(
    log: client.Log,
    matcher: matching.Matcher,
    actor: actors.Actor,
    delivery: requests.Delivery,
    event: matching.Publish,
) -> positions.Position:
    """Asks for a manual attempt and returns where that stands in the log. `event` is what was published, for this
    destination. Raises Outdated, errors.NotFound, errors.Refused, what `Matcher.match` raises, errors.Halted and
    errors.StoreUnavailable; then asking again may make one attempt more."""
    state = await query.fresh(log, delivery.tenant)
    present = state.destinations.get(delivery.destination)
    if present is None or present.created != delivery.created:  # one that was made again is another destination
        raise errors.NotFound("destination")
    if not present.enabled:
        raise errors.Refused("Destination is disabled", {"error": "destination_disabled"})
    if not await matcher.match(state, event):
        raise errors.Refused("destination does not match event")
    answer = await requests.request(log, "retry", delivery, actor.by)
    if isinstance(answer, requests.Requested):
        return answer.position
    if isinstance(answer, requests.Outdated):
        raise Outdated
    raise errors.StoreUnavailable("redis", "the delivery is being opened or mended")


async def cancel(
    log: client.Log, actor: actors.Actor, delivery: requests.Delivery
) -> requests.Requested | requests.Cancelled | requests.Closed:
    """Lets no further attempt follow; one that is being made is the last. Raises Outdated and
    errors.StoreUnavailable."""
    answer = await requests.request(log, "cancel", delivery, actor.by)
    if isinstance(answer, requests.Outdated):
        raise Outdated
    if isinstance(answer, requests.Unopened):
        raise errors.StoreUnavailable("redis", "the delivery is being opened or mended")
    return answer
