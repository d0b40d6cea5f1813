"""An entry in words for an operator: what it says, without its payload and with sealed values masked.

Nothing is ever opened here. Payloads and the answers of receivers are a customer's data, so they are shown only
where that is asked for; by default their size is.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from outpost import errors, terminal
from outpost.domain import events, times
from outpost.log import envelope, read

Described = dict[str, Any]

MASK = "s1.***"
_SEALED = re.compile(r"s1\.[A-Za-z0-9_-]*")
# Of a destination. Entries of schema version 1 hold the config in clear, which is masked as a whole: which of its
# fields are secret is known to its type alone.
_SECRET_FIELDS = ("config", "credentials", "delivery_metadata")


def describe(item: read.Read, *, payload: bool = False) -> Described:
    """The entry as a JSON-able dict that begins with `position`, `at`, `type`, `tenant`, `id`; one that does not
    decode has `problem` instead of what it means."""
    head = {"position": str(item.position), "at": times.text(item.position.ms)}
    try:
        entry = envelope.decode(item.position.stream, item.position, item.fields)
    except errors.UndecodableEntry as exc:
        return head | _undecodable(item, exc, payload)
    version = int(item.fields[b"v"])
    match entry:
        case events.ConfigChanged(tenant, by, change):
            told = _told(change.type, tenant, change.id, version, by)
            state = None if change.state is None else _masked(msgspec.to_builtins(change.state))
            return head | told | {"tenant_version": change.version, "state": state}
        case events.EntrySkipped(position, by):
            return head | _told(events.ENTRY_SKIPPED, "", "", version, by) | {"skipped": position}
        case events.Event():
            return head | _event(entry, version, payload)
        case events.DeliveryEntry():
            return head | _delivery(entry, version, payload)


def one_line(described: Described) -> str:
    """`describe` as one line of text for a terminal, safe to print."""
    shown = {k: v for k, v in described.items() if k not in {"at", "version"} and v not in ("", None, {}, [])}
    position, type_ = shown.pop("position"), shown.pop("type", "?")
    rest = " ".join(f"{name}={terminal.printable(_word(value))}" for name, value in shown.items())
    return f"{described['at']}  {position}  {terminal.printable(str(type_))}  {rest}"


def _word(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return msgspec.json.encode(text).decode() if isinstance(value, str) and (" " in text or not text) else text


def _told(type_: str, tenant: str, id_: str, version: int, by: str) -> Described:
    return {"type": type_, "tenant": tenant, "id": id_, "version": version, "by": by}


def _event(event: events.Event, version: int, payload: bool) -> Described:
    told = _told(events.EVENT_ACCEPTED, event.tenant, event.id, version, event.by)
    told |= {"topic": event.topic, "time": event.time, "eligible_for_retry": event.eligible}
    told |= {"tenant_version": event.version, "metadata": event.metadata, "matched": [*map(str, event.matched)]}
    return told | _sized("data", event.data, payload)


def _delivery(entry: events.DeliveryEntry, version: int, payload: bool) -> Described:
    told = _told(entry.type, entry.tenant, entry.event_id, version, entry.by)
    told |= {"task": str(entry.task), "attempt": entry.task.attempt, "destination": entry.task.destination}
    if entry.detail is None:
        return told
    detail = msgspec.structs.asdict(entry.detail)
    response = bytes(detail.pop("response_data"))
    return (
        told
        | detail
        | ({} if response == bytes(events.NO_RESPONSE) else _sized("response_data", response, payload))
    )


def _undecodable(item: read.Read, exc: errors.UndecodableEntry, payload: bool) -> Described:
    told: Described = {"type": _text(item.fields.get(b"t", b"")), "problem": f"field {exc.field!r} {exc.rule}"}
    fields: Described = {}
    for name, value in item.fields.items():
        if name == b"d" and item.position.stream == "cfg":
            fields |= _sized("d", _masked_json(value), payload)
        elif name in {b"d", b"md"} or len(name) > 3:
            sized = _sized(_text(name), value, payload)
            fields |= {key: _SEALED.sub(MASK, v) if isinstance(v, str) else v for key, v in sized.items()}
        else:
            fields[_text(name)] = _text(value)
    return told | {"tenant": _text(item.fields.get(b"ten", b"")), "fields": fields}


def _sized(name: str, value: bytes, payload: bool) -> Described:
    """The value as text, or how many bytes it has."""
    return {name: value.decode("utf-8", "backslashreplace")} if payload else {f"{name}_bytes": len(value)}


def _text(value: bytes) -> str:
    return _SEALED.sub(MASK, value.decode("utf-8", "backslashreplace"))


def _masked_json(state: bytes) -> bytes:
    """The masked state in an entry of `cfg` that this version does not decode. Nothing is shown of one that is not
    JSON, since what is secret in it cannot be told."""
    try:
        return msgspec.json.encode(_masked(msgspec.json.decode(state)))
    except (ValueError, RecursionError):
        return b""


def _masked(state: Any) -> Any:
    """A tenant's or destination's state with what is sealed, or ought to be, masked."""
    if isinstance(state, str):
        return _SEALED.sub(MASK, state) if state.startswith("s1.") else state
    if isinstance(state, list | tuple):
        return [_masked(value) for value in state]
    if not isinstance(state, dict):
        return state
    return {
        name: MASK if name in _SECRET_FIELDS and value is not None else _masked(value)
        for name, value in state.items()
    }
