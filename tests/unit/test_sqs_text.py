"""Bodies as SQS takes them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost.queue import sqs_text


@given(
    st.binary(min_size=1, max_size=200)
    | st.text(min_size=1, max_size=60).map(lambda t: t.encode("utf-8", "replace"))
)
def test_any_bytes_are_read_as_they_were_written(body: bytes) -> None:
    text, attributes, size = sqs_text.written(body)
    assert body == sqs_text.read(text, attributes)
    told = sum(len(name) + len(a["DataType"]) + len(a["StringValue"]) for name, a in attributes.items())
    assert size == len(text.encode()) + told
    assert len(body) <= sqs_text.room(size) or not attributes


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cn")), min_size=1))
def test_text_stays_text(text: str) -> None:
    assert (text, {}, len(text.encode())) == sqs_text.written(text.encode())


@pytest.mark.parametrize("body", [b"a\x00b", b"\xff", "a\ufffe".encode(), "\uffff".encode(), b"\x0b", b"\x1f"])
def test_what_sqs_refuses_is_encoded(body: bytes) -> None:
    text, attributes, _ = sqs_text.written(body)
    assert text.isascii()
    assert [sqs_text.ENCODING] == list(attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"outpost-encoding": sqs_text.string("gzip")},
        {"outpost-encoding": "base64"},
        {"outpost-encoding": None},
    ],
)
def test_text_without_the_mark_is_not_decoded(attributes: dict[str, Any]) -> None:
    assert b"aGVsbG8=" == sqs_text.read("aGVsbG8=", attributes)


@pytest.mark.parametrize("text", ["{}", "a", "aGVsbG8=\n", "ÄÖ"])
def test_text_with_the_mark_that_is_no_base64_stays(text: str) -> None:
    assert text.encode() == sqs_text.read(text, {"outpost-encoding": sqs_text.string("base64")})


def test_the_mark_and_what_comes_first_are_kept_beside_the_reason() -> None:
    several: dict[str, Any] = {f"a{n}": {"DataType": "String", "StringValue": "v", "Odd": 1} for n in range(9)}
    several["outpost-encoding"] = sqs_text.string("base64")
    found = sqs_text.with_one_more(several, "outpost-reason", "why")
    assert ["outpost-encoding", *(f"a{n}" for n in range(8)), "outpost-reason"] == list(found)
    assert {"DataType", "StringValue"} == {part for each in found.values() for part in each}
    again = sqs_text.with_one_more(found, "outpost-reason", "again")
    assert "again" == again["outpost-reason"]["StringValue"]
