"""How `append` keeps an event once: marks in buckets, windows that differ between processes, a clock that steps.

Time is counted in ticks. A process with the window `ttl` writes its marks into buckets of half of it, and looks
into the buckets of every window that is in use: the partition says which are, and a caller that did not name one
of them is told to come again. An old process, which knows of its own width only, may have been there before.
Invariant M: an id that was taken is not taken again by an append whose window, and that of the first, both still
hold; L2: the same request that comes again within `RETRY` ticks makes no second entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from docs.models.search import Broken, Result, Step, explore, intact

RETRY = 3  # ticks for which a caller that got no answer tries again
LEAST_TTL = 4  # the least window that the settings allow: longer than that
LOOK_BACK = 2  # buckets
LIVES = 4  # buckets from the start of its own until a mark expires


class Entry(NamedTuple):
    """An event in the stream: the ms of its id never goes back, whatever the clock does."""

    id_ms: int
    request: int
    ttl: int


class Mark(NamedTuple):
    width: int
    bucket: int
    entry: Entry


class World(NamedTuple):
    """`declared` are the widths that each process names, `registered` those that the partition knows (width,
    until), `trying` a request whose answer was lost: (process, request, when it began), `real` the ticks that
    went by."""

    now: int
    real: int
    entries: tuple[Entry, ...] = ()
    marks: frozenset[Mark] = frozenset()
    registered: frozenset[tuple[int, int]] = frozenset()
    declared: tuple[frozenset[int], ...] = ()
    trying: tuple[int, int, int] | None = None
    steps_back: int = 0


class Scenario(NamedTuple):
    """`ttls` of the processes; `old` the window of a process of the version before, which appends first and
    registers nothing; `back` how often the clock may step back."""

    ttls: tuple[int, ...]
    old: int = 0
    back: int = 0
    ticks: int = 9
    entries: int = 3


SCENARIOS = {
    "marks, one window": Scenario((4,)),
    "marks, changed window": Scenario((4, 8)),
    "marks, much longer window": Scenario((4, 16), ticks=18),
    "marks, three windows": Scenario((4, 6, 8), ticks=9),
    "marks, the clock steps back": Scenario((4,), back=2),
    "marks, changed window and clock": Scenario((4, 6), back=1, ticks=7),
    "marks, after the version before": Scenario((8,), old=4),
    "marks, own retry": Scenario((2,), ticks=6),
}
GUARDS = {
    "marks-in-every-width": "marks, changed window",
    "marks-of-undeclared-widths": "marks, changed window",
    "marks-look-ahead": "marks, the clock steps back",
    "marks-look-back": "marks, one window",
    "marks-adopted": "marks, after the version before",
    "marks-outlive-the-window": "marks, one window",
    "marks-least-window": "marks, own retry",
}


def width_of(ttl: int) -> int:
    return max(1, -(-ttl // 2))


def append(w: World, c: Scenario, process: int, request: int) -> tuple[World, str]:
    """The script, called by a process with the widths that it declares."""
    ttl = max(c.ttls[process], LEAST_TTL if intact("marks-least-window") else 0)
    own, declared = width_of(ttl), w.declared[process]
    live = {width for width, until in w.registered if until > w.now}
    if not live <= declared and intact("marks-of-undeclared-widths"):
        told = w._replace(declared=_with(w.declared, process, declared | live))
        return told, "told which widths are in use"
    widths = declared if intact("marks-in-every-width") else {own}
    found = [mark.entry for mark in w.marks if mark.width in widths and _looked_at(mark, w.now)]
    if any(entry.request == request for entry in found):
        return w._replace(trying=None), "its first answer"
    if any(w.now - entry.id_ms <= ttl for entry in found):
        return w._replace(trying=None), "duplicate"
    entry = Entry(max([w.now, *(e.id_ms for e in w.entries)]), request, ttl)
    _check(w, entry, f"p{process}: append -> appended")
    mark = Mark(own, w.now // own, entry)
    until = (w.now // own + LIVES) * own
    registered = frozenset({*(r for r in w.registered if r[0] != own), (own, until)})
    new = w._replace(entries=(*w.entries, entry), marks=w.marks | {mark}, registered=registered)
    return new, "appended"


def _looked_at(mark: Mark, now: int) -> bool:
    ahead = 1 if intact("marks-look-ahead") else 0
    back = LOOK_BACK if intact("marks-look-back") else 1
    return -ahead <= now // mark.width - mark.bucket <= back


def _check(w: World, new: Entry, label: str) -> None:
    for before in w.entries:
        if before.request == new.request:
            raise Broken("L2", f"request {new.request} made two entries, {before} and {new}", label)
        if w.now - before.id_ms <= min(before.ttl, new.ttl):
            raise Broken("M", f"the id was taken by {before} and again by {new}", label)


def steps(w: World, c: Scenario) -> Iterator[Step]:
    """Publishing one id again and again, time, and the clock of Redis."""
    if w.real < c.ticks:
        yield "a tick", False, _expire(w._replace(now=w.now + 1, real=w.real + 1))
    if w.steps_back < c.back:
        yield "the clock steps back by a tick", True, w._replace(now=w.now - 1, steps_back=w.steps_back + 1)
    for process in range(len(c.ttls)):
        if len(w.entries) < c.entries and w.trying is None:
            new, answer = append(w, c, process, len(w.entries))
            yield f"p{process}: append -> {answer}", False, new
            if answer == "appended":
                lost = new._replace(trying=(process, len(w.entries), w.real))
                yield f"p{process}: append -> {answer}, the answer is lost", True, lost
    if w.trying is not None:
        process, request, began = w.trying
        if w.real - began <= RETRY:
            new, answer = append(w, c, process, request)
            yield f"p{process}: tries again -> {answer}", False, new
        yield f"p{process}: gives up", False, w._replace(trying=None)


def _expire(w: World) -> World:
    lives = LIVES if intact("marks-outlive-the-window") else 2
    return w._replace(
        marks=frozenset(m for m in w.marks if (m.bucket + lives) * m.width > w.now),
        registered=frozenset(r for r in w.registered if r[1] > w.now),
    )


def _with(values: tuple[frozenset[int], ...], at: int, value: frozenset[int]) -> tuple[frozenset[int], ...]:
    return (*values[:at], value, *values[at + 1 :])


def search(name: str, max_states: int = 3_000_000) -> Result:
    """Searches one scenario. Nothing has to be finished here, so that every world counts as finished."""
    c = SCENARIOS[name]
    declared = tuple(
        frozenset({width_of(max(ttl, LEAST_TTL if intact("marks-least-window") else 0))}) for ttl in c.ttls
    )
    first = World(0, 0, declared=declared)
    if c.old:
        width = width_of(c.old)
        entry = Entry(0, -1, c.old)
        known = frozenset({(width, LIVES * width)} if intact("marks-adopted") else ())
        first = first._replace(entries=(entry,), marks=frozenset({Mark(width, 0, entry)}), registered=known)
    return explore(first, lambda w: steps(w, c), lambda _: True, max_states)
