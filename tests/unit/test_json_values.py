"""JSON from outside: long texts decode to what short ones do, and the work is linear in their length."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from outpost import errors, json_values
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


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_a_long_text_decodes_to_what_a_short_one_does(value: object) -> None:
    text = json.dumps(value).encode()
    assert repr(json_values.decode(text)) == repr(json_values.decode(text + PADDING))


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"9" * 5000, b"1e999999999999999999999"])
@pytest.mark.parametrize("padding", [b"", PADDING], ids=["short", "long"])
def test_a_number_that_nothing_holds_is_refused(number: bytes, padding: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        json_values.decode(b"[" + number + b"]" + padding)


NUMBERS = st.one_of(
    st.from_regex(r"-?(0|[1-9][0-9]{0,400})(\.[0-9]{1,400})?([eE][-+]?[0-9]{1,5})?", fullmatch=True),
    st.integers(0, 6_000).map(lambda digits: "1" + "0" * digits),
    st.tuples(st.integers(150, 250), st.integers(50, 350)).map(lambda of: f"{'9' * of[0]}e{of[1]}"),
)


MANY = b"," + b",".join([b"1"] * json_values.MANY_VALUES)  # behind a value of an array


@settings(max_examples=500, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=3))
@example(["9" * 199 + "e99"])
@example(["9" * 200 + "e99"])
@example(["1e400"])
@example(["1E+400"])
@example(["-1e308", "1e-400"])
@example(["9" * 4_301])
def test_among_many_values_a_number_is_refused_if_and_only_if_it_cannot_be_decoded(numbers: list[str]) -> None:
    text = ",".join(numbers).encode()
    assert refused(json_values.decode, text) == refused(json_values.check_numbers, text)


def refused(read: Callable[[bytes], object], numbers: bytes) -> bool:
    """Whether `read` refuses an array that begins with these numbers and has many values."""
    try:
        read(b"[" + numbers + MANY + b"]")
    except msgspec.MsgspecError:
        return True
    return False


@settings(max_examples=300, deadline=None)
@given(st.text('"\\{}[]:,u0019ed8.+-tfn \n', max_size=12))
def test_a_body_of_many_values_is_refused_where_one_of_few_is(text: str) -> None:
    few, many = (b'{"tenant_id":"t","data":{"a":[%b%b]}}' % (text.encode(), rest) for rest in (b",1", MANY))
    assert problems(few) == problems(many)


def problems(body: bytes) -> list[tuple[str, str]]:
    """Paths and rules of what is wrong with a publish of this body."""
    try:
        forms.publish_request(body, Settings(), 0)
    except errors.Invalid as exc:
        return [(problem.path, problem.rule) for problem in exc.problems]
    return []


def test_many_values_with_plain_numbers_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(text: bytes) -> object:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(json_values, "decode", decode)
    json_values.check_numbers(b'[-2.5e-7,1E+22,1700000000000,"e1"' + MANY + b"]")


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
            forms.publish_request(body, Settings(), 0)
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
        values.check_json(body)
        return
    with pytest.raises(errors.Invalid) as caught:
        values.check_json(body)
    assert "depth" == caught.value.problems[0].rule


@settings(max_examples=300, deadline=None)
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
