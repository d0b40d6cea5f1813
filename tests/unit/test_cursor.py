"""Cursors read back as they were written and nothing else reads as a cursor."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost import cursor
from outpost.cursor import CursorProblem

RESOURCES = ["evt", "att", "tnt"]
POSITIONS = st.text(min_size=1).filter(lambda text: len(text.encode()) <= 350)
INVALID = CursorProblem("invalid cursor")


def written(plain: bytes) -> str:
    """The base 62 of Go's big.Int, written anew so that the test does not ask the code."""
    number, text = int.from_bytes(plain, "big"), ""
    digits = string.digits + string.ascii_lowercase + string.ascii_uppercase
    while number:
        text = digits[number % 62] + text
        number //= 62
    return text


@given(st.sampled_from(RESOURCES), st.characters(codec="utf-8").map(str) | POSITIONS)
def test_a_cursor_reads_back_as_its_position(resource, position):
    assert position == cursor.decode_cursor(resource, cursor.encode_cursor(resource, position))


def test_the_form_is_the_published_one():
    made = cursor.encode_cursor("evt", "1790000000000::evt_1")
    assert written(b"evtv01:1790000000000::evt_1") == made
    assert made == "1f3NIeN6a1j8EHyIlfq9FOxF8MwE0y0IP6QN3"


@pytest.mark.behaviour(117)
@pytest.mark.parametrize("theirs", RESOURCES)
@pytest.mark.parametrize("ours", RESOURCES)
def test_a_cursor_of_another_resource_is_refused(theirs, ours):
    answer = cursor.decode_cursor(ours, cursor.encode_cursor(theirs, "1::x"))
    assert answer == ("1::x" if theirs == ours else INVALID)


@pytest.mark.behaviour(117)
def test_a_cursor_of_another_version_is_told_so():
    answer = cursor.decode_cursor("evt", written(b"evtv02:1::x"))
    assert isinstance(answer, CursorProblem)
    assert "version mismatch" in answer.message


@pytest.mark.behaviour(117)
@pytest.mark.parametrize(
    "text",
    ["", "garbage!", "0", "00", "a" * 513, "9" * 100_000, "-1", " 1", "1\n", "\u0661", "abc"]
    + [written(plain) for plain in (b"evtv01", b"evtv01:", b"evtvxx:1", b"evtv1:1", b"evt01:1", b":1")]
    + [written(b"\xff\xfe:1"), written(b"evtv01:\xff"), written(b"EVTV01:1"), "0" + written(b"evtv01:1::x")],
)
def test_garbage_is_no_cursor(text):
    assert cursor.decode_cursor("evt", text) == INVALID


@given(st.sampled_from(RESOURCES), st.text(alphabet=string.ascii_letters + string.digits, max_size=60))
def test_only_what_the_position_makes_is_a_cursor(resource, text):
    position = cursor.decode_cursor(resource, text)
    assert isinstance(position, CursorProblem) or cursor.encode_cursor(resource, position) == text
