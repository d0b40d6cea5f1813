"""Which events fit a destination's filter, and which filters may be saved."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpost.domain import filter_operators, filters
from tests.harness import cost

pytestmark = pytest.mark.unit

CASES = Path(__file__).parent.parent / "corpus" / "filters" / "cases.json"

SCALARS = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "a", "ab", "1"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["a", "b", "c", *filter_operators.COMPARISONS, "$and", "$or", "$not", "$ref", "$else"])
SCHEMAS = st.recursive(
    SCALARS | st.just("data.a"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)

ORDERED = st.integers() | st.floats(allow_nan=False) | st.text(alphabet="aZé🙂", max_size=3)

bounded = settings(max_examples=200)


def table():
    """Each line of the table as a parameter that carries the number of the sentence it stands under."""
    return [
        pytest.param(
            value,
            schema,
            expected,
            id=f"{json.dumps(value)} {json.dumps(schema)}",
            marks=pytest.mark.behaviour(int(sentence.split(":")[0])),
        )
        for sentence, cases in json.loads(CASES.read_text()).items()
        for value, schema, expected in cases
    ]


def matches(schema, document):
    return filters.matches(schema, filter_operators.Run(document))


def outcome(schema, document):
    """True or False, or None where the evaluation ends without a result."""
    try:
        return matches(schema, document)
    except filter_operators.Undecided:
        return None


def fits(schema, value):
    return matches({"data": schema}, {"id": "evt_1", "data": value})


# -- the language


@pytest.mark.parametrize(("value", "schema", "expected"), table())
def test_a_value_fits_a_filter_as_the_table_says(value, schema, expected):
    assert expected == fits(schema, value)


@pytest.mark.behaviour(73)
@pytest.mark.parametrize(("value", "schema", "expected"), table())
def test_the_table_is_inverted_under_not_at_every_level(value, schema, expected):
    document = {"id": "evt_1", "data": value}
    inverse = not expected
    assert inverse == fits({"$not": schema}, value)
    assert inverse == matches({"$not": {"data": schema}}, document)
    assert inverse == matches({"id": "evt_1", "$not": {"data": schema}}, document)
    assert expected == fits({"$not": {"$not": schema}}, value)


@pytest.mark.behaviour(72)
@pytest.mark.parametrize(("value", "schema", "expected"), table())
def test_the_table_holds_inside_or_and_and(value, schema, expected):
    assert expected == fits({"$or": [{"$eq": "nothing like it"}, schema]}, value)
    assert expected == fits({"$and": [{"$exist": True}, schema]}, value)
    assert not fits({"$and": [schema, {"$exist": False}]}, value)


def test_every_filter_of_the_table_may_be_saved():
    for cases in json.loads(CASES.read_text()).values():
        assert [None] * len(cases) == [filters.problem({"data": schema}) for _, schema, _ in cases]


@pytest.mark.behaviour(63)
@pytest.mark.parametrize("schema", [None, {}])
@pytest.mark.parametrize("document", [{}, {"data": {"a": 1}}])
def test_no_filter_fits_everything(schema, document):
    assert matches(schema, document)


@pytest.mark.behaviour(63)
@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"id": "evt_1"}, True),
        ({"id": "evt_2"}, False),
        ({"topic": {"$startsWith": "user."}}, True),
        ({"topic": "order.created"}, False),
        ({"time": {"$gte": "2026-08-01T00:00:00Z", "$lt": "2026-09-01T00:00:00Z"}}, True),
        ({"time": "2026-08-20T10:00:00Z"}, True),
        ({"metadata": {"source": "crm"}}, True),
        ({"metadata": {"source": "app"}}, False),
        ({"data": {"amount": {"$gt": 10}}}, True),
        ({"amount": {"$gt": 10}}, False),
        ({"topic": "user.created", "data": {"amount": 12}, "metadata": {"source": "crm"}}, True),
        ({"topic": "user.created", "data": {"amount": 13}, "metadata": {"source": "crm"}}, False),
        ({"metadata": {"copy": {"$ref": "data.name"}}}, True),
        ({"metadata": {"copy": {"$ref": "data.amount"}}}, False),
    ],
)
def test_a_filter_sees_id_topic_time_metadata_and_data(schema, expected):
    document = filters.document(
        "evt_1",
        "user.created",
        "2026-08-20T10:00:00Z",
        {"source": "crm", "copy": "Ann"},
        {"amount": 12, "name": "Ann"},
    )
    assert expected == matches(schema, document)


@pytest.mark.behaviour(16, 63)
def test_absent_metadata_and_data_are_empty_objects():
    document = filters.document("evt_1", "", "2026-08-20T10:00:00Z", None, None)
    assert matches({"metadata": {"$eq": {}}, "data": {"$eq": {}}}, document)


@bounded
@given(SCHEMAS, VALUES)
def test_not_inverts_any_filter_over_any_value(schema, value):
    assert fits(schema, value) != fits({"$not": schema}, value)


@bounded
@given(st.dictionaries(NAMES, SCHEMAS, min_size=1, max_size=3), VALUES)
def test_all_of_one_object_must_hold(schema, value):
    fields = {key: wanted for key, wanted in schema.items() if not key.startswith("$") or key == "$else"}
    parts = [{key: wanted} for key, wanted in schema.items() if key not in fields]
    if fields:
        parts.append(fields)  # together, since one element of an array must have all of them
    assert all(fits(part, value) for part in parts) == fits(schema, value)


@bounded
@given(VALUES, VALUES)
def test_eq_is_equality_of_json(left, right):
    def canonical(value):
        return json.dumps(value, sort_keys=True)

    assert (canonical(left) == canonical(right)) == fits({"$eq": right}, left)
    assert (canonical(left) != canonical(right)) == fits({"$neq": right}, left)
    assert fits({"$eq": left}, left)


@pytest.mark.behaviour(68)
@bounded
@given(ORDERED, ORDERED)
def test_comparable_values_are_less_equal_or_greater(left, right):
    comparable = isinstance(left, str) == isinstance(right, str)
    expected = [comparable and left < right, comparable and left == right, comparable and left > right]
    assert expected == [fits({"$lt": right}, left), fits({"$eq": right}, left), fits({"$gt": right}, left)]
    assert (expected[0] or expected[1]) == fits({"$lte": right}, left)
    assert (expected[2] or expected[1]) == fits({"$gte": right}, left)


# -- bounds


def nested(depth, innermost, wrap):
    for _ in range(depth):
        innermost = wrap(innermost)
    return innermost


WRAPS = {
    "field": lambda inner: {"a": inner},
    "array": lambda inner: [inner],
    "not": lambda inner: {"$not": inner},
    "or": lambda inner: {"$or": [inner]},
    "eq": lambda inner: {"$eq": inner},
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_filter_nested_deeper_than_may_be_saved_never_matches(wrap):
    schema = {"data": nested(5000, 1, WRAPS[wrap])}
    expected = "filter must be nested at most 50 deep"
    assert expected == filters.problem(schema)
    for value in (1, {"a": 1}, nested(5000, 1, WRAPS["array"]), nested(5000, 1, WRAPS["field"])):
        assert outcome(schema, {"data": value}) is not True


@pytest.mark.parametrize("wrap", ["field", "array", "not", "or"])
def test_a_filter_too_deep_does_not_match_under_not_either(wrap):
    schema = {"$not": {"data": nested(5000, 1, WRAPS[wrap])}}
    value = nested(5000, 2, WRAPS[wrap]) if wrap in ("field", "array") else 2
    assert outcome(schema, {"data": value}) is None


@pytest.mark.parametrize(
    ("wrap", "levels", "value"),
    [
        ("field", 49, nested(49, 1, WRAPS["field"])),
        ("array", 49, nested(49, 1, WRAPS["array"])),
        ("not", 48, 1),
        ("or", 24, 1),
    ],
)
def test_the_deepest_filter_that_may_be_saved_is_evaluated(wrap, levels, value):
    deepest = {"data": nested(levels, 1, WRAPS[wrap])}
    assert filters.problem(deepest) is None
    assert filters.problem({"data": nested(levels + 2, 1, WRAPS[wrap])}) is not None
    assert matches(deepest, {"data": value})
    assert not matches(deepest, {"data": nested(60, 2, WRAPS["array"])})


def test_the_deepest_filter_over_arrays_at_every_level_needs_no_deep_stack():
    levels = filters.MAX_DEPTH - 1
    schema = {"data": nested(levels, 1, WRAPS["field"])}
    document = {"data": nested(levels, 1, lambda inner: [[{"a": inner}], 0])}
    assert filters.problem(schema) is None
    assert matches(schema, document)


def test_a_value_may_be_nested_as_deep_as_it_likes():
    deep = nested(50_000, "x", WRAPS["array"])
    assert fits("x", deep)
    assert not fits("y", deep)
    assert fits({"$eq": deep}, deep)
    assert fits({"$neq": nested(50_000, "y", WRAPS["array"])}, deep)
    assert fits({"a": {"$ref": "data.b"}}, {"a": deep, "b": "x"})
    assert fits({"a": {"$exist": True}}, nested(50_000, {"a": 1}, WRAPS["array"]))


COSTLY_FILTERS = {
    "texts searched": {"$or": [{"$in": f"nowhere{n}"} for n in range(600)]},
    "fields": {"$or": [{"a": n} for n in range(1, 1000)]},
    "negations": {"$and": [{"$not": {"$not": {"a": {"b": n}}}} for n in range(400)]},
    "subset": [*range(10, 3000)],
    "prefixes": [{"$startsWith": ["xxxxx"] * 1500}],
    "many fields": {f"k{n}": 1 for n in range(1000)},
    "references": {"$or": [{"$ref": "other"}] * 700},
    "equal to references": {"$or": [{"$eq": {"$ref": "other"}}] * 500},
}
COSTLY_VALUES = {
    "numbers": [1] * 300_000,
    "objects": [{}] * 300_000,
    "texts": ["yyyyy"] * 100_000,
    "arrays": [[]] * 300_000,
    "one text": "z" * 1_000_000,
}


COSTLY_TEXTS = {
    "long text searched": ({"$or": [{"$in": "a" * 98 + f"b{n}a"} for n in range(130)]}, "a" * 29_999),
    "short text searched": ({"$or": [{"$in": "a" * 1_200 + f"b{n}a"} for n in range(13)]}, "a" * 2_499),
    "equal texts": ({"$or": [{"$eq": {"$ref": "other"}}] * 400}, "é" * 250_000 + "y"),
    "ordered texts": ({"$or": [{"$gt": {"$ref": "other"}}] * 400}, "é" * 250_000 + "y"),
    "long prefixes": ({"$or": [{"$startsWith": {"$ref": "other"}}] * 400}, "é" * 250_000 + "y"),
}


def seconds_a_step(schema, document):
    """CPU time of a step of the evaluation, which ends or gives up."""
    run = filter_operators.Run(document)

    def evaluate():
        try:
            assert not filters.matches(schema, run)
        except filter_operators.Undecided:
            assert run.steps < 0

    took = cost.seconds(evaluate)
    return took / min(filter_operators.MAX_STEPS, filter_operators.MAX_STEPS - run.steps)


def is_paid_for(schema, document, common_step):
    assert filters.problem(schema) is None
    return any(seconds_a_step(schema, document) < 50 * common_step for _ in range(cost.TRIES))


@pytest.fixture(scope="module")
def common_step():
    """CPU time of one step of a search through an array."""
    document = {"data": [*range(200_000)]}
    return min(seconds_a_step({"data": "absent"}, document) for _ in range(3))


@pytest.mark.parametrize("schema", COSTLY_FILTERS.values(), ids=COSTLY_FILTERS)
@pytest.mark.parametrize("value", COSTLY_VALUES.values(), ids=COSTLY_VALUES)
def test_a_costly_filter_over_a_costly_value_pays_for_its_work(schema, value, common_step):
    other = [*value[:-1], "differs"] if isinstance(value, list) else value[:-1] + "y"
    assert is_paid_for({"data": schema}, {"data": value, "other": other}, common_step)


@pytest.mark.parametrize(("schema", "value"), COSTLY_TEXTS.values(), ids=COSTLY_TEXTS)
def test_work_on_long_texts_is_paid_for(schema, value, common_step):
    other = "".join([*value[:-1], "z"])  # as long, and another object
    assert is_paid_for({"data": schema}, {"data": value, "other": other}, common_step)


def test_what_gives_up_has_no_result_under_not_either():
    value = [[n] for n in range(filter_operators.MAX_STEPS)]
    assert outcome({"data": "absent"}, {"data": value}) is None
    assert outcome({"data": {"$not": "absent"}}, {"data": value}) is None


def test_the_steps_are_those_of_all_filters_over_an_event():
    run = filter_operators.Run({"data": [*range(1_000)]}, steps=2_500)
    assert not filters.matches({"data": "absent"}, run)
    assert not filters.matches({"data": "absent"}, run)
    with pytest.raises(filter_operators.Undecided):
        filters.matches({"data": "absent"}, run)


def test_a_long_array_is_searched_to_its_end():
    assert fits("last", [*range(100_000), "last"])
    assert fits({"n": 99_999}, [{"n": n} for n in range(30_000)] + [{"n": 99_999}])


# -- saving


@pytest.mark.parametrize("schema", [None, "x", 1, True, [], [{"data": 1}]])
def test_a_filter_is_an_object(schema):
    expected = "filter must be a JSON object"
    assert expected == filters.problem(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"data": {}},
        {"$or": 1},
        {"$not": None},
        {"data": {"$gt": {}}},
        {"data": {"$exist": "x"}},
        {"$what": 1},
    ],
)
def test_operators_of_the_wrong_type_may_be_saved(schema):
    assert filters.problem(schema) is None


def test_a_filter_has_at_most_16_kib():
    overhead = len(msgspec.json.encode({"data": ""}))
    assert filters.problem({"data": "x" * (filters.MAX_BYTES - overhead)}) is None
    expected = "filter must be at most 16384 bytes"
    assert expected == filters.problem({"data": "x" * (filters.MAX_BYTES - overhead + 1)})
    assert expected == filters.problem({"data": "ü" * (filters.MAX_BYTES // 2)})
