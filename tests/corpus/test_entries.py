"""Every entry type and schema version that was ever written decodes to what it meant, and today's are written as
they stand here, byte for byte. A file is never changed: a new schema version adds one beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from outpost.domain import delivery, events
from outpost.domain import tenant as tenants
from outpost.log import envelope

FOLDER = Path(__file__).parent / "entries"
FILES = sorted(path.name for path in FOLDER.glob("*.json"))

SEALED = "s1.AAECAwQFBgcICQoLc2VhbGVk"
TENANT = tenants.Tenant("acme", {"plan": "gold"}, 1_790_000_000_000, 1_790_000_000_000)
DESTINATION = tenants.Destination(
    id="des_1",
    type="webhook",
    topics=("user.created", "order.*"),
    config=SEALED,
    credentials=SEALED,
    created_ms=1_790_000_000_100,
    updated_ms=1_790_000_000_100,
    filter={"data": {"amount": {"$gte": 10.5}}},
    delivery_metadata=SEALED,
    metadata={"team": "größe"},
    created=2,
    version=2,
)
TASK = delivery.TaskId(2, "1790000000400-0", "des_1", 2)


def _change(type_: tenants.ChangeType, version: int, state: tenants.Tenant | tenants.Destination | None) -> Any:
    id_ = "des_1" if type_.startswith("destination.") else ""
    return events.ConfigChanged("acme", "admin/req_1", tenants.Change(type_, version, id_, state))


def _destination(**changes: Any) -> tenants.Destination:
    return msgspec.structs.replace(DESTINATION, **changes)


def _in_clear(entry: Any) -> events.ConfigChanged:
    """The entry as schema version 1 writes it, with the destination's config in clear."""
    state = msgspec.structs.replace(entry.change.state, config={"url": "https://example.com/hook"})
    return msgspec.structs.replace(entry, change=msgspec.structs.replace(entry.change, state=state))


def _attempt(type_: str, detail: events.AttemptDetail) -> events.DeliveryEntry:
    return events.DeliveryEntry(type_, "acme", "evt_1", TASK, "d0/proc_1", detail)


def _closing(type_: str, by: str = "d0/proc_1") -> events.DeliveryEntry:
    return events.DeliveryEntry(type_, "acme", "evt_1", TASK, by)


EXPECTED: dict[str, events.Entry] = {
    "tenant.created.v1.json": _change("tenant.created", 1, TENANT),
    "tenant.updated.v1.json": _change("tenant.updated", 9, msgspec.structs.replace(TENANT, metadata=None)),
    "tenant.deleted.v1.json": _change("tenant.deleted", 10, None),
    "destination.created.v2.json": _change("destination.created", 2, DESTINATION),
    "destination.updated.v2.json": _change(
        "destination.updated", 3, _destination(topics=("*",), filter=None, delivery_metadata=None, version=3)
    ),
    "destination.disabled.v2.json": _change(
        "destination.disabled", 4, _destination(disabled_ms=1_790_000_000_200, version=4)
    ),
    "destination.enabled.v2.json": _change("destination.enabled", 5, _destination(version=5)),
    "destination.secret_rotated.v2.json": _change(
        "destination.secret_rotated", 6, _destination(credentials=SEALED + "Mg", version=6)
    ),
    "destination.deleted.v1.json": _change("destination.deleted", 7, None),
    "entry.skipped.v1.json": events.EntrySkipped("cfg.03.1790000000300-0", "operator/req_2"),
    "event.accepted.v1.json": events.Event(
        tenant="acme",
        id="evt_1",
        version=2,
        topic="user.created",
        time="2026-09-21T14:13:20.400Z",
        eligible=True,
        metadata={"source": "crm", "größe": "ü"},
        matched=(events.Matched("des_1", 2), events.Matched("a/b@c", 17)),
        by="admin/req_3",
        data='{ "b": 1,\n  "a": [1.50, "é\\u00e9", {}] }'.encode(),
    ),
    "attempt.succeeded.v1.json": _attempt(
        "attempt.succeeded",
        events.AttemptDetail(
            topic="user.created",
            destination_type="webhook",
            status="success",
            code="200",
            started_ms=1_790_000_000_500,
            took_ms=12,
            manual=True,
            next="none",
            response_data=msgspec.Raw(b'{"status":200,"body":"ok"}'),
        ),
    ),
    "attempt.failed.v1.json": _attempt(
        "attempt.failed",
        events.AttemptDetail(
            topic="user.created",
            destination_type="webhook",
            status="failed",
            code="connection_refused",
            started_ms=1_790_000_000_500,
            took_ms=3,
            manual=False,
            next="auto",
            retry_in_ms=60_000,
        ),
    ),
    "delivery.skipped.v1.json": _closing("delivery.skipped"),
    "delivery.cancelled.v1.json": _closing("delivery.cancelled"),
    "retry.requested.v1.json": _closing("retry.requested", "admin/req_4"),
    "cancel.requested.v1.json": _closing("cancel.requested", "tenant/req_5"),
}
EXPECTED |= {f"{type_}.v1.json": _in_clear(EXPECTED[f"{type_}.v2.json"]) for type_ in events.SCHEMA_VERSIONS}


def read(name: str) -> tuple[str, str, dict[bytes, bytes]]:
    """Stream, position and fields of a golden file."""
    found = msgspec.json.decode((FOLDER / name).read_bytes())
    flat = [text.encode() for text in found["fields"]]
    position = found["position"]
    return position.partition(".")[0], position, dict(zip(flat[::2], flat[1::2], strict=True))


def encode(entry: events.Entry) -> list[bytes]:
    """The fields as they are appended. Of `dlv` the scripts write the fields; here they are put together alike."""
    match entry:
        case events.ConfigChanged():
            fields = envelope.encode_change(entry)
        case events.EntrySkipped():
            fields = envelope.encode_skip(entry)
        case events.Event():
            fields = envelope.encode_event(entry)
        case events.DeliveryEntry(type_, tenant, event_id, task, by, detail):
            values = (type_, 1, tenant, event_id, str(task), by, _detail(detail))
            fields = [part for pair in zip(envelope.DLV_FIELDS, values, strict=True) for part in pair]
    return [part if isinstance(part, bytes) else str(part).encode() for part in fields]


def _detail(detail: events.AttemptDetail | None) -> bytes:
    if detail is None:
        return b""
    manual = b"true" if detail.manual else b"false"
    tail = b',"manual":%s,"next":"%s"' % (manual, detail.next.encode())
    if detail.retry_in_ms is not None:
        tail += b',"retry_in_ms":%d' % detail.retry_in_ms
    return envelope.encode_detail(detail) + tail + b"}"


@pytest.mark.invariant("P6")
def test_every_type_that_there_is_has_a_golden_file_of_every_version() -> None:
    types = {*events.CONFIG_TYPES, events.ENTRY_SKIPPED, events.EVENT_ACCEPTED, *events.DELIVERY_TYPES}
    written = [(type_, version + 1) for type_ in types for version in range(events.schema_version(type_))]
    assert sorted(f"{type_}.v{version}.json" for type_, version in written) == FILES
    assert sorted(EXPECTED) == FILES


@pytest.mark.parametrize("name", FILES)
@pytest.mark.invariant("P6")
def test_a_golden_entry_decodes_to_what_it_meant(name: str) -> None:
    stream, position, fields = read(name)
    assert EXPECTED[name] == envelope.decode(stream, position, fields)


def _newest(name: str) -> bool:
    type_, _, version = name.removesuffix(".json").rpartition(".v")
    return int(version) == events.schema_version(type_)


@pytest.mark.parametrize("name", [name for name in FILES if _newest(name)])
def test_the_same_entry_is_written_today_byte_for_byte(name: str) -> None:
    flat = [part for pair in read(name)[2].items() for part in pair]
    assert flat == encode(EXPECTED[name])


@pytest.mark.parametrize("name", FILES)
def test_the_fields_stand_in_the_order_of_their_stream(name: str) -> None:
    stream, _, fields = read(name)
    order = {"cfg": envelope.CFG_FIELDS, "evt": envelope.EVT_FIELDS, "dlv": envelope.DLV_FIELDS}[stream]
    assert [field.encode() for field in order] == list(fields)
