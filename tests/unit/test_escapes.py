"""Decoding keeps the way back: what stands somewhere in a decoded text is found in the text as it came."""

from __future__ import annotations

import json
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost.adapters.shared import escapes
from tests.harness import cost

PIECES = [
    *("a", "bc", " ", "%41", "%C3%BC%42", "%FC", "\\u00fc", "\\ud83d\\ude00", "\\n", "\\\\", "\\x43\\xc3\\xbc"),
    *('\\"', "&amp;", "&#x41;", "&lt;", "%", "\\", "&", "&no;", "%4", "\\ud83d", "\\\\u00fc", "%2541", "&amp;lt;"),
]


def decoded(text: str) -> escapes.Decoding:
    """Decoded as far as it goes."""
    decoding = escapes.Decoding(text)
    while decoding.decode():
        pass
    return decoding


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        *(("%41%C3%BC", "Aü"), ("%FC", "ü"), ("\\ud83d\\ude00", "😀"), ("\\x41\\xc3\\xbc", "Aü"), ("\\xfc", "ü")),
        *(("\\\\u00fc", "ü"), ("%2541", "A"), ("&amp;lt;", "<"), ("\\'\\/\\\"", "'/\""), ("&#252;&#xFC;", "üü")),
        *(
            ("100 %", "100 %"),
            ("a & b", "a & b"),
            ("C:\\dir", "C:\\dir"),
            ("&copy;", "&copy;"),
            ("\\u12", "\\u12"),
        ),
    ],
)
def test_escapes_are_decoded(text: str, plain: str) -> None:
    assert plain == decoded(text).text


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_the_way_back_covers_what_it_is_asked_for_and_is_in_order(pieces: list[str]) -> None:
    text = "".join(pieces)
    decoding = decoded(text)
    end = len(decoding.text)
    assert (0, len(text)) == decoding.origin(0, end)
    for start in range(end):
        for stop in range(start + 1, end + 1):
            at, until = decoding.origin(start, stop)
            assert 0 <= at < until <= len(text)
            assert decoding.text[start:stop] in decoded(text[at:until]).text
            assert at <= decoding.origin(start, end)[0]
            assert until >= decoding.origin(0, stop)[1]


@given(st.text(max_size=20), st.text(min_size=1, max_size=10), st.text(max_size=20))
def test_a_part_is_found_where_it_was_escaped(before: str, part: str, after: str) -> None:
    def escaped(text: str) -> str:
        return urllib.parse.quote(json.dumps(text)[1:-1], safe="")

    head, middle = (escaped("".join(c if c.isalnum() else "." for c in text)) for text in (before, part))
    decoding = escapes.Decoding(f"{head}<{middle}>{after}")
    for _ in range(2):
        decoding.decode()
    start = decoding.text.index("<") + 1
    stop = decoding.text.index(">", start)
    assert (len(head) + 1, len(head) + 1 + len(middle)) == decoding.origin(start, stop)


def test_what_has_too_many_escapes_is_not_decoded() -> None:
    decoding = escapes.Decoding("%" * (escapes.MAX_ESCAPES + 1))
    assert (False, True) == (decoding.decode(), decoding.exhausted)
    decoding = escapes.Decoding("%41" * escapes.MAX_ESCAPES)
    assert (True, False) == (decoding.decode(), decoding.exhausted)


def test_no_more_than_three_steps_are_taken() -> None:
    decoding = decoded("%25252541")
    assert ("%41", False) == (decoding.text, decoding.decode())


@pytest.mark.parametrize("piece", PIECES)
def test_decoding_is_linear(piece: str) -> None:
    def took(length: int) -> float:
        text = (piece + ".") * (length // (len(piece) + 1))
        return cost.seconds(lambda: decoded(text).origin(0, 1))

    ratio, long = cost.growth(lambda: took(40_000), lambda: took(10_000), 8)
    assert ratio <= 8 or long < 0.01
