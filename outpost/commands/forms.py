"""The body of a publish into a command: what was asked, or everything that is wrong with it.

It is read twice at most: once typed, at the cost of a microsecond or two, and once more, loosely, to tell what was
wrong. Bodies from a queue go through here as well as those of HTTP.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from outpost import errors, ids, json_grammar
from outpost.commands import publish, values
from outpost.domain import times
from outpost.domain import topics as topic_rules
from outpost.settings import Settings

NOT_AN_OBJECT = "data must be a valid JSON object"
_TOPIC_RULES = {"topic is required": "required", "topic is invalid": "invalid"}


class _Event(msgspec.Struct):
    """A publish body, every field optional so that what is absent can be told together with what is wrong."""

    tenant_id: str | None = None
    data: msgspec.Raw | UnsetType = UNSET
    id: str | None = None
    topic: str | None = None
    destination_id: str | None = None
    eligible_for_retry: bool | None = None
    time: str | None = None
    metadata: dict[str, str] | None = None


class _OnlyEvent(_Event, forbid_unknown_fields=True):
    """A publish body without fields that are not known."""


FIELDS: dict[str, Any] = {field.name: field.type for field in msgspec.structs.fields(_Event)}
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_only_event = msgspec.json.Decoder(_OnlyEvent).decode
_IDS = ("tenant_id", "id")  # of what a publish may make
_TEXTS = (*_IDS, "topic", "destination_id")


def publish_request(
    body: bytes, settings: Settings, now_ms: int, missing_id: str | None = None
) -> publish.Publish:
    """The event that `body` describes, what it leaves out filled in: with `missing_id` or a new id where it has
    none. Raises errors.Invalid with every problem."""
    body = values.json_text(body)
    found: list[errors.Problem] = []
    refuses = settings.api_unknown_fields == "refuse"
    try:
        event = _decode_only_event(body) if refuses else _decode_event(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        event = _read_loosely(body, found, refuses=refuses)
    data = bytes(event.data) if isinstance(event.data, msgspec.Raw) else b""
    time_ms = _check_event(event, data, settings, now_ms, found)
    if found:
        raise errors.Invalid(found)
    return publish.Publish(
        tenant=event.tenant_id or "",
        id=event.id or missing_id or ids.new_id(settings.idgen_type, settings.idgen_event_prefix),
        topic=event.topic or "",
        time=times.text(time_ms),
        data=data,
        destination=event.destination_id or None,
        eligible=event.eligible_for_retry is not False,
        metadata=event.metadata or {},
    )


def _check_event(event: _Event, data: bytes, settings: Settings, now_ms: int, found: list[errors.Problem]) -> int:
    """Adds what is wrong beyond types; returns the event's time."""
    told = {problem.path for problem in found}
    if not event.tenant_id and "tenant_id" not in told:
        found.append(errors.Problem("tenant_id", "required"))
    for name in _TEXTS:
        value = getattr(event, name)
        if not value or (values.plain(value) and value not in values.UNADDRESSABLE):
            continue
        problem = values.id_problem(name, value) if name in _IDS else values.text_problem(name, value)
        if problem is not None:
            found.append(problem)
            told.add(name)
    if "topic" not in told and (sentence := topic_rules.topic_problem(event.topic, settings.topics)):
        found.append(errors.Problem("topic", _TOPIC_RULES.get(sentence, "invalid"), text=sentence))
    if event.metadata:
        found += values.metadata_problems("metadata", event.metadata)
    if "data" not in told and (problem := _data_problem(data)):
        found.append(problem)
    if event.time is None:
        return now_ms
    return values.moment("time", event.time, found) or 0


def _data_problem(data: bytes) -> errors.Problem | None:
    if not data:
        return errors.Problem("data", "required")
    if data[:1] != b"{":
        return errors.Problem("data", "object", text=NOT_AN_OBJECT)
    return None  # JSON by its grammar, as the decoder of the body has found; it is passed on as it is


def _read_loosely(body: bytes, found: list[errors.Problem], *, refuses: bool) -> _Event:
    """The fields that have the right type, and a problem for each of the others; `refuses`: for those that are not
    known, too."""
    try:
        raw = json_grammar.members(body)
    except msgspec.ValidationError:  # JSON, but no object
        raise errors.Invalid([errors.Problem("body", "type")], values.INVALID_JSON) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise errors.Invalid([errors.Problem("body", "json")], values.INVALID_JSON) from None
    if refuses:
        found += values.unknown_problems(raw, FIELDS)
    event = _Event()
    for name, type_ in FIELDS.items():
        if name not in raw:
            continue
        if name == "data":
            event.data = msgspec.Raw(raw[name])
        elif name == "metadata":
            event.metadata = _read_metadata(raw[name], found)
        else:
            try:
                setattr(event, name, msgspec.json.decode(raw[name], type=type_))
            except (msgspec.MsgspecError, RecursionError):
                found.append(_wrong_text(name, raw[name]) if name in _TEXTS else errors.Problem(name, "type"))
    return event


def _read_metadata(raw: bytes, found: list[errors.Problem]) -> dict[str, str] | None:
    if raw == b"null":
        return None
    try:
        members = json_grammar.members(raw)
    except (msgspec.MsgspecError, RecursionError):
        found.append(errors.Problem("metadata", "type"))
        return None
    texts = {}
    for key, value in members.items():
        if len(found) >= values.MAX_PROBLEMS:
            return None
        try:
            texts[key] = msgspec.json.decode(value, type=str)
        except (msgspec.MsgspecError, RecursionError):
            found.append(_wrong_text(values.path_of("metadata", key), value))
    return texts


def _wrong_text(path: str, raw: bytes) -> errors.Problem:
    """What is wrong with a value that does not decode to text: its type, or half of a surrogate pair in it."""
    if raw.startswith(b'"'):
        return errors.Problem(path, "control", text=f"{path} must not contain control characters")
    return errors.Problem(path, "type")
