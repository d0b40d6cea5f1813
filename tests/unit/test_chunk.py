"""Chunks: packed in any split, read as they were, refused after any change."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpost.domain import delivery, events
from outpost.queue import base, chunk

SECRET = "0123456789abcdef"
CODEC = chunk.Codec("log-1", SECRET, 16_384)

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


def an_event(
    tenant: str = "acme", data: bytes = b'{"a":1}', metadata: dict[str, str] | None = None
) -> events.Event:
    return events.Event(
        tenant=tenant,
        id="evt_1",
        version=7,
        topic="user.created",
        time="2026-11-30T10:00:00.000Z",
        eligible=True,
        metadata=metadata or {},
        matched=(),
        by="",
        data=data,
    )


def tasks_of(event: events.Event, count: int, partition: int = 3, entry: str = "1-0") -> list[base.Task]:
    made = [delivery.TaskId(1, entry, f"des_{n}", n + 1) for n in range(count)]
    return [base.Task(partition, str(each), each, event) for each in made]


@st.composite
def flushes(draw: st.DrawFn) -> list[base.Task]:
    found: list[base.Task] = []
    for number in range(draw(st.integers(1, 12))):
        data = draw(st.binary(min_size=2, max_size=20_000))
        event = an_event(draw(ids), data, draw(st.dictionaries(ids, ids, max_size=3)))
        found += tasks_of(event, draw(st.integers(1, 120)), draw(st.integers(0, 15)), f"{number}-{number}")
    return found


@given(flushes(), st.integers(chunk.LEAST_CHUNK_BYTES, chunk.CHUNK_BYTES))
@settings(max_examples=60)
def test_what_is_packed_is_read_in_order_within_the_limits(tasks: list[base.Task], limit: int) -> None:
    packed = CODEC.pack(tasks, 5, limit)
    assert tasks == [task for each in packed for task in each.tasks]
    found: list[base.Task] = []
    for each in packed:
        assert len(each.body) <= limit
        assert 1 <= len(each.tasks) <= chunk.CHUNK_TASKS
        read = CODEC.read(each.body)
        assert 5 == read.sent_ms
        found += read.tasks
    for sent, arrived in zip(tasks, found, strict=True):
        inline = arrived.loaded
        assert arrived == (sent if inline else sent.unloaded())
        assert inline or sent.payload_bytes > 2_000


def test_tasks_of_one_event_share_its_payload() -> None:
    tasks = tasks_of(an_event(data=b'"' + b"x" * 10_000 + b'"'), chunk.CHUNK_TASKS)
    (packed,) = CODEC.pack(tasks, 5)
    assert len(packed.body) < 12_000


@pytest.mark.parametrize(("size", "inline"), [(16_384, True), (16_385, False)])
def test_a_large_payload_stays_in_the_log(size: int, inline: bool) -> None:
    (packed,) = CODEC.pack(tasks_of(an_event(data=b"x" * size), 1), 5)
    (task,) = CODEC.read(packed.body).tasks
    assert inline == task.loaded
    assert inline == (b"x" * size == task.event.data)


def test_no_payload_travels_where_the_limit_is_0() -> None:
    codec = chunk.Codec("log-1", SECRET, 0)
    (packed,) = codec.pack(tasks_of(an_event(), 1), 5)
    assert b'{"a":1}' not in packed.body
    assert not codec.read(packed.body).tasks[0].loaded


def test_ids_of_any_length_fit_into_the_smallest_message() -> None:
    made = [delivery.TaskId(1, "1-0", "日" * 85, n) for n in range(200)]
    event = an_event("日" * 85)
    packed = CODEC.pack([base.Task(3, str(each), each, event) for each in made], 5, chunk.LEAST_CHUNK_BYTES)
    assert max(len(each.body) for each in packed) <= chunk.LEAST_CHUNK_BYTES
    assert 200 == sum(len(each.tasks) for each in packed)


def test_a_probe_has_no_tasks() -> None:
    assert chunk.Chunk(5, []) == CODEC.read(CODEC.probe(5))


def test_any_changed_byte_is_refused() -> None:
    (packed,) = CODEC.pack(tasks_of(an_event(), 2), 5)
    for at in range(len(packed.body)):
        changed = bytearray(packed.body)
        changed[at] ^= 1
        with pytest.raises(chunk.Refused):
            CODEC.read(bytes(changed))


def test_any_cut_is_refused() -> None:
    (packed,) = CODEC.pack(tasks_of(an_event(), 2), 5)
    for at in range(len(packed.body)):
        with pytest.raises(chunk.Refused):
            CODEC.read(packed.body[:at])


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_bytes_of_anybody_are_refused(message: bytes) -> None:
    with pytest.raises(chunk.Refused):
        CODEC.read(message)


@pytest.mark.parametrize(
    ("codec", "why"),
    [
        (chunk.Codec("log-2", SECRET, 0), "foreign"),
        (chunk.Codec("log-1", "another secret..", 0), "forged"),
    ],
)
def test_a_chunk_of_another_log_is_told_from_a_forged_one(codec: chunk.Codec, why: str) -> None:
    with pytest.raises(chunk.Refused) as refused:
        CODEC.read(codec.probe(5))
    assert why == refused.value.why


def test_a_later_layout_is_not_read() -> None:
    body = bytearray(CODEC.probe(5))
    body[2] = 2
    with pytest.raises(chunk.Refused) as refused:
        CODEC.read(bytes(body))
    assert "version" == refused.value.why


def test_a_message_that_is_too_long_is_not_looked_at() -> None:
    with pytest.raises(chunk.Refused) as refused:
        CODEC.read(CODEC.probe(5) + bytes(chunk.READ_BYTES))
    assert "unreadable" == refused.value.why
