"""What may be stored as a destination's topics, and which events they take."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpost.domain import topics
from outpost.domain.topics import TopicsProblem

pytestmark = pytest.mark.unit

CONFIGURED = ("user.created", "user.deleted", "order.eu.completed")

# A small alphabet, so that patterns, topics and sibling patterns often meet.
TOPICS = st.text(alphabet="ab.", min_size=1, max_size=7)


@pytest.mark.behaviour(42, 62)
@pytest.mark.parametrize("wildcards", [True, False])
def test_an_empty_topic_is_one_where_any_is_allowed(wildcards):
    assert ("",) == topics.normalise([""], (), wildcards)
    assert ("", "ok") == topics.normalise(["", "ok", ""], (), wildcards)
    assert TopicsProblem("invalid") == topics.normalise(["", "*"], (), wildcards)
    assert TopicsProblem("unknown", topics.INVALID, 0) == topics.normalise([""], CONFIGURED, wildcards)


ENTRIES = st.text(alphabet="ab.*", min_size=1, max_size=6)
LISTS = st.lists(ENTRIES, min_size=1, max_size=6)
FILLINGS = st.text(alphabet="abc.*\n", max_size=4)

bounded = settings(max_examples=200)


def reference(pattern: str, topic: str) -> bool:
    """The rule, spelt as a regular expression."""
    expression = ".*".join(re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(expression, topic, re.DOTALL) is not None


# -- what may be stored


@pytest.mark.behaviour(41)
@pytest.mark.parametrize("requested", ["*", ["*"], ("*",), ["*", "*"]])
@pytest.mark.parametrize("configured", [(), CONFIGURED])
@pytest.mark.parametrize("wildcards", [True, False])
def test_a_star_alone_is_everything(requested, configured, wildcards):
    expected = ("*",)
    assert expected == topics.normalise(requested, configured, wildcards)


@pytest.mark.behaviour(41)
@pytest.mark.parametrize("configured", [(), CONFIGURED])
@pytest.mark.parametrize("wildcards", [True, False])
@pytest.mark.parametrize("requested", [["*", "user.created"], ["user.created", "*"]])
def test_a_star_beside_others_is_invalid(requested, configured, wildcards):
    assert TopicsProblem("invalid", topics.INVALID) == topics.normalise(requested, configured, wildcards)


@pytest.mark.behaviour(40)
def test_topics_are_required():
    assert TopicsProblem("required", "topics is required") == topics.normalise(None, (), False)


@pytest.mark.behaviour(40, 42)
@pytest.mark.parametrize("configured", [(), CONFIGURED])
def test_at_least_one_topic_is_required(configured):
    expected = TopicsProblem("required", "validation failed: invalid topics")
    assert expected == topics.normalise([], configured, True)


@pytest.mark.parametrize(
    "requested",
    [
        "user.created",
        "",
        "**",
        1,
        True,
        {},
        {"a": 1},
        ["a", 1],
        [None],
        [["a"]],
        [b"a"],
    ],
)
def test_anything_but_a_star_or_an_array_of_strings_has_the_wrong_format(requested):
    expected = TopicsProblem("format", "validation failed: invalid topics format")
    assert expected == topics.normalise(requested, (), True)


@pytest.mark.behaviour(40)
def test_an_unknown_topic_is_refused_by_its_place():
    requested = ["user.created", "user.vanished"]
    assert TopicsProblem("unknown", topics.INVALID, 1) == topics.normalise(requested, CONFIGURED, False)


def test_configured_topics_are_case_sensitive():
    requested = ["User.created"]
    assert TopicsProblem("unknown", topics.INVALID, 0) == topics.normalise(requested, CONFIGURED, False)


@pytest.mark.behaviour(42)
def test_any_topic_is_allowed_when_none_is_configured():
    requested = ["no.such, topic", "ünï"]
    assert tuple(requested) == topics.normalise(requested, (), False)


@pytest.mark.behaviour(43)
@pytest.mark.parametrize("pattern", ["user.*", "*.created", "order.*.completed", "**"])
@pytest.mark.parametrize("configured", [(), CONFIGURED])
def test_patterns_are_refused_unless_enabled(pattern, configured):
    assert TopicsProblem("wildcard", topics.INVALID, 0) == topics.normalise([pattern], configured, False)


@pytest.mark.behaviour(43)
@pytest.mark.parametrize("pattern", ["user.*", "*.created", "order.*.completed", "user.created*", "*e*"])
def test_an_enabled_pattern_must_match_a_configured_topic(pattern):
    assert (pattern,) == topics.normalise([pattern], CONFIGURED, True)


@pytest.mark.behaviour(43)
@pytest.mark.parametrize("pattern", ["invoice.*", "user.*.created", "User.*", "*.created.*"])
def test_an_enabled_pattern_that_matches_no_configured_topic_is_refused(pattern):
    requested = ["user.created", pattern]
    assert TopicsProblem("unknown", topics.INVALID, 1) == topics.normalise(requested, CONFIGURED, True)


@pytest.mark.behaviour(43)
def test_an_enabled_pattern_may_match_anything_when_no_topic_is_configured():
    requested = ["invoice.*"]
    assert tuple(requested) == topics.normalise(requested, (), True)


@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        ("a" * 256, "length"),
        ("ü" * 128, "length"),
        ("a\x00b", "control"),
        ("a\n", "control"),
        ("\x7f", "control"),
        ("\x85", "control"),
        ("\ud800", "control"),
    ],
)
def test_what_no_store_should_hold_is_refused(entry, rule):
    assert TopicsProblem(rule, topics.INVALID, 1) == topics.normalise(["ok", entry], (), True)


@pytest.mark.parametrize("entry", ["a", "a" * 255, "ü" * 127 + "a", " ", "🙂"])
def test_255_bytes_of_anything_printable_are_stored(entry):
    assert (entry,) == topics.normalise([entry], (), False)


def test_a_list_has_at_most_1000_entries_after_duplicates_are_dropped():
    full = [f"t{n}" for n in range(1000)]
    assert tuple(full) == topics.normalise(full + full, (), False)
    assert TopicsProblem("length") == topics.normalise([*full, "one more"], (), False)


def test_a_list_has_at_most_100_patterns():
    full = [f"t{n}.*" for n in range(100)]
    assert tuple(full) == topics.normalise([*full, "a", "b"], (), True)[:100]
    assert TopicsProblem("length") == topics.normalise([*full, "one more *"], (), True)


# -- normal form


@pytest.mark.behaviour(44)
@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        (["b", "a", "b", "a"], ("b", "a")),
        (["user.created", "user.*"], ("user.*",)),
        (["user.*", "a", "user.created", "b"], ("user.*", "a", "b")),
        (["user.eu.*", "user.*"], ("user.*",)),
        (["user.*.x", "user.*"], ("user.*",)),
        (["user.*", "*.created"], ("user.*", "*.created")),
        (["user.*", "user"], ("user.*", "user")),
        (["a*b", "a*b*"], ("a*b*",)),
        (["a*b", "a**b"], ("a*b",)),
        (["*a*", "a*", "*a", "a"], ("*a*",)),
        (["**", "***"], ("*",)),
    ],
)
def test_topics_are_normalised(requested, expected):
    assert expected == topics.normalise(requested, (), True)


@pytest.mark.behaviour(44)
@bounded
@given(LISTS)
def test_normalising_twice_is_normalising_once(requested):
    once = topics.normalise(requested, (), True)
    if isinstance(once, tuple):
        assert once == topics.normalise(once, (), True)
        assert once == topics.normalise(list(once), (), True)


@pytest.mark.behaviour(44)
@bounded
@given(LISTS)
def test_normalising_keeps_the_order_of_first_appearance(requested):
    normal = topics.normalise(requested, (), True)
    if isinstance(normal, tuple):
        single = [re.sub(r"\*+", "*", entry) for entry in requested]
        places = [single.index(entry) for entry in normal]
        assert sorted(set(places)) == places


@pytest.mark.behaviour(44)
@bounded
@given(LISTS, st.lists(TOPICS, min_size=1, max_size=10))
def test_a_normalised_list_matches_what_the_original_matched(requested, samples):
    normal = topics.normalise(requested, (), True)
    if isinstance(normal, tuple):
        for topic in samples:
            assert any(reference(entry, topic) for entry in requested) == topics.matches(normal, topic)


@pytest.mark.behaviour(44)
@bounded
@given(LISTS)
def test_no_entry_of_a_normalised_list_covers_another(requested):
    normal = topics.normalise(requested, (), True)
    if isinstance(normal, tuple):
        assert not [(a, b) for a in normal for b in normal if a != b and topics.covers(a, b)]


# -- matching


@pytest.mark.behaviour(43)
@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("user.*", "user.created", True),
        ("user.*", "user.", True),
        ("user.*", "user.eu.created", True),
        ("user.*", "user", False),
        ("user.*", "superuser.created", False),
        ("*.created", "user.created", True),
        ("*.created", ".created", True),
        ("*.created", "user.created.late", False),
        ("order.*.completed", "order.eu.completed", True),
        ("order.*.completed", "order.eu.west.completed", True),
        ("order.*.completed", "order..completed", True),
        ("order.*.completed", "order.completed", False),
        ("aba*aba", "aba", False),
        ("aba*aba", "abaaba", True),
        ("*ab*ab*", "ab", False),
        ("*ab*ab*", "xabyabz", True),
        ("*", "", True),
        ("", "", True),
        ("", "a", False),
        ("a.c", "abc", False),
        ("a[b]*", "a[b]c", True),
        ("a?", "ab", False),
        ("*\n*", "a\nb", True),
    ],
)
def test_a_star_stands_for_any_run_of_characters(pattern, topic, expected):
    assert expected == topics.pattern_matches(pattern, topic)


@pytest.mark.behaviour(43)
@bounded
@given(ENTRIES, TOPICS)
def test_a_pattern_matches_as_its_regular_expression_does(pattern, topic):
    assert reference(pattern, topic) == topics.pattern_matches(pattern, topic)


@pytest.mark.behaviour(43)
@bounded
@given(st.text(alphabet="ab.*", min_size=1, max_size=8), st.data())
def test_a_pattern_matches_whatever_its_stars_are_filled_with(pattern, data):
    topic = "".join(data.draw(FILLINGS) if letter == "*" else letter for letter in pattern)
    assert topics.pattern_matches(pattern, topic)


def test_many_stars_cost_no_backtracking():
    # The regular expression of this pattern would try about 2**100 ways before it fails.
    assert not topics.pattern_matches("*a" * 100 + "b", "a" * 100_000)


@bounded
@given(ENTRIES, ENTRIES, st.lists(FILLINGS, min_size=6, max_size=6))
def test_covering_is_matching_whatever_the_other_matches(pattern, other, fillings):
    if topics.covers(pattern, other):
        fill = iter(fillings)
        topic = "".join(next(fill) if letter == "*" else letter for letter in other)
        assert topics.pattern_matches(pattern, topic)


@bounded
@given(ENTRIES, ENTRIES)
def test_what_is_not_covered_has_a_topic_that_shows_it(pattern, other):
    single = re.sub(r"\*+", "*", other)
    witness = single.replace("*", "#")  # a letter that no pattern here spells
    assert topics.covers(pattern, single) == topics.pattern_matches(pattern, witness)


@pytest.mark.behaviour(21, 62)
@pytest.mark.parametrize("event_topic", ["", "*"])
@pytest.mark.parametrize("subscribed", [(), ("a",), ("*",), ("x.*",)])
def test_an_event_for_everybody_matches_every_subscription(subscribed, event_topic):
    assert topics.matches(subscribed, event_topic)


@pytest.mark.behaviour(25, 43)
@pytest.mark.parametrize(
    ("subscribed", "topic", "expected"),
    [
        ((), "user.created", False),
        (("user.created",), "user.created", True),
        (("user.deleted", "user.created"), "user.created", True),
        (("user.deleted",), "user.created", False),
        (("*",), "anything at all", True),
        (("order.*", "user.*"), "user.created", True),
        (("order.*",), "user.created", False),
        (("user",), "user.created", False),
        (("a,b",), "a,b", True),
        (("a,b",), "a", False),
    ],
)
def test_an_event_goes_to_subscribers_of_its_topic_only(subscribed, topic, expected):
    assert expected == topics.matches(subscribed, topic)


# -- tenants and publishing


@pytest.mark.behaviour(30)
@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ([], []),
        ([()], []),
        ([("b", "a"), ("c", "a")], ["a", "b", "c"]),
        ([("a",), ("*",), ("b",)], ["*"]),
        ([("user.*",), ("user.created",)], ["user.*", "user.created"]),
    ],
)
def test_a_tenant_shows_the_sorted_union_of_its_destinations_topics(lists, expected):
    assert expected == topics.union(lists)
    assert expected == topics.union(iter(entries) for entries in lists)


@pytest.mark.behaviour(18)
@pytest.mark.parametrize(
    ("topic", "configured", "expected"),
    [
        (None, CONFIGURED, "topic is required"),
        ("", CONFIGURED, "topic is required"),
        ("user.vanished", CONFIGURED, "topic is invalid"),
        ("user.*", CONFIGURED, "topic is invalid"),
        ("user.created", CONFIGURED, None),
        ("*", CONFIGURED, None),
        ("*", (), None),
        (None, (), None),
        ("", (), None),
        ("anything", (), None),
        ("a" * 255, (), None),
        ("a" * 256, (), "topic is invalid"),
        ("a\x00", (), "topic is invalid"),
        ("\ud800", (), "topic is invalid"),
    ],
)
def test_publishing_needs_a_configured_topic_where_topics_are_configured(topic, configured, expected):
    assert expected == topics.topic_problem(topic, configured)


def test_many_patterns_beside_many_entries_are_refused() -> None:
    """Folding compares each with every other, and 16 ms of that are enough."""
    patterns = [f"{number}.*" for number in range(topics.MAX_PATTERNS)]
    most = topics.MAX_COMPARISONS // topics.MAX_PATTERNS
    entries = [f"topic{number}" for number in range(most - len(patterns))]
    assert tuple(patterns + entries) == topics.normalise(patterns + entries, (), True)
    assert topics.TopicsProblem("length") == topics.normalise([*patterns, *entries, "one more"], (), True)
    known = ("0.a", *(f"{number}.b" for number in range(100)))
    assert topics.TopicsProblem("length") == topics.normalise(patterns + entries, known, True)


def test_every_star_counts_as_a_pattern() -> None:
    one = "*".join("ab" * 60)
    fitting = topics.MAX_COMPARISONS // one.count("*") - 1
    entries = [f"topic{number}" for number in range(fitting)]
    assert (one, *entries) == topics.normalise([one, *entries], (), True)
    assert topics.TopicsProblem("length") == topics.normalise([one, *entries, "one more"], (), True)
