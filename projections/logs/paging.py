"""Keyset paging of the log lists: what a page is asked for with, where it begins, the cursors to its neighbours.

The order is (time, accepted_at, partition, seq), which no two rows share, so pages neither repeat nor skip rows,
whatever is added meanwhile. A cursor does not hold direction or filters; the caller repeats them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Generic, Literal, NamedTuple, TypeVar

import msgspec

from outpost import cursor

Dir = Literal["asc", "desc"]
_POSITION = re.compile(r"(-?[0-9]{1,15})::([0-9]{1,15})-([0-9]{1,19})\.([0-9]{1,2})", re.ASCII)
_MAX_SEQ = 2**63 - 1
_TIMES_MS = range(-62_135_596_800_000, 253_402_300_800_000)  # years 1 to 9999, what RFC 3339 can spell

T = TypeVar("T")


class PageRequest(msgspec.Struct, frozen=True):
    """Which page: at most one of `next` and `prev`, cursors as they were given out. A page ends before a row that
    would make it larger than `max_bytes`, but has one row at least."""

    limit: int = 100
    dir: Dir = "desc"
    next: str | None = None
    prev: str | None = None
    max_bytes: int = 8 * 1024 * 1024


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A page of rows in the order asked for, and the cursors of the pages after and before it."""

    models: list[T]
    next: str | None = None
    prev: str | None = None


class Place(NamedTuple):
    """Where a row stands in the order of the lists; times in Unix ms."""

    time_ms: int
    accepted_ms: int
    partition: int
    seq: int

    def __str__(self) -> str:
        return f"{self.time_ms}::{self.accepted_ms}-{self.seq}.{self.partition}"


class Scan(NamedTuple):
    """How to read a page: from `start` (exclusive; None: the list's end) in `dir`, one row more than wanted."""

    dir: Dir
    start: Place | None


def scan(resource: cursor.Resource, request: PageRequest) -> Scan | cursor.CursorProblem:
    """The scan that reads the page; backwards for `prev`, the rows are turned round by `page`."""
    text = request.prev or request.next
    if not text:  # an empty one too, which is how a query string says none
        return Scan(request.dir, None)
    position = cursor.decode_cursor(resource, text)
    if isinstance(position, cursor.CursorProblem):
        return position
    start = parse(position)
    if start is None:
        return cursor.CursorProblem("invalid cursor")
    return Scan(_other(request.dir) if request.prev else request.dir, start)


def parse(text: str) -> Place | None:
    """The inverse of `str(Place)`; None if `text` is none."""
    found = _POSITION.fullmatch(text)
    if found is None:
        return None
    place = Place(int(found[1]), int(found[2]), int(found[4]), int(found[3]))
    fits = place.time_ms in _TIMES_MS and place.accepted_ms in _TIMES_MS and place.seq <= _MAX_SEQ
    return place if fits else None


def page(
    resource: cursor.Resource,
    request: PageRequest,
    rows: list[T],
    places: list[Place],
    found: int | None = None,
) -> Page[T]:
    """The page out of what its scan read (up to `limit + 1` rows, in the order of the scan) and where those rows
    stand. `found` is how many rows the scan found, if it did not read all of them. A page that a cursor led to has
    a way back, unless it is empty."""
    found = len(rows) if found is None else found
    rows, places = rows[: request.limit], places[: request.limit]
    more = found > len(rows)
    if not rows:
        return Page([])
    if request.prev:
        rows, places = rows[::-1], places[::-1]
    first, last = (cursor.encode_cursor(resource, str(places[i])) for i in (0, -1))
    if request.prev:
        return Page(rows, next=last, prev=first if more else None)
    return Page(rows, next=last if more else None, prev=first if request.next else None)


def fitting(sizes: Sequence[int], max_bytes: int) -> int:
    """How many of the first rows have at most `max_bytes` together, one at least."""
    return max(1, sum(1 for total in itertools.accumulate(sizes) if total <= max_bytes))


def shortened(
    resource: cursor.Resource, request: PageRequest, whole: Page[T], places: list[Place], count: int
) -> Page[T]:
    """The page with only those `count` of its rows, whose `places` are given too, that its scan read first."""
    if count >= len(whole.models):
        return whole
    if request.prev:
        return Page(whole.models[-count:], whole.next, cursor.encode_cursor(resource, str(places[-count])))
    return Page(whole.models[:count], cursor.encode_cursor(resource, str(places[count - 1])), whole.prev)


def _other(direction: Dir) -> Dir:
    return "asc" if direction == "desc" else "desc"
