"""Key templates: what is one, what they say of an event, and that none of them costs more than it may."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost import errors
from outpost.adapters.shared import jmespath_budget, templates

CONTEXT = {
    "metadata": {"event-id": "evt_1", "tier": "gold", "none": ""},
    "data": {
        "id": 1_234_567,
        "small": 42,
        "whole": 7.0,
        "rate": 0.25,
        "open": True,
        "closed": False,
        "nothing": None,
        "tags": ["b", "a", 3, None],
        "at": {"z": 1, "a": {"deep": "x"}},
        "lines": [{"sku": "s1", "n": 1}, {"sku": "s2", "n": 2}],
        "name": "Zoë",
        "empty": [],
    },
}


def text(template: str, context: object = CONTEXT) -> str | None:
    found = templates.compiled(template)
    assert found is not None, "does not compile"
    return found.text(context)


@pytest.mark.behaviour(132, 133)
@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ('metadata."event-id"', "evt_1"),
        ("data.name", "Zoë"),
        ("data.lines[0].sku", "s1"),
        ("data.lines[?n==`2`].sku | [0]", "s2"),
        ("join('/', [metadata.tier, data.name])", "gold/Zoë"),
        ("data.missing || metadata.tier", "gold"),
        ("data.small", "42"),
        ("data.whole", "7"),
        ("data.rate", "0.25"),
        ("data.id", "1.234567e+06"),
        ("to_string(data.id)", "1234567"),
        ("length(data.tags)", "4"),
        ("data.open", "true"),
        ("data.closed", "false"),
        ("data.tags", "[b a 3 <nil>]"),
        ("data.at", "map[a:map[deep:x] z:1]"),
        ("data.empty", "[]"),
    ],
)
def test_what_a_template_says_of_an_event(template: str, expected: str):
    assert expected == text(template)


@pytest.mark.behaviour(132, 133)
@pytest.mark.parametrize(
    "template",
    [
        "data.missing",
        "data.nothing",
        "metadata.none",
        "data.small.deeper",
        "nobody_knows(data)",
        "length(data.small)",
        "join('', data.tags)",
        "sort(data.tags)",
        "data.tags[::0]",
        "ceil(data.name)",
        "&data",
    ],
)
def test_nothing_an_empty_text_and_an_error_are_no_text(template: str):
    assert text(template) is None


@pytest.mark.behaviour(132, 133)
@pytest.mark.parametrize(
    "template",
    [
        "data.",
        "data ||",
        "a b",
        "[",
        "'open",
        "",
        "a" * 2_049,
        "(" * 1_000 + "a" + ")" * 1_000,
        "|".join("a" * 99),
    ],
)
def test_what_does_not_compile_is_named_when_it_is_saved(template: str):
    assert templates.compiled(template) is None
    expected = [errors.Problem("config.key", "pattern")] if template else []  # an empty one is none at all
    assert expected == templates.problems({"key": template}, "key")


def test_a_good_template_and_none_at_all_are_no_problem():
    assert [] == templates.problems({"key": "data.id"}, "key")
    assert [] == templates.problems({}, "key")


@pytest.mark.parametrize(
    "template",
    [
        "|".join(["[@,@]"] * 50),  # 2^50 values when it is written out
        "|".join(["[@,@]"] * 50) + "|to_string(@)",
        "|".join(["[@,@][]"] * 50) + "|length(@)",
        "|".join(["{a:@,b:@}"] * 50) + "|contains(values(@), @)",
        "|".join(["join('',[@,@])"] * 50),
        "[" + ",".join(["to_string(data)"] * 100) + "]",
        "[" + ",".join(["[data]==[data]"] * 100) + "]",
        "data.big[*].big[*]",
        "map(&to_string(@), data.big)",
        "sort_by(data.big, &n)[*].n",
    ],
)
def test_a_template_that_asks_for_too_much_work_ends(template: str, monkeypatch: pytest.MonkeyPatch):
    spent = []
    genuine = jmespath_budget.Budget.spend

    def spend(budget: jmespath_budget.Budget, units: int) -> None:
        spent.append(1)
        genuine(budget, units)

    monkeypatch.setattr(jmespath_budget.Budget, "spend", spend)
    big = [{"n": n, "text": "x" * 100} for n in range(20_000)]
    context = "text" * 1_000 if "join" in template else {"data": {"big": big, "more": big}}
    assert text(template, context) is None
    assert len(spent) <= jmespath_budget.UNITS + 1


def test_an_event_of_a_megabyte_costs_a_template_that_names_a_field_nothing():
    context = {"data": {"big": [{"n": n} for n in range(100_000)], "id": "i"}}
    assert "i" == text("data.id", context)
    assert "99999" == text("data.big[-1].n", context)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (100_000.0, "100000"),
        (999_999.5, "999999.5"),
        (1e6, "1e+06"),
        (123_456_789.0, "1.23456789e+08"),
        (-1_234_567.5, "-1.2345675e+06"),
        (1e21, "1e+21"),
        (1e100, "1e+100"),
        (0.0001, "0.0001"),
        (0.00001234, "1.234e-05"),
        (5e-324, "5e-324"),
        (12345678901234567890.0, "1.2345678901234567e+19"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
        (float("nan"), "NaN"),
    ],
)
def test_numbers_are_written_as_go_writes_them(value: float, expected: str):
    assert expected == templates.number(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_written_number_is_that_number(value: float):
    shown = templates.number(value)
    assert value == float(shown)
    assert ("e" in shown) == (value != 0 and not 1e-4 <= abs(value) < 1e6)


def test_what_json_allows_is_a_document_and_no_other_text_needs_an_error():
    assert {"a": 1} == templates.document(b'{"a":1}')
    assert {"a": math.inf} == templates.document(b'{"a":1e400}')
    assert templates.document(b"[" * 100_000 + b"]" * 100_000) is None


def test_a_number_beyond_every_float_is_no_text():
    assert text("a", {"a": 10**400}) is None


def test_the_library_is_imported_when_a_template_is_used_and_not_before():
    code = "import sys; from outpost.adapters.shared import templates; assert 'jmespath' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
