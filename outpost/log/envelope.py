"""The fields of an entry: domain struct to stream fields and back.

Fields stand in a fixed order so that Redis stores their names once a node. Decoding accepts every schema version
there ever was (through `domain/upcast`) and names the field and the rule that a bad entry breaks.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence

import msgspec

from outpost import errors
from outpost.domain import delivery, events, tenant, upcast

Fields = Mapping[bytes, bytes]


CFG_FIELDS = ("t", "v", "ten", "id", "n", "by", "d")
EVT_FIELDS = ("t", "v", "ten", "id", "n", "top", "tm", "er", "md", "m", "by", "d")
DLV_FIELDS = ("t", "v", "ten", "id", "ref", "by", "d")

_json = msgspec.json.Encoder(order="deterministic")
_decode_tenant = msgspec.json.Decoder(tenant.Tenant).decode
_decode_destination = msgspec.json.Decoder(tenant.Destination).decode
_decode_metadata = msgspec.json.Decoder(dict[str, str]).decode
_decode_matched = msgspec.json.Decoder(list[str]).decode
_decode_detail = msgspec.json.Decoder(events.AttemptDetail).decode
_decode_request = msgspec.json.Decoder(dict[str, int]).decode
_encode_plain = msgspec.json.Encoder().encode
_NO_METADATA: dict[str, str] = {}
_EVENT_VERSION = events.schema_version(events.EVENT_ACCEPTED)


def encode_change(entry: events.ConfigChanged) -> list[bytes | str | int]:
    """A `cfg` entry as field, value, field, value."""
    change = entry.change
    state = b"" if change.state is None else _json.encode(change.state)
    return [
        "t",
        change.type,
        "v",
        events.schema_version(change.type),
        "ten",
        entry.tenant,
        "id",
        change.id,
        "n",
        change.version,
        "by",
        entry.by,
        "d",
        state,
    ]


def encode_skip(entry: events.EntrySkipped) -> list[bytes | str | int]:
    """An `entry.skipped` of `cfg`; the position stands in `id`."""
    return [
        "t",
        events.ENTRY_SKIPPED,
        "v",
        events.schema_version(events.ENTRY_SKIPPED),
        "ten",
        "",
        "id",
        entry.position,
        "n",
        0,
        "by",
        entry.by,
        "d",
        b"",
    ]


def encode_event(event: events.Event) -> list[bytes | str | int]:
    """An `evt` entry; `data` is passed through byte for byte."""
    return [
        "t",
        events.EVENT_ACCEPTED,
        "v",
        _EVENT_VERSION,
        "ten",
        event.tenant,
        "id",
        event.id,
        "n",
        event.version,
        "top",
        event.topic,
        "tm",
        event.time,
        "er",
        "1" if event.eligible else "0",
        "md",
        _json.encode(event.metadata) if event.metadata else b"{}",
        "m",
        encode_matched(event.matched),
        "by",
        event.by,
        "d",
        event.data,
    ]


_payload = operator.itemgetter(17, 19, 23)  # metadata, matches and data, in what `encode_event` returns


def payload_bytes(fields: Sequence[bytes | str | int]) -> int:
    """The bytes of an encoded event that its publisher decides: metadata, matches and data."""
    return sum(map(len, _payload(fields)))


def encode_matched(matched: Sequence[events.Matched]) -> bytes:
    """`m` of an event: a JSON array of `destination@creation-version`."""
    return _encode_plain([str(m) for m in matched]) if matched else b"[]"


def decode_matched(text: bytes) -> tuple[events.Matched, ...]:
    """The inverse of `encode_matched`. Raises ValueError."""
    if text == b"[]":
        return ()
    return tuple(_matched(item) for item in _decode_matched(text))


def _matched(text: str) -> events.Matched:
    destination, _, created = text.rpartition("@")
    if not destination:
        raise ValueError("a match without a creation version")
    return events.Matched(destination, int(created))


def encode_detail(detail: events.AttemptDetail) -> bytes:
    """The `d` of an attempt but for what the script decides (`manual`, `next`, `retry_in_ms`, `asked`,
    `automatic`) and the
    closing brace: the script appends those as text."""
    head = {
        "topic": detail.topic,
        "destination_type": detail.destination_type,
        "status": detail.status,
        "code": detail.code,
        "started_ms": detail.started_ms,
        "took_ms": detail.took_ms,
        "response_data": detail.response_data,
    }
    return _encode_plain(head)[:-1]


def decode(stream: str, position: object, fields: Fields) -> events.Entry:
    """The entry at `position`, whose `str` names it. Raises errors.UndecodableEntry, naming the field and the
    rule."""
    try:
        version, type_ = int(fields[b"v"]), fields[b"t"].decode()
        fields = _upcast(type_, version, fields)
        match stream:
            case "evt":
                return _decode_event(type_, fields)
            case "cfg":
                return _decode_config(type_, fields)
            case _:
                return _decode_delivery(type_, fields)
    except KeyError as exc:
        field = exc.args[0].decode() if isinstance(exc.args[0], bytes) else str(exc.args[0])
        raise errors.UndecodableEntry(str(position), field, "is missing") from exc
    except _BadField as exc:
        raise errors.UndecodableEntry(str(position), exc.field, exc.rule) from exc
    except (ValueError, RecursionError) as exc:  # msgspec's and Unicode's errors are ValueErrors
        raise errors.UndecodableEntry(str(position), *_blame(fields)) from exc


def skipped_version(fields: Fields) -> events.VersionSkipped | None:
    """The tenant and its version in an entry of `cfg` that does not decode; None where these cannot be read
    either."""
    try:
        skipped = events.VersionSkipped(fields[b"ten"].decode(), int(fields[b"n"]))
    except (KeyError, ValueError):
        return None
    return skipped if skipped.tenant and skipped.version > 0 else None


class _BadField(Exception):
    def __init__(self, field: str, rule: str) -> None:
        super().__init__(field, rule)
        self.field = field
        self.rule = rule


def _upcast(type_: str, version: int, fields: Fields) -> Fields:
    try:
        return upcast.upcast(type_, version, fields)
    except ValueError as exc:
        raise _BadField("v", "is not a version that is known here") from exc


def _blame(fields: Fields) -> tuple[str, str]:
    """Which field does not decode, and how; looked for only once it is known that one does not."""
    checks: tuple[tuple[bytes, Callable[[bytes], object], str], ...] = (
        *((name, bytes.decode, "is not UTF-8") for name in (b"t", b"ten", b"id", b"top", b"tm", b"by")),
        *((name, int, "is not a number") for name in (b"v", b"n")),
        (b"md", _decode_metadata, "is not a JSON object of text"),
        (b"m", decode_matched, "is not an array of matches"),
    )
    for name, check, rule in checks:
        try:
            check(fields.get(name, b"{}" if name == b"md" else b"[]" if name == b"m" else b"0"))
        except (ValueError, RecursionError):
            return name.decode(), rule
    return "d", "does not decode"


def _decode_event(type_: str, fields: Fields) -> events.Event:
    if type_ != events.EVENT_ACCEPTED:
        raise _BadField("t", "is not a type of evt")
    metadata = fields[b"md"]
    return events.Event(
        tenant=fields[b"ten"].decode(),
        id=fields[b"id"].decode(),
        version=int(fields[b"n"]),
        topic=fields[b"top"].decode(),
        time=fields[b"tm"].decode(),
        eligible=fields[b"er"] == b"1",
        metadata=_NO_METADATA if metadata == b"{}" else _decode_metadata(metadata),
        matched=decode_matched(fields[b"m"]),
        by=fields[b"by"].decode(),
        data=fields[b"d"],
    )


def _decode_config(type_: str, fields: Fields) -> events.ConfigChanged | events.EntrySkipped:
    by, id_, state = fields[b"by"].decode(), fields[b"id"].decode(), fields[b"d"]
    if type_ == events.ENTRY_SKIPPED:
        return events.EntrySkipped(id_, by)
    if type_ not in events.CONFIG_TYPES:
        raise _BadField("t", "is not a type of cfg")
    decoded: tenant.Tenant | tenant.Destination | None = None
    if not type_.endswith(".deleted"):
        decoded = _decode_tenant(state) if type_.startswith("tenant.") else _decode_destination(state)
    change = tenant.Change(type_, int(fields[b"n"]), id_, decoded)  # type: ignore[arg-type]
    return events.ConfigChanged(fields[b"ten"].decode(), by, change)


def _decode_delivery(type_: str, fields: Fields) -> events.DeliveryEntry:
    if type_ not in events.DELIVERY_TYPES:
        raise _BadField("t", "is not a type of dlv")
    try:
        task = delivery.parse_task_id(fields[b"ref"].decode())
    except ValueError as exc:
        raise _BadField("ref", "is not a task id") from exc
    detail = _decode_detail(fields[b"d"]) if type_ in events.ATTEMPT_TYPES else None
    asked = _decode_request(fields[b"d"]) if type_ == "retry.requested" and fields[b"d"] else {}
    return events.DeliveryEntry(
        type_,
        fields[b"ten"].decode(),
        fields[b"id"].decode(),
        task,
        fields[b"by"].decode(),
        detail,
        asked.get("automatic"),
    )
