"""What is wrong with a filter that could be evaluated and would never do what was meant.

People write what they know from elsewhere: a path with dots, `$regex`, `$ne`. Each would be a field that no event
has, and the destination would never hear of an event again, so such a filter is refused when it is saved. A field
whose own name begins with a dollar sign is written with two. Pure.
"""

from __future__ import annotations

from typing import NamedTuple

from outpost.domain import filter_operators as ops
from outpost.domain import filters

MAX_MISTAKES = 100

KEYS = ("data", "id", "metadata", "time", "topic")  # of the document, see `filters.document`
_LOGICAL = ("$and", "$not", "$or", "$ref")
_OPERATORS = ", ".join(sorted((*ops.COMPARISONS, *_LOGICAL)))
_ORDERED = frozenset({"$gt", "$gte", "$lt", "$lte"})
_AFFIXED = frozenset({"$startsWith", "$endsWith"})

UNKNOWN_KEY = f"is not known: an event has {', '.join(KEYS)}"
UNKNOWN_OPERATOR = f"is no operator: there are {_OPERATORS}; a field of this name is written with two dollar signs"
NO_ORDER = "must be a text or a number"
NO_AFFIX = "must be a text or a list of texts"
NO_BOOLEAN = "must be true or false"
NO_LIST = "must be a list"
NO_REFERENCE = f"must be a path that begins with {', '.join(KEYS)}"


class Mistake(NamedTuple):
    """`path`: the keys and positions that lead there; `text`: what is wrong, behind the path."""

    path: tuple[str | int, ...]
    text: str


def mistakes(schema: dict[str, object]) -> list[Mistake]:
    """What is wrong with a filter that `filters.problem` lets pass, up to `MAX_MISTAKES`, in its order."""
    found: list[Mistake] = []
    _check(schema, (), found, top=True)
    return found[:MAX_MISTAKES]


def _check(schema: object, path: tuple[str | int, ...], found: list[Mistake], *, top: bool) -> None:
    """`top`: whether the schema judges the document itself."""
    if len(found) >= MAX_MISTAKES:
        return
    if isinstance(schema, list):
        for index, each in enumerate(schema):
            _check(each, (*path, index), found, top=False)
        return
    if not isinstance(schema, dict):
        return
    for key, operand in schema.items():
        at = (*path, key)
        if key in ops.COMPARISONS:
            _check_comparison(key, operand, at, found)
        elif key in _LOGICAL:
            _check_logical(key, operand, at, found, top=top)
        elif filters.is_operator(key):
            found.append(Mistake(at, UNKNOWN_OPERATOR))
        elif top and key not in KEYS:
            found.append(Mistake(at, UNKNOWN_KEY))
        else:
            _check(operand, at, found, top=False)


def _check_comparison(key: str, operand: object, at: tuple[str | int, ...], found: list[Mistake]) -> None:
    if isinstance(operand, dict) and operand.keys() == {"$ref"}:
        _check_logical("$ref", operand["$ref"], (*at, "$ref"), found, top=False)
    elif key in _ORDERED and (isinstance(operand, bool) or not isinstance(operand, str | int | float)):
        found.append(Mistake(at, NO_ORDER))
    elif key in _AFFIXED and not _is_affix(operand):
        found.append(Mistake(at, NO_AFFIX))
    elif key == "$exist" and not isinstance(operand, bool):
        found.append(Mistake(at, NO_BOOLEAN))


def _check_logical(
    key: str, operand: object, at: tuple[str | int, ...], found: list[Mistake], *, top: bool
) -> None:
    if key == "$ref":
        path = filters.parsed(operand) if isinstance(operand, str) else None
        if path is None or path[0] not in KEYS:
            found.append(Mistake(at, NO_REFERENCE))
    elif key == "$not":
        _check(operand, at, found, top=top)
    elif not isinstance(operand, list) or (key == "$or" and not operand):
        found.append(
            Mistake(at, NO_LIST if not isinstance(operand, list) else f"{NO_LIST} of one element at least")
        )
    else:
        for index, each in enumerate(operand):
            _check(each, (*at, index), found, top=top)


def _is_affix(operand: object) -> bool:
    listed = operand if isinstance(operand, list) else [operand]
    return bool(listed) and all(isinstance(each, str) for each in listed)
