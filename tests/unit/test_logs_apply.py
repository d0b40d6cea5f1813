"""Rows of the log tables follow from the entries alone (P2, P3, P6, P8)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpost import errors
from outpost.domain import events
from outpost.log import envelope
from projections.logs import apply
from tests.harness import log_entries

bounded = settings(max_examples=150)

NAMES = st.text(alphabet="abc/@.é", min_size=1, max_size=5)
EVENTS = st.builds(
    log_entries.event,
    NAMES,
    NAMES,
    topic=NAMES,
    eligible=st.booleans(),
    metadata=st.dictionaries(NAMES, NAMES, max_size=3),
    matched=st.lists(st.builds(events.Matched, NAMES, st.integers(0, 9)), max_size=3).map(tuple),
    data=st.sampled_from([b"{}", b'{"a": 1.0}', b"[1, 2]", b"\xff", b'"\xc3\xa9"', b"{"]),
    time=st.sampled_from([log_entries.TIME, "1969-12-31T23:59:59.999Z", "noon", "2026-01-01T00:00:00"]),
)
ATTEMPTS = st.builds(
    log_entries.attempt,
    NAMES,
    NAMES,
    st.sampled_from(["5-0", "1790000000000-12"]),
    number=st.integers(1, 99),
    destination=NAMES,
    status=st.sampled_from(["success", "failed"]),
    response=st.sampled_from([None, b'{"a":[]}']),
    following=st.sampled_from(["auto", "manual", "none"]),
)
CHANGE_TYPES = ["delivery.skipped", "delivery.cancelled", "retry.requested", "cancel.requested"]
CHANGES = st.builds(
    log_entries.change,
    NAMES,
    NAMES,
    st.sampled_from(CHANGE_TYPES),
    st.sampled_from(["1/5-0/des_9@1", "12/1790000000000-3/a/b@c@4"]),
    NAMES,
)


def decode(stream: str, fields: list) -> events.Entry:
    flat = [str(x).encode() if not isinstance(x, bytes) else x for x in fields]
    return envelope.decode(stream, f"{stream}.00.1-0", dict(zip(flat[::2], flat[1::2], strict=True)))


ENTRIES = st.one_of(EVENTS, ATTEMPTS.map(lambda f: decode("dlv", f)), CHANGES.map(lambda f: decode("dlv", f)))
PLACED = st.lists(ENTRIES, max_size=12).map(
    lambda entries: [apply.Placed(i % 3, 1_790_000_000_000 + i, i, entry) for i, entry in enumerate(entries)]
)


@bounded
@given(PLACED, st.lists(st.integers(0, 12), max_size=4))
@pytest.mark.invariant("P2")
def test_any_cut_into_batches_gives_the_same_rows(placed, cuts):
    edges = [0, *sorted(cuts), len(placed)]
    pieces = [apply.apply(placed[a:b]) for a, b in itertools.pairwise(edges)]
    joined = apply.Rows(
        [r for p in pieces for r in p.events],
        [r for p in pieces for r in p.attempts],
        [r for p in pieces for r in p.changes],
        [r for p in pieces for r in p.unfit],
    )
    assert apply.apply(placed) == joined


@bounded
@given(PLACED)
@pytest.mark.invariant("P3")
def test_applying_again_gives_the_same_rows(placed):
    assert apply.apply(placed) == apply.apply(placed)


@bounded
@given(PLACED, st.randoms())
@pytest.mark.invariant("P8")
def test_the_interleaving_of_the_streams_does_not_matter(placed, random):
    shuffled = list(placed)
    random.shuffle(shuffled)
    expected, actual = apply.apply(placed), apply.apply(shuffled)
    assert [sorted(part, key=repr) for part in expected] == [sorted(part, key=repr) for part in actual]


@bounded
@given(PLACED)
def test_every_entry_is_exactly_one_row_or_one_rejection(placed):
    made = apply.apply(placed)
    written = [r[:3] for r in made.events + made.attempts + made.changes]
    positions = [(ms, p, seq) for p, ms, seq, *_ in made.unfit] + written
    assert sorted((p.ms, p.partition, p.seq) for p in placed) == sorted(positions)


def test_an_event_becomes_a_row_with_its_payload_untouched():
    entry = log_entries.event("t1", "e1", metadata={"b": "2", "a": "1"}, data=b'{"a": [ ],  "b":1.0}')
    row = apply.apply([apply.Placed(4, 1_790_000_000_001, 7, entry)]).events[0]
    assert dict(zip(apply.EVENT_COLUMNS, row, strict=True)) == {
        "accepted_at": 1_790_000_000_001,
        "partition": 4,
        "seq": 7,
        "time": log_entries.TIME_MS,
        "tenant_id": "t1",
        "event_id": "e1",
        "topic": "user.created",
        "eligible_for_retry": True,
        "metadata": '{"a":"1","b":"2"}',
        "matched_destination_ids": ["des_1"],
        "data": '{"a": [ ],  "b":1.0}',
    }


def test_an_attempt_becomes_a_row_that_names_the_position_of_its_event():
    entry = decode("dlv", log_entries.attempt("t1", "e1", "1790000000000-3", number=2, destination="d/1@x"))
    row = apply.apply([apply.Placed(4, 1_790_000_000_001, 7, entry)]).attempts[0]
    assert dict(zip(apply.ATTEMPT_COLUMNS, row, strict=True)) == {
        "accepted_at": 1_790_000_000_001,
        "partition": 4,
        "seq": 7,
        "time": log_entries.STARTED_MS + 12,
        "tenant_id": "t1",
        "event_id": "e1",
        "event_accepted_at": 1_790_000_000_000,
        "event_seq": 3,
        "destination_id": "d/1@x",
        "destination_created": 2,
        "destination_type": "webhook",
        "topic": "user.created",
        "status": "success",
        "code": "200",
        "attempt_number": 2,
        "manual": False,
        "response_data": '{"status":200}',
        "next": "none",
        "latency_ms": 12,
    }


@pytest.mark.parametrize("following", ["auto", "manual", "none"])
def test_an_attempt_says_what_was_to_follow_it(following):
    entry = decode("dlv", log_entries.attempt("t1", "e1", following=following))
    [row] = apply.apply([apply.Placed(4, 1, 0, entry)]).attempts
    assert following == row[apply.ATTEMPT_COLUMNS.index("next")]


@pytest.mark.parametrize("type_", CHANGE_TYPES)
def test_what_happens_to_a_delivery_beside_its_attempts_is_a_row_too(type_):
    entry = decode("dlv", log_entries.change("t1", "e1", type_, "7/1790000000000-3/d/1@x@2", "admin/req_1"))
    [row] = apply.apply([apply.Placed(4, 1_790_000_000_001, 7, entry)]).changes
    assert dict(zip(apply.CHANGE_COLUMNS, row, strict=True)) == {
        "accepted_at": 1_790_000_000_001,
        "partition": 4,
        "seq": 7,
        "tenant_id": "t1",
        "event_id": "e1",
        "event_accepted_at": 1_790_000_000_000,
        "event_seq": 3,
        "destination_id": "d/1@x",
        "destination_created": 2,
        "attempt_number": 7,
        "type": type_,
        "by": "admin/req_1",
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": b"\xff"}, "d: is not JSON in UTF-8"),
        ({"data": b'"\xff"'}, "d: is not JSON in UTF-8"),
        ({"data": b'{"a":'}, "d: is not JSON in UTF-8"),
        ({"data": b"[" * 100_000}, "d: is not JSON in UTF-8"),
        ({"time": "yesterday"}, "tm: is not a time with a zone"),
        ({"time": "2026-01-01T00:00:00"}, "tm: is not a time with a zone"),
    ],
)
def test_an_event_that_cannot_be_a_row_says_which_rule_it_breaks(changes, reason):
    made = apply.apply([apply.Placed(0, 1, 0, log_entries.event("t1", "e1", **changes))])
    assert ([], [reason]) == (made.events, [item.reason for item in made.unfit])


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00.000Z", 0),
        ("1970-01-01T00:00:00.999Z", 999),
        ("1969-12-31T23:59:59.999Z", -1),
        (log_entries.TIME, log_entries.TIME_MS),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
    ],
)
def test_times_are_exact_to_the_millisecond(text, ms):
    row = apply.apply([apply.Placed(0, 1, 0, log_entries.event("t1", "e1", time=text))]).events[0]
    assert ms == row[apply.EVENT_COLUMNS.index("time")]


@pytest.mark.invariant("P6")
def test_an_entry_of_the_first_version_is_read_and_one_from_the_future_is_not():
    fields = log_entries.attempt("t1", "e1")
    assert isinstance(decode("dlv", fields), events.DeliveryEntry)
    fields[3] = 2
    with pytest.raises(errors.UndecodableEntry):
        decode("dlv", fields)
