"""The bodies of requests about destinations and tenants: what they say, or everything that is wrong with them.

The rules of topics, filter and type are those of the commands; here are the rules of what may be sent at all. Maps
of text take any JSON value and keep its text, as published clients expect.
"""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from outpost import errors
from outpost.commands import destinations, values

# What answers show and no request sets: clients send back what they were shown.
_DESTINATION_SHOWN = frozenset({"tenant_id", "target", "target_url"})
_DESTINATION = _DESTINATION_SHOWN | {
    "id",
    "type",
    "topics",
    "filter",
    "config",
    "credentials",
    "delivery_metadata",
}
_DESTINATION |= {"metadata", "created_at", "updated_at", "disabled_at"}
_TENANT = frozenset({"metadata", "id", "destinations_count", "topics", "created_at", "updated_at"})


_WHOLE = {"metadata": None, "delivery_metadata": values.MAX_METADATA_BYTES}  # what is sent becomes one head


def destination_form(
    body: bytes, now_ms: int, *, patch: bool = False, refuses_unknown: bool = True
) -> destinations.DestinationForm:
    """What `body` says of a destination, with the problems found in it so far. A patch ignores what it may not
    change. Raises errors.Invalid if there is no JSON object."""
    said = values.read_object(body)
    form = destinations.DestinationForm(now_ms)
    found = form.problems
    if refuses_unknown:
        found += values.unknown_problems(said, _DESTINATION)
    type_ = _text("type", said.get("type"), found)
    form.type = UNSET if type_ is None else type_
    form.topics = said.get("topics", UNSET)
    form.filter = said.get("filter", UNSET)
    form.config = _secrets("config", said, found)
    form.credentials = _secrets("credentials", said, found)
    form.delivery_metadata = _metadata("delivery_metadata", said, found)
    form.metadata = _metadata("metadata", said, found)
    if "disabled_at" in said:
        disabled_at = said["disabled_at"]
        form.disabled_ms = None if disabled_at is None else values.past("disabled_at", disabled_at, now_ms, found)
    if not patch:
        id_ = _text("id", said.get("id"), found)
        if id_ in values.UNADDRESSABLE and (problem := values.id_problem("id", id_)):
            found.append(problem)
        form.id = id_ or UNSET
        form.created_ms = _imported("created_at", said, now_ms, found)
        form.updated_ms = _imported("updated_at", said, now_ms, found)
    return form


def tenant_metadata(body: bytes, *, refuses_unknown: bool = True) -> dict[str, str] | None:
    """The metadata that the body of a tenant's PUT sets; None, which clears it, if there is none, or no body.
    Raises errors.Invalid."""
    if not body:
        return None
    said = values.read_object(body)
    found = values.unknown_problems(said, _TENANT) if refuses_unknown else []
    metadata = _metadata("metadata", said, found)
    if found:
        raise errors.Invalid(found)
    if metadata is UNSET or metadata is None:
        return None
    return {key: value or "" for key, value in metadata.items()}


def _text(path: str, value: object, found: list[errors.Problem]) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        found.append(errors.Problem(path, "type"))
        return None
    if problem := values.text_problem(path, value):
        found.append(problem)
        return None
    return value


def _map(path: str, said: dict[str, object], found: list[errors.Problem]) -> destinations.Map:
    """A map of text: values are coerced, null stays, since it takes a key away."""
    if path not in said:
        return UNSET
    value = said[path]
    if value is None:
        return None
    if not isinstance(value, dict):
        found.append(errors.Problem(path, "type"))
        return UNSET
    return {key: None if item is None else values.coerced(item) for key, item in value.items()}


def _secrets(path: str, said: dict[str, object], found: list[errors.Problem]) -> destinations.Map:
    """Config and credentials: their values are the type's affair, and may be keys of many lines."""
    result = _map(path, said, found)
    if isinstance(result, dict):
        found += values.metadata_problems(path, dict.fromkeys(result, ""), whole=None)
    return result


def _metadata(path: str, said: dict[str, object], found: list[errors.Problem]) -> destinations.Map:
    result = _map(path, said, found)
    if isinstance(result, dict):
        texts = {key: value or "" for key, value in result.items()}
        found += values.metadata_problems(path, texts, values.MAX_VALUE_BYTES, _WHOLE[path])
    return result


def _imported(path: str, said: dict[str, object], now_ms: int, found: list[errors.Problem]) -> int | UnsetType:
    value = said.get(path)
    if value is None:
        return UNSET
    ms = values.past(path, value, now_ms, found)
    return UNSET if ms is None else ms
