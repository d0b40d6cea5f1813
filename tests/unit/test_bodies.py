"""Undoing the gzip of a body: within the limit, and without the memory that a small one may ask for."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpost import errors
from outpost.api import bodies

LIMIT = 64 * 1024


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=2_000), min_size=1, max_size=5), st.integers(0, 9))
def test_members_of_a_gzip_are_read_one_behind_the_other(parts: list[bytes], level: int) -> None:
    coded = b"".join(gzip.compress(part, level) for part in parts)
    assert b"".join(parts) == bodies.gunzip(coded, LIMIT)


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1, 10 * LIMIT])
@pytest.mark.parametrize("pieces", [1, 2])
def test_what_is_longer_is_cut_off_a_byte_behind_the_limit(size: int, pieces: int) -> None:
    plain = b"x" * size
    coded = b"".join(gzip.compress(plain[i::pieces]) for i in range(pieces))
    assert min(size, LIMIT + 1) == len(bodies.gunzip(coded, LIMIT))


@pytest.mark.case(16)
def test_a_small_gzip_of_much_takes_little_memory() -> None:
    packing = zlib.compressobj(9, wbits=31)
    coded = b"".join(packing.compress(b" " * 1_048_576) for _ in range(100)) + packing.flush()
    assert len(coded) < 110_000
    tracemalloc.start()
    try:
        assert LIMIT + 1 == len(bodies.gunzip(coded, LIMIT))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * LIMIT


GOOD = gzip.compress(b"{}" * 100, mtime=0)  # of no time, since tests are named after it


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"{}",
        GOOD[:-1],
        GOOD[:-8],
        GOOD[:20],
        GOOD[1:],
        GOOD + b"rest",
        GOOD[:-8] + bytes(8),
        zlib.compress(b"{}"),
        gzip.compress(b"", mtime=0) * 65,
    ],
)
def test_a_broken_gzip_is_refused(broken: bytes) -> None:
    with pytest.raises(errors.Invalid) as caught:
        bodies.gunzip(broken, LIMIT)
    assert "invalid gzip" == caught.value.message
