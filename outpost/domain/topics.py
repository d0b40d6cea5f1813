"""Topics and the patterns that subscribe to them: what may be stored, and what matches what.

A subscription is a list of entries; an entry is a topic, or a pattern in which each `*` stands for any run
of characters, dots and the empty run included. The single entry `*` takes everything. Pure: the caller brings
the list and the configured topics along.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

import msgspec

WILDCARD = "*"
EVERYTHING = (WILDCARD,)

MAX_TOPIC_BYTES = 255  # of UTF-8
MAX_ENTRIES = 1000  # of one destination: publish may have to read them all
MAX_PATTERNS = 100  # among them
# Folding tries each pattern on every entry, and each may be tried on every configured topic; a star costs about as
# much as a pattern. So many stars times entries take 16 ms at worst.
MAX_COMPARISONS = 30_000

INVALID = "validation failed: invalid topics"
INVALID_FORMAT = "validation failed: invalid topics format"
REQUIRED = "topics is required"

_ENTRIES_PER_STEP = 16
_STARS = re.compile(r"\*{2,}")
# C0, DEL, C1 (a NUL fails a whole COPY), and lone surrogates, which have no UTF-8 at all
_UNSTORABLE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\ud800-\udfff]")


class TopicsProblem(msgspec.Struct, frozen=True):
    """Why a list of topics is refused. `rule`: required, format, invalid, unknown, wildcard, control or
    length (of an entry or of the list); `message`: the published sentence; `index`: the first entry at fault,
    if it is one entry's fault."""

    rule: str
    message: str = INVALID
    index: int | None = None


def normalise(requested: object, configured: tuple[str, ...], wildcards: bool) -> tuple[str, ...] | TopicsProblem:
    """The entries to store for the `topics` of a request, a decoded JSON value, or why there are none.

    Order is kept. Dropped are later duplicates and what a pattern beside it covers; a run of stars becomes
    one, which matches the same. `configured`: the deployment's topics, empty if any topic is allowed.
    `wildcards`: whether patterns other than `*` are.
    """
    if requested is None:
        return TopicsProblem("required", REQUIRED)
    if requested == WILDCARD:
        return EVERYTHING
    if not isinstance(requested, list | tuple) or not all(isinstance(entry, str) for entry in requested):
        return TopicsProblem("format", INVALID_FORMAT)
    if not requested:
        return TopicsProblem("required")
    distinct = set(requested)
    if len(distinct) > MAX_ENTRIES or sum(WILDCARD in entry for entry in distinct) > MAX_PATTERNS:
        return TopicsProblem("length")
    if _stars(distinct) * (len(distinct) + len(configured)) > MAX_COMPARISONS:
        return TopicsProblem("length")
    known = frozenset(configured)
    for index, entry in enumerate(requested):
        if rule := _broken_rule(entry, known, wildcards):
            return TopicsProblem(rule, index=index)
    entries = list(dict.fromkeys(_STARS.sub(WILDCARD, entry) for entry in requested))
    if WILDCARD in entries:
        return EVERYTHING if len(entries) == 1 else TopicsProblem("invalid")
    return _folded(entries)


def matches(subscribed: Collection[str], topic: str, *, wildcards: bool = True) -> bool:
    """Whether an event of `topic` is one for this subscription. An event without a topic, or of topic `*`, is
    for every subscription, the empty one included. `wildcards`: whether patterns count; without them `*` alone
    does."""
    if topic in ("", WILDCARD):
        return True
    if WILDCARD in subscribed or topic in subscribed:
        return True
    return wildcards and any(WILDCARD in entry and pattern_matches(entry, topic) for entry in subscribed)


def pattern_matches(pattern: str, topic: str) -> bool:
    """Whether `topic` fits `pattern`, letter for letter but for its stars.

    Greedy from the left: a part between two stars may always take its first place, since that leaves most to
    the parts after it. So nothing is tried twice, whatever the number of stars.
    """
    head, *parts = pattern.split(WILDCARD)
    if not parts:
        return pattern == topic
    tail = parts.pop()
    start, end = len(head), len(topic) - len(tail)
    if start > end or not topic.startswith(head) or not topic.endswith(tail):
        return False
    for part in parts:
        found = topic.find(part, start, end)
        if found < 0:
            return False
        start = found + len(part)
    return True


def covers(pattern: str, other: str) -> bool:
    """Whether every topic that fits the entry `other` fits `pattern` too.

    A star of `other` stands for letters that no part of `pattern` spells, so only a star of `pattern` can
    take it: reading `other` as a topic answers exactly. Runs of stars are to be one star.
    """
    return pattern_matches(pattern, other)


def union(topic_lists: Iterable[Iterable[str]]) -> list[str]:
    """The topics of a tenant: the sorted entries of all its destinations, `["*"]` if one takes everything."""
    entries = {entry for entries in topic_lists for entry in entries}
    return [WILDCARD] if WILDCARD in entries else sorted(entries)


def effective(subscribed: Iterable[str], *, wildcards: bool) -> list[str]:
    """The entries that count: without `wildcards` patterns do not, but for `*` alone."""
    return [entry for entry in subscribed if wildcards or WILDCARD not in entry or entry == WILDCARD]


def topic_problem(topic: str | None, configured: Sequence[str]) -> str | None:
    """The published sentence on why an event may not have this topic, or None. `*` goes to everybody and may
    be published; without configured topics an event may do without one."""
    if not topic:
        return "topic is required" if configured else None
    if topic == WILDCARD:
        return None
    if _unstorable(topic) or (configured and topic not in configured):
        return "topic is invalid"
    return None


def cost(subscribed: Collection[str]) -> int:
    """How much work `matches` is, in steps of about a microsecond."""
    return 1 + len(subscribed) // _ENTRIES_PER_STEP + _stars(subscribed)


def _stars(entries: Iterable[str]) -> int:
    return "".join(entries).count(WILDCARD)


def _broken_rule(entry: str, known: frozenset[str], wildcards: bool) -> str | None:
    if not entry:
        return "unknown" if known else None  # it takes events without a topic, as every entry does
    if rule := _unstorable(entry):
        return rule
    if not entry.strip(WILDCARD):
        return None if wildcards or entry == WILDCARD else "wildcard"
    if WILDCARD not in entry:
        return "unknown" if known and entry not in known else None
    if not wildcards:
        return "wildcard"
    return "unknown" if known and not any(pattern_matches(entry, topic) for topic in known) else None


def _unstorable(topic: str) -> str | None:
    if _UNSTORABLE.search(topic):
        return "control"
    return None if 0 < len(topic.encode()) <= MAX_TOPIC_BYTES else "length"


def _folded(entries: list[str]) -> tuple[str, ...]:
    patterns = [entry for entry in entries if WILDCARD in entry]

    def covered(entry: str) -> bool:
        return any(pattern != entry and covers(pattern, entry) for pattern in patterns)

    return tuple(entry for entry in entries if not covered(entry))
