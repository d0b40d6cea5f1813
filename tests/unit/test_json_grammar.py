"""Any JSON text by its grammar is taken as the data of an event, and kept byte for byte."""

from __future__ import annotations

import json
import math
import re

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from outpost import errors, json_grammar
from outpost.adapters.shared import templates
from outpost.commands import forms
from outpost.domain import filter_operators, filters
from outpost.settings import Settings
from tests.harness import json_texts

INVALID = [
    b'"\\ud8"',
    b'"\\udc0"',
    b'"\\udc0g"',
    b'"\\udc00',
    b"\\udc00",
    b'"\\x"',
    b'"a\nb"',
    b"01",
    b"1.",
    b".5",
    b"+1",
    b"1e",
    b"NaN",
    b"-Infinity",
    b"[1,]",
    b"[1 2]",
    b'{"a"}',
    b"'a'",
    b"nul",
    b'"\\udc00" "\\udc00"',
]


def body_of(data: bytes) -> bytes:
    return b'{"tenant_id":"t","topic":"a" , "data" :\n' + data + b"}"


def published(data: bytes) -> bytes:
    return forms.publish_request(body_of(data), Settings(), 0).data


@settings(max_examples=1_000)
@given(json_texts.OBJECTS)
@example(b'{"a":"\\ud800"}')
@example(b'{"a":"\\udc00"}')
@example(b'{"\\udc00":"\\ud83d\\ude00\\udc00\\\\udc00"}')
@example(b'{"a":"\\\\\\udc00","b":1e400,"c":-1E+400}')
@example(b'{"a":' + b"9" * 5_000 + b"}")
@example(b'{"a":"' + b"9" * 5_000 + b'\\"","b":-' + b"8" * 5_000 + b',"c":' + b"7" * 4_400 + b".5}")
def test_any_object_is_taken_and_kept_byte_for_byte(data: bytes) -> None:
    assert data == published(data)


@settings(max_examples=1_000)
@given(json_texts.OBJECTS)
@example(b'{"a":"\\ud800\\udc00\\udc00\\ud800"}')
@example(b'{"a":"' + b"9" * 5_000 + b'\\"","b":-' + b"8" * 5_000 + b',"c":' + b"7" * 4_400 + b".5}")
def test_filters_and_templates_see_what_python_reads(data: bytes) -> None:
    """Halves of surrogate pairs are replacement characters there, and integers beyond floats infinite."""

    def integer(digits: str) -> float:
        return int(digits) if len(digits) < 4_300 else math.copysign(math.inf, -1 if digits[0] == "-" else 1)

    def clean(value: object) -> object:
        if isinstance(value, str):
            return re.sub("[\ud800-\udfff]", "\ufffd", value)
        if isinstance(value, list):
            return [clean(each) for each in value]
        if isinstance(value, dict):
            return {clean(key): clean(each) for key, each in value.items()}
        if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 1_000:
            return float(value)
        return value

    expected = clean(json.loads(data, parse_int=integer))
    assert expected == clean(json_grammar.decode(data))
    assert expected == clean(templates.document(data))


@settings(max_examples=500)
@given(json_texts.OBJECTS, st.data())
def test_a_text_that_is_cut_anywhere_is_no_json(data: bytes, draw: st.DataObject) -> None:
    cut = data.rstrip()[: draw.draw(st.integers(0, len(data.rstrip()) - 1))]
    with pytest.raises(errors.Invalid):
        published(cut)


@pytest.mark.parametrize("value", INVALID)
@pytest.mark.parametrize("beside", [b"", b',"b":"\\udc00"', b',"b":1e400'])
def test_what_is_no_json_is_refused_beside_anything(value: bytes, beside: bytes) -> None:
    with pytest.raises(errors.Invalid) as caught:
        published(b'{"a":' + value + beside + b"}")
    assert [("body", "json")] == [(problem.path, problem.rule) for problem in caught.value.problems]
    with pytest.raises(msgspec.MsgspecError):
        json_grammar.check(b'{"a":' + value + beside + b"}")


@pytest.mark.parametrize("name", ["tenant_id", "id", "topic", "destination_id"])
def test_half_a_pair_in_an_id_is_refused_as_what_cannot_be_kept(name: str) -> None:
    body = b'{"tenant_id":"t","topic":"a","data":{"a":"\\udc00"},"%b":"x\\udc00"}' % name.encode()
    with pytest.raises(errors.Invalid) as caught:
        forms.publish_request(body, Settings(), 0)
    assert f"{name} must not contain control characters" in [each.sentence() for each in caught.value.problems]


def test_half_a_pair_in_metadata_is_refused_beside_its_name() -> None:
    body = b'{"tenant_id":"t","data":{},"metadata":{"a":"\\udc00","\\udc00b":"x","c":"\\ud83d\\ude00"}}'
    with pytest.raises(errors.Invalid) as caught:
        forms.publish_request(body, Settings(), 0)
    told = [each.sentence() for each in caught.value.problems]
    assert [
        "metadata.a must not contain control characters",
        "metadata.?b must not contain control characters",
    ] == told


def test_other_members_are_right_beside_half_a_pair() -> None:
    body = b'{"t\\u0065nant_id":"a\\\\b\\ud83d\\ude00","data":{"a":"\\udc00"},"metadata":{"k\\\\":"\\\\v"}}'
    request = forms.publish_request(body, Settings(), 0)
    assert ("a\\b\U0001f600", {"k\\": "\\v"}) == (request.tenant, request.metadata)


def test_a_filter_judges_an_event_with_numbers_that_nothing_holds() -> None:
    root = {"data": json_grammar.decode(b'{"a":1e400,"b":-' + b"9" * 5_000 + b',"c":"x\\udc00","d":1}')}
    for schema, expected in [
        ({"a": {"$gt": 1}}, True),
        ({"b": {"$lt": 1}}, True),
        ({"c": {"$startsWith": "x"}}, True),
        ({"d": 1}, True),
        ({"a": 1}, False),
    ]:
        assert expected == filters.matches({"data": schema}, filter_operators.Run(root))


def test_a_key_that_is_given_twice_counts_the_last_time() -> None:
    assert {"a": b'"\\udc00"'} == json_grammar.members(b'{"a":1,"a":"\\udc00"}')
    with pytest.raises(msgspec.ValidationError):
        json_grammar.members(b'["a"]')
