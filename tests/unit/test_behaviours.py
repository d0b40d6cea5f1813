"""The 137 sentences of the published behaviour list: which are proved, which are different on purpose, which are
still open. The standing is `tests/behaviours.json`, the proofs are the markers `@pytest.mark.behaviour(N)`.

    proved      tests with its number prove the whole sentence
    partly      tests prove some of it; `missing` says what is not there
    different   ours is another rule; `rule` says it
    open        no test

`partly` and `open` may only become fewer: `most_open` is their number at the last count. After new markers, `make
behaviours` writes the file; look at its diff, because a marker that proves half a sentence makes it `partly`.
"""

from __future__ import annotations

import ast
import functools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
FILE = TESTS / "behaviours.json"
SENTENCES = range(1, 138)
KEYS = {
    "proved": {"what", "status"},
    "partly": {"what", "status", "missing"},
    "different": {"what", "status", "rule"},
    "open": {"what", "status"},
}
UPDATE = "run `make behaviours`, and look at the diff of tests/behaviours.json"


def standing() -> dict[int, dict[str, str]]:
    return {int(number): entry for number, entry in json.loads(FILE.read_text())["behaviours"].items()}


def numbers_of(status: str) -> set[int]:
    return {number for number, entry in standing().items() if entry["status"] == status}


@functools.cache
def marked() -> set[int]:
    """Every number that a test carries. One that is computed comes from a table in `corpus`, whose headings begin
    with it."""
    found: set[int] = set()
    for path in sorted(TESTS.rglob("test_*.py")):
        for argument in _arguments(ast.parse(path.read_text())):
            if isinstance(argument, ast.Constant):
                found.add(argument.value)
            else:
                found |= _of_tables()
    return found


def _arguments(tree: ast.AST) -> Iterator[ast.expr]:
    """Of `pytest.mark.behaviour(..)`, wherever it stands."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="mark"), attr="behaviour"), args=arguments):
                yield from arguments


def _of_tables() -> set[int]:
    tables = [json.loads(path.read_text()) for path in sorted((TESTS / "corpus").rglob("*.json"))]
    headings = [heading for table in tables if isinstance(table, dict) for heading in table]
    return {int(found[1]) for heading in headings if (found := re.match(r"(\d+): ", heading))}


def test_every_sentence_has_a_standing():
    assert list(SENTENCES) == sorted(standing())
    wrong = {number for number, entry in standing().items() if KEYS.get(entry["status"]) != set(entry)}
    assert set() == wrong, "each has `what`, `status` and what belongs to the status"
    assert all(text.strip() for entry in standing().values() for text in entry.values())


def test_a_marker_is_the_number_of_a_sentence():
    assert set() == {number for number in marked() if number not in SENTENCES}


def test_what_is_proved_has_a_test():
    assert set() == numbers_of("proved") - marked(), "`proved` without a test: mark one, or make it `open` again"


def test_what_is_partly_proved_has_a_test():
    assert set() == numbers_of("partly") - marked(), "`partly` without a test: mark one, or make it `open` again"


def test_what_is_open_has_no_test():
    assert set() == numbers_of("open") & marked(), f"there are tests with these numbers: {UPDATE}"


def test_what_is_different_is_what_was_decided():
    assert {3, 19, 20, 24, 37, 85, 99, 100, 101, 102, 105} == numbers_of("different")


def test_the_open_list_only_shrinks():
    still = len(numbers_of("open")) + len(numbers_of("partly"))
    assert still <= json.loads(FILE.read_text())["most_open"], "more is open than was: a proof got lost"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("@pytest.mark.behaviour(1, 2)\ndef test(): ...", [1, 2]),
        ("pytestmark = [pytest.mark.unit, pytest.mark.behaviour(3)]", [3]),
        ("x = pytest.param(1, marks=pytest.mark.behaviour(4))", [4]),
        ("@pytest.mark.unit(5)\ndef test(): behaviour(6)", []),
    ],
)
def test_markers_are_found_wherever_they_stand(source, expected):
    assert expected == [argument.value for argument in _arguments(ast.parse(source))]


@pytest.mark.parametrize(
    ("status", "with_test", "expected"),
    [
        ("open", True, "proved"),
        ("open", False, "open"),
        ("proved", True, "proved"),
        ("proved", False, "open"),
        ("partly", True, "partly"),
        ("partly", False, "open"),
        ("different", False, "different"),
    ],
)
def test_the_update_follows_the_markers(status, with_test, expected):
    entry = {"what": "w", "status": status, **({"missing": "m"} if status == "partly" else {})}
    after = updated(entry, with_test)
    assert expected == after["status"]
    assert ("missing" in after) == (expected == "partly")


def updated(entry: dict[str, str], with_test: bool) -> dict[str, str]:
    """What the markers make of a standing. `partly` stays until somebody looks at what is missing."""
    if entry["status"] == "different" or (entry["status"] == "partly" and with_test):
        return entry
    return {"what": entry["what"], "status": "proved" if with_test else "open"}


def write() -> str:
    """Writes the file from the markers; what changed. Never raises `most_open`."""
    found, before = marked(), standing()
    after = {number: updated(entry, number in found) for number, entry in sorted(before.items())}
    still = sum(entry["status"] in ("open", "partly") for entry in after.values())
    most = min(json.loads(FILE.read_text())["most_open"], still)
    lines = [f'    "{number}": {json.dumps(entry, ensure_ascii=False)}' for number, entry in after.items()]
    FILE.write_text(f'{{\n  "most_open": {most},\n  "behaviours": {{\n' + ",\n".join(lines) + "\n  }\n}\n")
    changes = [f"{n}: {before[n]['status']} -> {after[n]['status']}" for n in after if before[n] != after[n]]
    return "\n".join([*changes, summary(after)])


def summary(entries: dict[int, dict[str, Any]]) -> str:
    counts = {status: sum(entry["status"] == status for entry in entries.values()) for status in KEYS}
    return ", ".join(f"{count} {status}" for status, count in counts.items())


if __name__ == "__main__":
    sys.exit(print(write()))
