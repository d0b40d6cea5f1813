"""Programs that tests run as texts import what exists, and constants that tests replace by name are there."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
OURS = r"(?:outpost|projections)\b[\w.]*"
FROM = re.compile(rf"^\s*from ({OURS}) import ([\w, ]+)$", re.MULTILINE)
IMPORT = re.compile(rf"^\s*import ({OURS})", re.MULTILINE)
CONSTANT = re.compile(r"^((?:outpost|projections)\.[\w.]+):([A-Za-z_]\w*)")  # as the harness replaces them


def _texts() -> dict[str, list[str]]:
    """The texts of each file that name something of ours."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(OURS, node.value):
                found.setdefault(str(path.relative_to(TESTS)), []).append(node.value)
    found.pop("unit/test_code_in_texts.py", None)
    return found


def _missing(text: str) -> list[str]:
    """What a text names that is not there."""
    named = [
        (module, name.split(" as ")[0].strip())
        for module, names in FROM.findall(text)
        for name in names.split(",")
    ]
    named += [(module, "__name__") for module in IMPORT.findall(text)]
    named += CONSTANT.findall(text)
    return [f"{module}.{name}" for module, name in named if not _is_there(module, name)]


def _is_there(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name) or bool(importlib.import_module(f"{module}.{name}"))
    except ModuleNotFoundError:
        return False


TEXTS = _texts()


@pytest.mark.parametrize("name", TEXTS)
def test_what_a_text_names_is_there(name: str) -> None:
    assert [] == [each for text in TEXTS[name] for each in _missing(text)]


@pytest.mark.parametrize(
    "text",
    [
        "\nfrom outpost import nothing\n",
        "import outpost.nothing",
        "outpost.errors:NOTHING=1",
        "outpost.no:NOTHING",
    ],
)
def test_what_is_not_there_is_found(text: str) -> None:
    assert 1 == len(_missing(text))


def test_what_is_there_is_not_reported() -> None:
    program = "import outpost.errors\nfrom outpost.log import append, read as reading\n"
    assert [] == _missing(program) + _missing("outpost.log.append:APPEND_LIMIT_S=1")
