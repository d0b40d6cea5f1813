"""Key templates: a JMESPath expression of the tenant's, evaluated over an event, gives a text.

It is compiled when a destination is saved and again when its publisher opens. What has no text (nothing found, an
empty one, an error while evaluating, too much work) is None; the type falls back or fails. Values are written as
the published Outpost, which is in Go, prints them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from outpost import errors, json_grammar

MOST_CHARACTERS = 2_048  # of a template
DEEPEST = 60  # levels of a template's tree; the parser and the evaluation recurse
_PLAIN_EXPONENTS = range(-4, 6)  # of the numbers that Go's %g writes without one, when it writes the fewest digits


class Template:
    """One that has been compiled; knows nothing of what it is evaluated over."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self._tree = tree

    def text(self, context: object) -> str | None:
        """What the template says of `context`, a value as JSON has them; None if it says nothing."""
        from outpost.adapters.shared import jmespath_budget  # only some types need the library

        budget = jmespath_budget.Budget()
        try:
            found = jmespath_budget.Interpreter(budget).visit(self._tree, context)
            budget.walk(found)
            return written(found) or None if found is not None else None
        except Exception:  # noqa: BLE001 -- the template is a tenant's, and errors of the library quote the event
            return None


def compiled(text: str) -> Template | None:
    """The template, or None where `text` is none."""
    import jmespath  # only some types need the library

    if len(text) > MOST_CHARACTERS:
        return None
    try:
        tree: dict[str, Any] = jmespath.compile(text).parsed
    except (ValueError, RecursionError):  # every error of the library's is a ValueError
        return None
    return Template(tree) if _depth(tree) <= DEEPEST else None


def problems(config: Mapping[str, str], key: str) -> list[errors.Problem]:
    """What is wrong with the template at `key`, if there is one; for a type that is being saved."""
    text = config.get(key, "")
    return [] if not text or compiled(text) is not None else [errors.Problem(f"config.{key}", "pattern")]


def document(data: bytes) -> object:
    """The JSON of an event as templates see it; numbers that no float holds are infinite."""
    try:
        return json_grammar.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def of_event(template: Template | None, data: bytes, merged: Mapping[str, str]) -> str | None:
    """What a template over `data` and `metadata` says of an event; None if it says nothing, or there is none."""
    return None if template is None else template.text({"metadata": merged, "data": document(data)})


def written(value: object) -> str:
    """`value` as Go's %v writes it: numbers as %g, keys in order. Raises TypeError for what is not JSON."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int() | float():
            return number(float(value))
        case list():
            return f"[{' '.join(written(each) for each in value)}]"
        case dict():
            return f"map[{' '.join(f'{key}:{written(value[key])}' for key in sorted(value))}]"
        case _:
            raise TypeError(type(value).__name__)


def number(value: float) -> str:
    """`value` as Go's %g: the fewest digits that name it, with an exponent of two digits from 1e+06 on."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{value:+}".title()
    mantissa, _, exponent = repr(value).partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return f"{sign}0"
    power = int(exponent or 0) + len(whole) - 1 - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if power not in _PLAIN_EXPONENTS:
        shown = digits[0] + ("." + digits[1:] if digits[1:] else "")
        return f"{sign}{shown}e{power:+03}"
    if power < 0:
        return f"{sign}0.{'0' * (-power - 1)}{digits}"
    whole, fraction = digits[: power + 1].ljust(power + 1, "0"), digits[power + 1 :]
    return f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}"


def _depth(tree: dict[str, Any]) -> int:
    """Levels of the tree; stops counting beyond `DEEPEST`."""
    level, deep = [tree], 0
    while level and deep <= DEEPEST:
        level = [child for node in level for child in node.get("children", ()) if isinstance(child, dict)]
        deep += 1
    return deep
