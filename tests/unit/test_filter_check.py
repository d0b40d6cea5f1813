"""Filters that could never do what was meant are found when they are saved, with the place of each mistake."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpost.domain import filter_check, filters
from outpost.domain import filter_operators as ops

WORDS = [
    "$regex",
    "$exists",
    "$ne",
    "$elemMatch",
    "$all",
    "$size",
    "$like",
    "$EQ",
    "$gt ",
    "$nor",
    "$options",
    "$a.b",
]
REF = {"$ref": "data.limit"}


def matches(schema: dict[str, Any], data: object) -> bool:
    return filters.matches(schema, ops.Run(filters.document("e", "a", "2026-01-01T00:00:00Z", {"k": "v"}, data)))


def told(schema: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [mistake.path for mistake in filter_check.mistakes(schema)]


@pytest.mark.case(27)
@pytest.mark.parametrize(
    ("schema", "path", "text"),
    [
        ({"data.order.total": {"$gt": 10}}, ("data.order.total",), filter_check.UNKNOWN_KEY),
        ({"orders": {}}, ("orders",), filter_check.UNKNOWN_KEY),
        ({"Data": {"a": 1}}, ("Data",), filter_check.UNKNOWN_KEY),
        ({"$or": [{"data": {"a": 1}}, {"orders": 1}]}, ("$or", 1, "orders"), filter_check.UNKNOWN_KEY),
        ({"$not": {"a": 1}}, ("$not", "a"), filter_check.UNKNOWN_KEY),
        ({"data": {"n": {"$gt": [1]}}}, ("data", "n", "$gt"), filter_check.NO_ORDER),
        ({"data": {"n": {"$lte": True}}}, ("data", "n", "$lte"), filter_check.NO_ORDER),
        ({"data": {"n": {"$gte": None}}}, ("data", "n", "$gte"), filter_check.NO_ORDER),
        ({"data": {"n": {"$lt": {"a": 1}}}}, ("data", "n", "$lt"), filter_check.NO_ORDER),
        ({"data": {"n": {"$startsWith": 1}}}, ("data", "n", "$startsWith"), filter_check.NO_AFFIX),
        ({"data": {"n": {"$endsWith": ["a", 1]}}}, ("data", "n", "$endsWith"), filter_check.NO_AFFIX),
        ({"data": {"n": {"$endsWith": []}}}, ("data", "n", "$endsWith"), filter_check.NO_AFFIX),
        ({"data": {"n": {"$exist": "true"}}}, ("data", "n", "$exist"), filter_check.NO_BOOLEAN),
        ({"data": {"$or": {"a": 1}}}, ("data", "$or"), filter_check.NO_LIST),
        ({"$and": "x"}, ("$and",), filter_check.NO_LIST),
        ({"$or": []}, ("$or",), f"{filter_check.NO_LIST} of one element at least"),
        ({"data": {"n": {"$gt": {"$ref": "limit"}}}}, ("data", "n", "$gt", "$ref"), filter_check.NO_REFERENCE),
        ({"data": {"n": {"$ref": 1}}}, ("data", "n", "$ref"), filter_check.NO_REFERENCE),
        ({"data": {"n": {"$ref": "a..b"}}}, ("data", "n", "$ref"), filter_check.NO_REFERENCE),
        ({"data": {"list": [{"a": {"$ne": 1}}]}}, ("data", "list", 0, "a", "$ne"), filter_check.UNKNOWN_OPERATOR),
    ],
)
def test_what_never_matches_is_named_with_its_path(schema: dict[str, Any], path: tuple[Any, ...], text: str):
    assert [filter_check.Mistake(path, text)] == filter_check.mistakes(schema)


@pytest.mark.case(27)
@pytest.mark.parametrize("word", WORDS)
def test_an_operator_from_elsewhere_is_named_wherever_it_stands(word: str):
    schema = {"data": {"a": {word: 1}}, word: 1, "$or": [{"data": {word: {}}}]}
    assert [("data", "a", word), (word,), ("$or", 0, "data", word)] == told(schema)


@pytest.mark.parametrize(
    ("schema", "data"),
    [
        ({"data": {"$$set": {"a": 1}}}, {"$set": {"a": 1}}),
        ({"data": {"a": {"$$regex": "^x"}}}, {"a": {"$regex": "^x"}}),
        ({"data": {"$$$x": {"$exist": True}}}, {"$$x": 1}),
        ({"data": {"$": 1}}, {"$": 1}),
        ({"data": {"a": {"$eq": {"$regex": "x"}}}}, {"a": {"$regex": "x"}}),
        ({"data": {"a": {"$in": [{"$x": 1}]}}}, {"a": 1}),
        ({"data": {"a": {"$gt": REF}}}, {"a": 2, "limit": 1}),
        ({"data": {"a": {"$ref": "$.data.b[0]"}}}, {"a": 1, "b": [1]}),
        ({"metadata": {"k": {"$startsWith": ["v", "w"]}}, "topic": "a", "id": "e", "time": {"$gt": "2025"}}, {}),
        ({"$or": [{"topic": "b"}, {"data": {"$and": []}}]}, {}),
        ({}, {}),
        ({"data": {"a": {"b.c": 1}}}, {"a": {"b.c": 1}}),
    ],
)
def test_what_can_match_has_no_mistake(schema: dict[str, Any], data: object):
    assert [] == filter_check.mistakes(schema)
    assert matches(schema, data) or "$in" in str(schema)


def test_a_thousand_mistakes_are_not_all_told():
    assert filter_check.MAX_MISTAKES == len(told({"data": {f"$a{n}": 1 for n in range(1_000)}}))
    assert filter_check.MAX_MISTAKES == len(told({"data": [{"$a": 1}] * 1_000}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("$ab.", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("$ab.", max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.dictionaries(st.text("$ab.", min_size=1, max_size=4), JSON, min_size=1, max_size=3))
def test_a_key_of_any_form_can_be_asked_for(data: dict[str, Any]):
    """With a dollar sign more where it begins with one: each key is asked for by what stands behind it."""
    for key, value in data.items():
        schema = {"data": {f"${key}" if key.startswith("$") else key: {"$eq": value}}}
        assert [] == filter_check.mistakes(schema)
        assert matches(schema, data)
