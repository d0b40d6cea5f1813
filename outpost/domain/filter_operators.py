"""What one `$` operator says of one value, within the steps that an evaluation may take.

An operator whose operand, or whose value, has a type that it cannot judge does not hold; neither does its
negated form (`$nin` beside `$in`). Pure; `domain/filters` walks the filter and calls these.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

# A step is about one comparison or one array element, and takes a microsecond. Work that a long text makes longer
# is paid for by its length.
MAX_STEPS = 250_000  # of all filters over one event
SEARCHED_PER_STEP = 256  # characters of a text that is searched
# Below this length CPython may search by trying each place (Objects/stringlib/fastsearch.h), beyond it in linear
# time.
TRIED_EVERYWHERE = 30_000  # characters
TRIED_PER_STEP = 16_384  # characters of the one text times those of the other
COMPARED_PER_STEP = 4_096  # characters of texts that are compared

MISSING = object()  # the value of a field that is not there

# The positions of the array elements that led to a value, the innermost outside: ((None, 3), 0) is [3][0]. A
# chain, since copying a tuple at each level of a deeply nested array is quadratic.
Indexes = tuple["Indexes", int] | None


class Undecided(Exception):
    """An evaluation ended before it had a result: it needs more steps than it has, or is nested too deep."""


class Run:
    """The evaluations over one event: the document that references read, and the steps that are left for all of
    them."""

    __slots__ = ("root", "steps")

    def __init__(self, root: object = None, steps: int = MAX_STEPS) -> None:
        self.root = root
        self.steps = steps

    def spend(self, steps: int = 1) -> None:
        """Takes steps. Raises Undecided if there are not as many left."""
        self.steps -= steps
        if self.steps < 0:
            raise Undecided


Comparison = Callable[[Run, object, object], bool]  # of a value with an operand


def leaves(run: Run, array: list[object], indexes: Indexes) -> Iterator[tuple[Indexes, object]]:
    """The elements of an array, those of arrays within it in their place, each with the positions that lead
    to it. A loop, not a recursion: documents may be nested as deep as their decoder allows."""
    pending = [(indexes, enumerate(array))]
    while pending:
        at, elements = pending[-1]
        for index, element in elements:
            run.spend()
            if isinstance(element, list):
                pending.append(((at, index), enumerate(element)))
                break
            yield (at, index), element
        else:
            pending.pop()


def same(run: Run, left: object, right: object) -> bool:
    """Deep equality of JSON values: objects whatever their order, a number never a text, true never 1. The
    caller pays for the first pair."""
    pending = [(left, right)]
    while pending:
        a, b = pending.pop()
        if isinstance(a, dict):
            # Paid before the members are queued: they may be many, and the first one compared may differ.
            if not isinstance(b, dict):
                return False
            run.spend(len(a))
            if a.keys() != b.keys():
                return False
            pending.extend((a[key], b[key]) for key in a)
        elif isinstance(a, list):
            if not (isinstance(b, list) and len(a) == len(b)):
                return False
            run.spend(len(a))
            pending.extend(zip(a, b, strict=True))
        elif isinstance(b, dict | list) or isinstance(a, bool) != isinstance(b, bool):
            return False
        else:
            if isinstance(a, str) and len(a) > COMPARED_PER_STEP:
                run.spend(len(a) // COMPARED_PER_STEP)
            if a != b:
                return False
    return True


def equals_or_holds(run: Run, value: object, other: object) -> bool:
    """Whether the value equals another one of the document, or is an array that holds it, or all of it if it is
    an array too. Nothing in a document is read as an operator."""
    if value is MISSING:
        return False
    if not isinstance(value, list):
        return same(run, value, other)
    wanted = other if isinstance(other, list) else [other]
    return all(any(same(run, leaf, each) for _, leaf in leaves(run, value, None)) for each in wanted)


def _ordered(compare: Callable[[Any, Any], bool]) -> Comparison:
    def ordered(run: Run, value: object, operand: object) -> bool:
        if isinstance(value, str):
            run.spend(len(value) // COMPARED_PER_STEP)
            return isinstance(operand, str) and compare(value, operand)
        return _is_number(value) and _is_number(operand) and compare(value, operand)

    return ordered


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _affixed(test: Callable[[str, tuple[str, ...]], bool]) -> Comparison:
    def affixed(run: Run, value: object, operand: object) -> bool:
        listed = operand if isinstance(operand, list) else [operand]
        run.spend(len(listed))
        texts = tuple(text for text in listed if isinstance(text, str))
        if not isinstance(value, str) or len(texts) != len(listed):
            return False
        run.spend(len(value) // COMPARED_PER_STEP)
        return test(value, texts)

    return affixed


def _contains(run: Run, value: object, operand: object) -> bool | None:
    """What `$in` asks; None if values of these types cannot be asked it, which `$nin` cannot then deny."""
    if value is MISSING:
        return None
    if isinstance(operand, list):
        run.spend(len(operand))
        return None if isinstance(value, dict | list) else any(same(run, value, each) for each in operand)
    if isinstance(value, list):
        run.spend(len(value))
        return any(same(run, each, operand) for each in value)
    if isinstance(value, str) and isinstance(operand, str):
        tried = len(value) * len(operand) if len(value) < TRIED_EVERYWHERE else 0
        run.spend(len(value) // SEARCHED_PER_STEP + tried // TRIED_PER_STEP)
        return operand in value
    return None


def _exists(_run: Run, value: object, operand: object) -> bool:
    return isinstance(operand, bool) and operand == (value is not MISSING)


def _equal(run: Run, value: object, operand: object) -> bool:
    return same(run, value, operand)


def _unequal(run: Run, value: object, operand: object) -> bool:
    return value is not MISSING and not same(run, value, operand)


def _in(run: Run, value: object, operand: object) -> bool:
    return _contains(run, value, operand) is True


def _not_in(run: Run, value: object, operand: object) -> bool:
    return _contains(run, value, operand) is False


COMPARISONS: dict[str, Comparison] = {
    "$eq": _equal,
    "$neq": _unequal,
    "$gt": _ordered(operator.gt),
    "$gte": _ordered(operator.ge),
    "$lt": _ordered(operator.lt),
    "$lte": _ordered(operator.le),
    "$in": _in,
    "$nin": _not_in,
    "$startsWith": _affixed(str.startswith),
    "$endsWith": _affixed(str.endswith),
    "$exist": _exists,
}
