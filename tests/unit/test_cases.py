"""`docs/cases.md` and the tests that carry a case's number say the same."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"\| (\d\d) \| [^|]+ \| ([^|]+) \| ([^|]+) \|")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> dict[int, list[tuple[str, str]]]:
    """The tests that the document names for each case."""
    lines = [line for line in (ROOT / "docs/cases.md").read_text().splitlines() if re.match(r"\| \d", line)]
    found = [_ROW.fullmatch(line) for line in lines]
    assert [] == [line for line, row in zip(lines, found, strict=True) if row is None]
    return {int(row[1]): _TEST.findall(row[3]) for row in found if row is not None}


@functools.cache
def marked() -> dict[int, set[tuple[str, str]]]:
    """The tests that carry `@pytest.mark.case`, by its number."""
    found: dict[int, set[tuple[str, str]]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.case":
                    for number in mark.args:
                        assert isinstance(number, ast.Constant)
                        test = (str(path.relative_to(ROOT)), node.name)
                        found.setdefault(int(number.value), set()).add(test)
    return found


def test_every_case_names_tests_that_carry_its_number() -> None:
    carried = marked()
    for number, tests in rows().items():
        assert tests, number
        assert set(tests) <= carried.get(number, set()), number


def test_every_number_has_a_row_in_order() -> None:
    assert sorted(marked()) == list(rows())
