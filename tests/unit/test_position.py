"""A position has one spelling, and compares in stream order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost.log import position as positions
from outpost.log.position import Position

POSITIONS = st.builds(
    Position,
    st.sampled_from(["cfg", "evt", "dlv"]),
    st.integers(0, 15),
    st.integers(0, 2**48 - 1),
    st.integers(0, 2**64 - 1),
)


@given(POSITIONS)
def test_a_position_is_read_back_as_it_was_written(position: Position) -> None:
    assert position == positions.parse(str(position))
    assert position == positions.of_entry(position.stream, position.partition, position.entry_id)
    assert position == positions.of_entry(position.stream, position.partition, position.entry_id.encode())
    assert (position.ms, position.seq) == positions.entry_key(position.entry_id)


def test_a_position_is_spelt_with_stream_partition_and_entry_id() -> None:
    assert "evt.07.1790000000000-0" == str(Position("evt", 7, 1_790_000_000_000, 0))


@given(st.text(max_size=30) | st.from_regex(r"[a-z]{3}\.[0-9]{1,3}\.[0-9]{1,20}-[0-9]{1,21}", fullmatch=True))
def test_what_is_parsed_is_spelt_in_the_same_way_again(text: str) -> None:
    position = positions.parse(text)
    assert position is None or text == str(position)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "evt.07.5",
        "evt.7.5-0",
        "evt.16.5-0",
        "log.07.5-0",
        "evt.07.05-0",
        "evt.07.5-00",
        "evt.07.5-0 ",
        "evt.07.5-0\n",
        "evt.07.-5-0",
        "evt.07.\u0665-0",
        "EVT.07.5-0",
        f"evt.07.{2**48}-0",
        f"evt.07.5-{2**64}",
        "evt.07.999999999999999-0",
    ],
)
def test_what_is_no_position_is_none(text: str) -> None:
    assert positions.parse(text) is None


@given(st.lists(st.tuples(st.integers(0, 2**48 - 1), st.integers(0, 2**64 - 1)), min_size=2))
def test_positions_of_a_stream_sort_by_number_and_not_by_text(keys: list[tuple[int, int]]) -> None:
    ordered = sorted(Position("evt", 3, *key) for key in keys)
    assert sorted(keys) == [(position.ms, position.seq) for position in ordered]
    assert sorted(keys) == [positions.entry_key(position.entry_id) for position in ordered]
