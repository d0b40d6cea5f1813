"""The filter of a destination: a JSON object that an event must fit to be delivered there.

The language is that of the npm package simple-json-match: ordinary keys name fields, `$` keys are operators,
and everything in one object must hold. A key that begins with `$$` names the field that begins with `$`. Pure.
Filters and events are both written by users, so all evaluations over one event take a bounded number of steps;
what needs more has no result, and raises `filter_operators.Undecided`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

import msgspec

from outpost.domain import filter_operators as ops

MAX_DEPTH = 50  # objects and arrays within each other; each takes up to four Python frames
MAX_BYTES = 16 * 1024  # of the filter as JSON; it is copied into the log with every change of its destination
MAX_REFERENCE = 255  # characters of a `$ref`

NOT_AN_OBJECT = "filter must be a JSON object"
TOO_DEEP = f"filter must be nested at most {MAX_DEPTH} deep"
TOO_LARGE = f"filter must be at most {MAX_BYTES} bytes"

_LOGICAL = frozenset({"$and", "$or", "$not", "$ref"})
_ESCAPED = "$$"  # a field whose name begins with one dollar sign
_UNRESOLVED = object()  # the operand of a reference that cannot be read
_ELEMENT = -1  # in a parsed reference: the position of the array element under test
_REFERENCE_PART = re.compile(r"(?:^|(?<=.)\.)([^.\[\]]+)|\[(\d{1,9}|\$index)\]", re.DOTALL | re.ASCII)


def document(
    event_id: str, topic: str, time_rfc3339_seconds: str, metadata: Mapping[str, str] | None, data: object
) -> dict[str, object]:
    """What a filter is evaluated over. `time_rfc3339_seconds`: the event's own time without a fraction;
    `data`: the decoded payload; absent metadata or data are empty objects."""
    return {
        "id": event_id,
        "topic": topic,
        "time": time_rfc3339_seconds,
        "metadata": {} if metadata is None else dict(metadata),
        "data": {} if data is None else data,
    }


def matches(schema: dict[str, object] | None, run: ops.Run) -> bool:
    """Whether the document of `run` fits the filter. None and the empty filter fit everything. Raises
    filter_operators.Undecided."""
    return not schema or _fits(run, run.root, schema, None, 0)


def problem(schema: object) -> str | None:
    """Why a decoded JSON value cannot be a filter, as a sentence, or None. `filter_check` looks at what is in
    it."""
    if not isinstance(schema, dict):
        return NOT_AN_OBJECT
    pending: list[tuple[object, int]] = [(schema, 1)]
    while pending:
        value, depth = pending.pop()
        if not isinstance(value, dict | list):
            continue
        if depth > MAX_DEPTH:
            return TOO_DEEP
        pending.extend((inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value))
    return TOO_LARGE if len(msgspec.json.encode(schema)) > MAX_BYTES else None


def is_operator(key: str) -> bool:
    """Whether `key` stands where an operator does, known or not. A key `$` alone is a field."""
    return key.startswith("$") and not key.startswith(_ESCAPED) and len(key) > 1


def _fits(run: ops.Run, value: object, schema: object, indexes: ops.Indexes, depth: int) -> bool:
    if depth > MAX_DEPTH:
        raise ops.Undecided
    run.spend()
    if isinstance(schema, dict):
        return _fits_object(run, value, schema, indexes, depth)
    if isinstance(schema, list):  # a subset: each of its elements is found
        return isinstance(value, list) and all(
            _any_element(run, value, wanted, indexes, depth + 1) for wanted in schema
        )
    if isinstance(value, list):
        return any(ops.same(run, leaf, schema) for _, leaf in ops.leaves(run, value, indexes))
    return ops.same(run, value, schema)


def _fits_object(run: ops.Run, value: object, schema: dict[str, object], indexes: ops.Indexes, depth: int) -> bool:
    run.spend(len(schema))
    fields: dict[str, object] = {}
    for key, operand in schema.items():
        if compare := ops.COMPARISONS.get(key):
            resolved = _operand(run, operand, indexes)
            if resolved is _UNRESOLVED or not compare(run, value, resolved):
                return False
        elif key in _LOGICAL:
            if not _fits_logical(run, key, value, operand, indexes, depth + 1):
                return False
        else:
            fields[key[1:] if key.startswith(_ESCAPED) else key] = operand
    if isinstance(value, dict):
        return _has(run, value, fields, indexes, depth)
    if schema and not fields:
        return True  # operators alone may judge anything
    if isinstance(value, list):  # one element has all of the fields
        leaves = ops.leaves(run, value, indexes)
        return any(isinstance(leaf, dict) and _has(run, leaf, fields, at, depth) for at, leaf in leaves)
    return False


def _has(
    run: ops.Run, value: dict[str, object], fields: dict[str, object], indexes: ops.Indexes, depth: int
) -> bool:
    return all(
        _fits(run, value.get(key, ops.MISSING), wanted, indexes, depth + 1) for key, wanted in fields.items()
    )


def _fits_logical(
    run: ops.Run, key: str, value: object, operand: object, indexes: ops.Indexes, depth: int
) -> bool:
    match key:
        case "$not":
            return not _fits(run, value, operand, indexes, depth)
        case "$ref":
            other = _referenced(run, operand, indexes)
            return other is not _UNRESOLVED and ops.equals_or_holds(run, value, other)
    if not isinstance(operand, list):
        return False
    results = (_fits(run, value, each, indexes, depth) for each in operand)
    return any(results) if key == "$or" else all(results)


def _any_element(run: ops.Run, array: list[object], wanted: object, indexes: ops.Indexes, depth: int) -> bool:
    for index, element in enumerate(array):
        run.spend()
        if _fits(run, element, wanted, (indexes, index), depth):
            return True
    return False


def _operand(run: ops.Run, operand: object, indexes: ops.Indexes) -> object:
    if isinstance(operand, dict) and len(operand) == 1 and "$ref" in operand:
        return _referenced(run, operand["$ref"], indexes)
    return operand


def _referenced(run: ops.Run, reference: object, indexes: ops.Indexes) -> object:
    """The value that a path from the top of the document leads to; null if it leads nowhere."""
    path = parsed(reference) if isinstance(reference, str) else None
    if path is None:
        return _UNRESOLVED
    run.spend(len(path))
    positions: list[int] = []
    if _ELEMENT in path:
        while indexes is not None:
            run.spend()
            indexes, position = indexes
            positions.append(position)
    value = run.root
    for part in path:
        if isinstance(part, str):
            value = value.get(part) if isinstance(value, dict) else None
            continue
        if part == _ELEMENT:
            if not positions:
                return _UNRESOLVED
            part = positions.pop()
        value = value[part] if isinstance(value, list) and part < len(value) else None
    return value


@functools.lru_cache(maxsize=1024)
def parsed(reference: str) -> tuple[str | int, ...] | None:
    """`a.b[1].c[$index]`, after `$.` or not, as its parts; None if it is no path."""
    if len(reference) > MAX_REFERENCE:
        return None
    reference = reference.removeprefix("$.")
    path: list[str | int] = []
    end = 0
    while end < len(reference):
        part = _REFERENCE_PART.match(reference, end)
        if part is None:
            return None
        field, index = part.groups()
        path.append(field or (_ELEMENT if index == "$index" else int(index)))
        end = part.end()
    return tuple(path) or None
