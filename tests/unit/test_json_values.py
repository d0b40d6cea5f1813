"""JSON from outside: long texts decode to what short ones do, and the work is linear in their length."""

from __future__ import annotations

import contextlib
import gc
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpost import errors, json_grammar, json_values
from outpost.commands import forms, values
from outpost.settings import Settings
from tests.harness import cost

PADDING = b" " * json_values.LONG_BYTES
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)
KIB = 1024
MAX_RATIO = 10.0  # of CPU times at four times the length; 4 if linear, 16 if quadratic
NOTICED_S = 0.02

# Bodies of about `n` bytes, each meant to be as much work as its length allows.
COSTLY = {
    "quotes that open nothing": lambda n: b'\\"' * (n // 2) + b"[" * 300,
    "a text that does not end": lambda n: b'{"a":"' + b'\\\\"' * (n // 3) + b"[" * 300,
    "brackets in a text": lambda n: b'{"tenant_id":"t","data":{"a":"' + b"[{" * (n // 2) + b'"}}',
    "empty arrays": lambda n: b'{"tenant_id":"t","data":{"a":[' + b"[]," * (n // 3) + b"1]}}",
    "arrays at the deepest level": lambda n: (
        b'{"tenant_id":"t","data":' + b'{"a":' * 250 + b"[" + b"[]," * (n // 3) + b"1]" + b"}" * 251
    ),
    "objects": lambda n: b'{"tenant_id":"t","data":{"a":[' + b'{"":0},' * (n // 7) + b"1]}}",
    "floats that are hard to round": lambda n: (
        b'{"tenant_id":"t","data":{"a":[' + b"8.988465674311580e307," * (n // 22) + b"1]}}"
    ),
    "integers of 4,299 digits": lambda n: (
        b'{"tenant_id":"t","data":{"a":[' + (b"9" * 4299 + b",") * (n // 4300) + b"1]}}"
    ),
    "one integer": lambda n: b'{"tenant_id":"t","data":{"a":' + b"9" * n + b"}}",
    "one float": lambda n: b'{"tenant_id":"t","data":{"a":0.' + b"9" * n + b"}}",
    "one exponent": lambda n: b'{"tenant_id":"t","data":{"a":1e' + b"9" * n + b"}}",
    "halves of surrogate pairs": lambda n: b'{"tenant_id":"t","data":{"a":"' + b"\\udc00" * (n // 6) + b'"}}',
    "half a pair behind backslashes": lambda n: (
        b'{"tenant_id":"t","data":{"a":"' + b"\\\\" * (n // 2) + b'\\udc00"}}'
    ),
    "half a pair among empty arrays": lambda n: (
        b'{"tenant_id":"t","data":{"b":"\\udc00","a":[' + b"[]," * (n // 3) + b"1]}}"
    ),
    "integers of 4,400 digits": lambda n: (
        b'{"tenant_id":"t","data":{"a":[' + (b"9" * 4400 + b",") * (n // 4401) + b"1]}}"
    ),
    "metadata of the wrong type": lambda n: (
        b'{"tenant_id":"t","data":{},"metadata":{' + b",".join(b'"%06x":0' % i for i in range(n // 11)) + b"}}"
    ),
    "metadata with control characters": lambda n: (
        b'{"tenant_id":"t","data":{},"metadata":{'
        + b",".join(b'"%06x":"\\u0000"' % i for i in range(n // 17))
        + b"}}"
    ),
    "one key many times": lambda n: b"{" + b'"data":{},' * (n // 10) + b'"tenant_id":"t"}',
    "nothing but opening brackets": lambda n: b'{"tenant_id":"t","data":' + b"[" * n,
}


@settings(max_examples=200)
@given(VALUES)
def test_a_long_text_decodes_to_what_a_short_one_does(value: object) -> None:
    text = json.dumps(value).encode()
    assert repr(json_values.decode(text)) == repr(json_values.decode(text + PADDING))


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"9" * 5000, b"1e999999999999999999999"])
@pytest.mark.parametrize("padding", [b"", PADDING], ids=["short", "long"])
def test_a_number_that_nothing_holds_is_refused(number: bytes, padding: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        json_values.decode(b"[" + number + b"]" + padding)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_left_as_it_was(enabled: bool) -> None:
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        for text in (PADDING + b"[]", PADDING + b"[1e400]"):
            with contextlib.suppress(msgspec.MsgspecError):
                json_values.decode(text)
            assert enabled == gc.isenabled()
    finally:
        (gc.enable if was else gc.disable)()


def seconds(body: bytes) -> float:
    """CPU time of a publish of this body, and of reading it as the body of another route."""

    def read() -> None:
        with contextlib.suppress(errors.Invalid):
            json_grammar.decode(forms.publish_request(body, Settings(), 0).data)  # as filters see it
        with contextlib.suppress(errors.Invalid):
            values.read_object(body)

    return cost.seconds(read)


@pytest.mark.parametrize("body", COSTLY.values(), ids=COSTLY)
def test_a_body_is_read_in_time_linear_in_its_length(body: object) -> None:
    assert callable(body)
    if seconds(body(1024 * KIB)) > NOTICED_S:
        ratio, long = cost.growth(lambda: seconds(body(1024 * KIB)), lambda: seconds(body(256 * KIB)), MAX_RATIO)
        assert ratio <= MAX_RATIO or long < NOTICED_S


@pytest.mark.parametrize("value", [b"0", b'"\\u0000"'], ids=["wrong type", "control character"])
def test_a_broken_body_names_a_bounded_number_of_faults(value: bytes) -> None:
    members = b",".join(b'"%06x":%b' % (number, value) for number in range(5_000))
    with pytest.raises(errors.Invalid) as caught:
        forms.publish_request(b'{"tenant_id":"t","data":{},"metadata":{' + members + b"}}", Settings(), 0)
    assert values.MAX_PROBLEMS == len(caught.value.problems)


@pytest.mark.parametrize(("depth", "refused"), [(values.MAX_DEPTH, False), (values.MAX_DEPTH + 1, True)])
@pytest.mark.parametrize("around", [b"", b'"]]]\\"[[[",' * 100, b"[],{}," * 500])
def test_depth_counts_brackets_outside_of_texts(depth: int, refused: bool, around: bytes) -> None:
    body = b"[" + around + b"[" * (depth - 1) + b"]" * (depth - 1) + b"]"
    if not refused:
        values.json_text(body)
        return
    with pytest.raises(errors.Invalid) as caught:
        values.json_text(body)
    assert "depth" == caught.value.problems[0].rule


@settings(max_examples=300)
@given(
    st.recursive(
        st.sampled_from(["", "[", "]}", '"', '\\"[', "\\", "\\\\", '\\\\\\"', "{[", 1, None]),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["[", '"{', "\\", "a"]), inner)
        ),
        max_leaves=20,
    )
)
def test_the_depth_is_that_of_the_decoded_value(value: object) -> None:
    def depth(of: object) -> int:
        if isinstance(of, dict):
            of = list(of.values())
        return 1 + max(map(depth, of), default=0) if isinstance(of, list) else 0

    body = json.dumps(value).encode()
    levels = values.MAX_DEPTH - depth(value)
    assert not values._too_deep(b"[" * levels + body + b"]" * levels)
    assert values._too_deep(b"[" * (levels + 1) + body + b"]" * (levels + 1))
