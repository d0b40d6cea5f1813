"""Entries that break the envelope are named by field and rule; what is written is read back."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost import errors
from outpost.domain import delivery, events
from outpost.domain import tenant as tenants
from outpost.log import envelope

EVENT = events.Event(
    "acme", "e1", 3, "user.created", "2026-09-21T14:13:20.400Z", True, {}, (), "admin/req_1", b'{"a":1}'
)
CHANGE = events.ConfigChanged("acme", "admin/req_1", tenants.Change("tenant.created", 1, "", None))
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
NAME = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)


def _fields(flat: list[bytes | str | int]) -> dict[bytes, bytes]:
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in flat]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _delivery(type_: str, detail: bytes, ref: bytes = b"1/5-0/d@1") -> dict[bytes, bytes]:
    names = [name.encode() for name in envelope.DLV_FIELDS]
    return dict(zip(names, [type_.encode(), b"1", b"acme", b"e1", ref, b"w", detail], strict=True))


def _broken(stream: str, fields: dict[bytes, bytes]) -> tuple[str, str]:
    with pytest.raises(errors.UndecodableEntry) as caught:
        envelope.decode(stream, f"{stream}.00.5-0", fields)
    assert f"{stream}.00.5-0" == caught.value.position
    return caught.value.field, caught.value.rule


@given(
    st.builds(
        events.Event,
        tenant=TEXT,
        id=TEXT,
        version=st.integers(0, 2**53),
        topic=TEXT,
        time=TEXT,
        eligible=st.booleans(),
        metadata=st.dictionaries(TEXT, TEXT, max_size=3),
        matched=st.lists(st.builds(events.Matched, NAME, st.integers(1, 2**53)), max_size=3).map(tuple),
        by=TEXT,
        data=st.binary(max_size=30),
    )
)
def test_an_event_is_read_back_as_it_was_written(event: events.Event) -> None:
    assert event == envelope.decode("evt", "evt.00.5-0", _fields(envelope.encode_event(event)))


@given(
    st.builds(
        tenants.Destination,
        id=NAME,
        type=st.just("webhook"),
        topics=st.lists(TEXT, min_size=1, max_size=3).map(tuple),
        config=st.dictionaries(TEXT, TEXT, max_size=3),
        credentials=TEXT,
        created_ms=st.integers(0, 2**53),
        updated_ms=st.integers(0, 2**53),
        metadata=st.none() | st.dictionaries(TEXT, TEXT, max_size=3),
        disabled_ms=st.none() | st.integers(0, 2**53),
    )
)
def test_a_change_is_read_back_as_it_was_written(destination: tenants.Destination) -> None:
    change = tenants.Change("destination.updated", 4, destination.id, destination)
    entry = events.ConfigChanged("acme", "admin/req_1", change)
    assert entry == envelope.decode("cfg", "cfg.00.5-0", _fields(envelope.encode_change(entry)))


@pytest.mark.parametrize("response", [events.NO_RESPONSE, msgspec.Raw(b'{"status":200}'), msgspec.Raw(b'"text"')])
def test_an_attempt_keeps_its_response_whatever_json_it_is(response: msgspec.Raw) -> None:
    detail = events.AttemptDetail("t", "webhook", "success", "200", 5, 6, False, "none", response)
    fields = _delivery("attempt.succeeded", envelope.encode_detail(detail) + b',"manual":false,"next":"none"}')
    expected = events.DeliveryEntry(
        "attempt.succeeded", "acme", "e1", delivery.TaskId(1, "5-0", "d", 1), "w", detail
    )
    assert expected == envelope.decode("dlv", "dlv.00.6-0", fields)


@pytest.mark.parametrize("name", [*envelope.EVT_FIELDS])
def test_a_missing_field_of_an_event_is_named(name: str) -> None:
    fields = _fields(envelope.encode_event(EVENT))
    del fields[name.encode()]
    assert (name, "is missing") == _broken("evt", fields)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        (b"v", b"2", "is not a version that is known here"),
        (b"v", b"0", "is not a version that is known here"),
        (b"v", b"one", "is not a number"),
        (b"v", b"9" * 5000, "is not a number"),
        (b"t", b"event.lost", "is not a type of evt"),
        (b"t", b"\xff", "is not UTF-8"),
        (b"ten", b"\xff", "is not UTF-8"),
        (b"id", b"\xc3(", "is not UTF-8"),
        (b"top", b"\xff", "is not UTF-8"),
        (b"tm", b"\xff", "is not UTF-8"),
        (b"by", b"\xff", "is not UTF-8"),
        (b"n", b"", "is not a number"),
        (b"md", b"[]", "is not a JSON object of text"),
        (b"md", b'{"a":1}', "is not a JSON object of text"),
        (b"m", b"{}", "is not an array of matches"),
        (b"m", b'["no version"]', "is not an array of matches"),
        (b"m", b"[" * 100_000, "is not an array of matches"),
    ],
)
def test_a_bad_field_of_an_event_is_named_with_the_rule(name: bytes, value: bytes, rule: str) -> None:
    fields = _fields(envelope.encode_event(EVENT)) | {name: value}
    assert (name.decode(), rule) == _broken("evt", fields)


def test_a_change_needs_the_state_that_its_type_promises() -> None:
    fields = _fields(envelope.encode_change(CHANGE))
    assert ("d", "does not decode") == _broken("cfg", fields | {b"d": b""})
    assert ("d", "does not decode") == _broken("cfg", fields | {b"d": b'{"id":"acme"}'})
    assert ("t", "is not a type of cfg") == _broken("cfg", fields | {b"t": b"event.accepted"})
    assert ("n", "is not a number") == _broken("cfg", fields | {b"t": b"tenant.deleted", b"n": b"x"})


def test_a_delivery_entry_needs_a_task_and_an_attempt_its_detail() -> None:
    assert ("ref", "is not a task id") == _broken("dlv", _delivery("attempt.failed", b"", b"1/5-0/d"))
    assert ("ref", "is not a task id") == _broken("dlv", _delivery("attempt.failed", b"", b"\xff"))
    assert ("d", "does not decode") == _broken("dlv", _delivery("attempt.failed", b"{}"))
    assert ("t", "is not a type of dlv") == _broken("dlv", _delivery("attempt.lost", b"{}"))


def test_an_error_says_nothing_of_what_the_entry_holds() -> None:
    fields = _fields(envelope.encode_event(EVENT)) | {b"md": b'{"password":"hunter2"', b"d": b"hunter2"}
    with pytest.raises(errors.UndecodableEntry) as caught:
        envelope.decode("evt", "evt.00.5-0", fields)
    assert "hunter2" not in str(caught.value)
