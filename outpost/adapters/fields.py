"""What the declared fields of a type mean for values: presence, length and pattern, and which are masked."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping

from outpost import errors
from outpost.adapters import base

SHOWN = 4  # characters of a masked value that stay readable, if it has at least MASKED_WHOLE_BELOW
MASKED_WHOLE_BELOW = 10


def check(fields: Iterable[base.Field], values: Mapping[str, str], place: str) -> list[errors.Problem]:
    """Every declared rule that `values` breaks, under `place` (`config` or `credentials`). An empty text counts
    as missing, keys that no field declares are not looked at, lengths are in bytes."""
    problems: list[errors.Problem] = []
    for field in fields:
        path = f"{place}.{field.key}"
        value = values.get(field.key, "")
        if value:
            problems += _check_text(field, value, path)
        elif field.required:
            problems.append(errors.Problem(path, "required"))
    return problems


def mask(value: str) -> str:
    """`value` with all but its first four characters hidden, or all of them if it is short; same length."""
    shown = SHOWN if len(value) >= MASKED_WHOLE_BELOW else 0
    return value[:shown] + "*" * (len(value) - shown)


def masked(fields: Iterable[base.Field], values: Mapping[str, str]) -> dict[str, str]:
    """`values` with those of the fields declared sensitive masked."""
    sensitive = {field.key for field in fields if field.sensitive}
    return {key: mask(value) if key in sensitive else value for key, value in values.items()}


def _check_text(field: base.Field, value: str, path: str) -> list[errors.Problem]:
    if field.type == "number":
        return [] if re.fullmatch(r"[+-]?[0-9]+", value) else [errors.Problem(path, "type")]
    problems: list[errors.Problem] = []
    size = len(value.encode("utf-8", "surrogatepass"))
    if field.minlength is not None and size < field.minlength:
        problems.append(errors.Problem(path, "minlength", field.minlength))
    if field.maxlength is not None and size > field.maxlength:
        problems.append(errors.Problem(path, "maxlength", field.maxlength))
    if field.pattern is not None and not _compiled(field.pattern).search(value):
        problems.append(errors.Problem(path, "pattern"))
    return problems


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    """`$` in a published pattern means the end of the text; in `re` it also matches before a last newline."""
    return re.compile(pattern[:-1] + r"\Z" if pattern.endswith("$") else pattern)
