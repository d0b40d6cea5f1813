"""`docs/bounds.md` states every limit with the value that the code has."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from outpost import settings
from outpost.settings import table as settings_table

TEXT = (Path(__file__).parents[2] / "docs/bounds.md").read_text("utf-8")
# What one unit of the table is in seconds or bytes; a limit without a unit is a count.
UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "bytes": 1, "kB": 1_000, "KiB": 1024, "MiB": 1024**2, "": 1}


def rows() -> list[tuple[str, str, str]]:
    """Limit as text, name, and what happens beyond it, one tuple a row of the table."""
    found = re.search(r"<!-- limits -->\n(.*?)<!-- end -->", TEXT, re.DOTALL)
    assert found is not None
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].strip().split("\n")[2:]]
    assert {4} == {len(row) for row in cells}
    return [(limit, name.strip("`"), beyond) for _, limit, name, beyond in cells]


def seconds_or_count(text: str) -> float:
    """The value of a limit such as `1,024 bytes`, `64 MiB`, `5 s` or `20,000`."""
    found = re.fullmatch(r"([\d,.]+) ?(\w*)", text)
    assert found is not None, text
    return float(found[1].replace(",", "")) * UNITS[found[2]]


def in_code(name: str) -> float:
    """The default of a setting, or the value of a constant, named `package.module.NAME`; times are in seconds."""
    if "." not in name:
        [field] = {variable.field for variable in settings_table.VARIABLES if variable.env == name}
        value: Any = getattr(settings.Settings(), field)
        return value / 1000 if field.endswith("_ms") else value
    module, _, constant = name.rpartition(".")
    value = getattr(importlib.import_module(module), constant)
    return value / 1000 if constant.endswith("_MS") else value


@pytest.mark.parametrize(("limit", "name", "beyond"), rows(), ids=[name for _, name, _ in rows()])
def test_a_limit_is_the_one_in_the_code(limit: str, name: str, beyond: str) -> None:
    assert seconds_or_count(limit) == pytest.approx(in_code(name))
    assert beyond
