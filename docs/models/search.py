"""Exhaustive search over the states of a model, shared by every model in this folder.

A model gives `steps(state)`, which yields (label, is it a fault, next state), and `check(state)`, which raises
Broken where an invariant does not hold and returns whether everything is finished. A guard of the protocol is
asked for by `intact(name)`; `--break name` removes it, and the search must then find a counterexample.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

_removed: set[str] = set()

Step = tuple[str, bool, Any]


class Broken(Exception):
    """An invariant does not hold. `label` is the step that showed it, where it was not a state."""

    def __init__(self, invariant: str, sentence: str, label: str = "") -> None:
        super().__init__(invariant, sentence, label)
        self.invariant = invariant
        self.sentence = sentence
        self.label = label


class Result(NamedTuple):
    """What a search found: `broken` is empty where every invariant holds, otherwise `trace` is the shortest
    way."""

    states: int
    steps: int
    seconds: float
    broken: str
    trace: tuple[str, ...]


def intact(guard: str) -> bool:
    """Whether the protocol still has this guard."""
    return guard not in _removed


@contextmanager
def without(guard: str | None) -> Iterator[None]:
    """Removes one guard for as long as it lasts."""
    _removed.clear()
    _removed.update({guard} if guard else ())
    try:
        yield
    finally:
        _removed.clear()


def explore(
    start: Any,
    steps: Callable[[Any], Iterable[Step]],
    check: Callable[[Any], bool],
    max_states: int,
    share: Callable[[Any], Any] = lambda state: state,
) -> Result:
    """Visits every reachable state breadth first, then goes backwards from the finished ones over the steps that
    are no fault: a state that is not met on the way can never be finished. `share` saves memory for equal
    parts."""
    began = time.monotonic()
    states, parent, done = [start], [(0, "")], []
    ids, source, target, edges = {start: 0}, array("I"), array("I"), 0

    def result(n: int, broken: Broken | None) -> Result:
        trace = [broken.label] if broken and broken.label else []
        while n:
            n, label = parent[n]
            trace.insert(0, label)
        text = f"{broken.invariant}: {broken.sentence}" if broken else ""
        return Result(len(states), edges, time.monotonic() - began, text, tuple(trace))

    for n, state in enumerate(states):
        try:
            if check(state):
                done.append(n)
            for label, fault, new in steps(state):
                edges += 1
                m = ids.get(new)
                if m is None:
                    kept = share(new)
                    m = ids[kept] = len(states)
                    states.append(kept)
                    parent.append((n, label))
                if not fault and m != n:
                    source.append(n)
                    target.append(m)
        except Broken as broken:
            return result(n, broken)
        if len(states) > max_states:
            return result(0, Broken("bound", f"there are more than {max_states} states"))
    stuck = _never_finished(len(states), source, target, done)
    if stuck is None:
        return result(0, None)
    return result(stuck, Broken("liveness", "without a further fault this is never finished"))


def _never_finished(count: int, source: array[int], target: array[int], done: list[int]) -> int | None:
    before: dict[int, list[int]] = {}
    for n, m in zip(source, target, strict=True):
        before.setdefault(m, []).append(n)
    alive = set(done)
    while done:
        new = set(before.get(done.pop(), ())) - alive
        alive |= new
        done += new
    return min(set(range(count)) - alive, default=None)
