"""A time in a query whose plus became a blank."""

from __future__ import annotations

import pytest

from outpost import errors
from outpost.api import queries

EIGHT = 1_796_022_000_000_000  # 2026-11-30T07:00:00Z in microseconds


@pytest.mark.case(24)
@pytest.mark.parametrize(
    "query",
    [
        b"time[gte]=2026-11-30T08:00:00+01:00",
        b"time[gte]=2026-11-30T08:00:00%2B01:00",
        b"time[gte]=2026-11-30T08:00:00%2b01%3A00",
        b"time%5Bgte%5D=2026-11-30T08:00:00%2001:00",
        b"time[gte]=2026-11-30T06:00:00-01:00",
        b"time[gte]=2026-11-30T12:30:00.000+05:30",
    ],
)
def test_a_blank_where_a_plus_stood_is_the_plus(query: bytes) -> None:
    asked = queries.Query(query)
    assert EIGHT == asked.time().gte
    asked.settle()


@pytest.mark.parametrize(
    "value", ["2026-11-30T08:00:00++01:00", "2026-11-30 01:00", "2026-11-30T08:00:00Z+01:00", "+"]
)
def test_other_blanks_are_no_time(value: str) -> None:
    asked = queries.Query(f"time[gte]={value}".encode())
    asked.time()
    with pytest.raises(errors.Invalid):
        asked.settle()


def test_the_microseconds_of_a_bound_count() -> None:
    assert EIGHT + 123_456 == queries.Query(b"time[gte]=2026-11-30T08:00:00.1234567+01:00").time().gte
