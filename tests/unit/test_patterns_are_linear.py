"""Every regular expression of the project takes time linear in its text, except for those that see only settings.

The patterns are found in the syntax trees, so a new one is tried by itself. Each is tried on texts that are made
of its own letters: everything that it can repeat, ended by something that it cannot match. Quadratic work takes 16
times as long on a text of 4 times the length, linear work 4 times; only that ratio is judged, in CPU time.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.harness import cost

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("outpost", "projections")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
METHODS = {"match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"}
SHORT, LONG = 4_000, 16_000  # characters
MAX_RATIO = 9.0  # of the times of the two; 4 if linear, 16 if quadratic
NOTICED_S = 0.003  # CPU time below which a text of `LONG` characters is no matter

# Patterns that see nothing from outside, by module, with the reason.
EXEMPT = {
    "outpost.cli": "what an operator types, and the output of local programs",
    "outpost.embedded": "local files and the output of embedded stores",
    "outpost.settings.rules": "settings",
    "outpost.settings.sources": "the environment and the settings file",
    "outpost.settings.table": "settings",
    "projections.logs.sql": "our own file of statements",
    "projections.logs.migrate": "our own files of migrations",
    "outpost.telemetry": "our own names of events",
}
EXEMPT_NAMES = {
    ("outpost.adapters.gcp.channels", "_CERTIFICATE"): "the authorities that the operator's system trusts",
}
# Modules with a pattern whose text is not a constant, with where it is from.
COMPUTED = {
    "outpost.adapters.fields": "patterns of the types' descriptions, which are tried below",
}


class Pattern(NamedTuple):
    """A pattern, where it stands, and the methods that are called on it."""

    module: str
    line: int
    compiled: re.Pattern[Any]
    methods: frozenset[str]

    def __str__(self) -> str:
        return f"{self.module}:{self.line}"


def _exempt(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in EXEMPT)


def _uses() -> dict[str, set[str]]:
    """The methods of patterns that are called on each name, wherever it is called."""
    found: dict[str, set[str]] = {}
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in METHODS:
                owner = node.value
                name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
                found.setdefault(name, set()).add(node.attr)
    return found


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    """Every call of a function of `re`, and the name that its result is given."""
    names = {
        id(node.value): node.targets[0].id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "re"
            and node.func.attr in METHODS | {"compile"}
        ):
            yield node, names.get(id(node), "")


def _patterns() -> tuple[list[Pattern], list[str]]:
    """Every pattern that may see something from outside, and the modules of those that are not constant."""
    uses, found, computed = _uses(), [], []
    for module, path in MODULES.items():
        for call, name in _calls(ast.parse(path.read_text("utf-8"))):
            source = ast.unparse(call.args[0])
            at = {"compile": 1, "sub": 3, "subn": 3, "split": 2}.get(call.func.attr, 2)  # type: ignore[attr-defined]
            given = [*call.args[at : at + 1], *(k.value for k in call.keywords if k.arg == "flags")]
            namespace = vars(importlib.import_module(module))
            try:
                text = eval(source, namespace)
                flags = eval(ast.unparse(given[0]), namespace) if given else 0
                compiled = re.compile(text, flags)
            except NameError:
                computed += [] if _exempt(module) else [module]
                continue
            if not _exempt(module) and (module, name) not in EXEMPT_NAMES:
                direct = call.func.attr  # type: ignore[attr-defined]
                methods = uses.get(name, set()) if direct == "compile" else {direct}
                found.append(Pattern(module, call.lineno, compiled, frozenset(methods or {"search", "fullmatch"})))
    return found, computed


FOUND, NOT_CONSTANT = _patterns()


def _of_descriptions() -> list[Pattern]:
    """The patterns that the descriptions of destination types bring along."""
    from outpost.adapters import fields

    texts = {
        found
        for path in (ROOT / "outpost/adapters/data").rglob("*.json")
        for found in re.findall(r'"pattern":\s*"((?:[^"\\]|\\.)*)"', path.read_text("utf-8"))
    }
    unescaped = sorted(text.replace("\\\\", "\\") for text in texts)
    return [
        Pattern("outpost.adapters.data", number, fields._compiled(text), frozenset({"search"}))
        for number, text in enumerate(unescaped)
    ]


def _letters(compiled: re.Pattern[Any]) -> list[str]:
    """Characters that the pattern names, one of each of its classes, and a few that matter to most."""
    text = compiled.pattern if isinstance(compiled.pattern, str) else compiled.pattern.decode("latin-1")
    named = {letter for letter in text if letter.isprintable()} | {"a", "0", " ", "\n", '"', "\\", "/", "-", "."}
    return sorted(named)


def _pieces(compiled: re.Pattern[Any]) -> list[str]:
    """Texts to repeat: each letter, pairs of those that the pattern can get through, and its own literal runs."""
    text = compiled.pattern if isinstance(compiled.pattern, str) else compiled.pattern.decode("latin-1")
    letters = _letters(compiled)
    literals = re.findall(r"[A-Za-z0-9 ,;:/=<>@!-]{2,}", text)
    some = [each for each in letters if not each.isalpha()][:12] + ["a"]  # noqa: RUF005
    return [*letters, *(one + two for one in some for two in some if one != two), *literals]


def _worst(pattern: Pattern, pieces: Sequence[str]) -> tuple[float, str]:
    """The ratio of times that is too large, or the greatest, and of which text; 0 where no text takes long."""
    worst, of = 0.0, ""
    is_text = isinstance(pattern.compiled.pattern, str)
    for name in sorted(pattern.methods):
        call = getattr(pattern.compiled, name)
        for piece in pieces:
            for first, last in (("", "\x00"), ("", ""), ('"', "\x00"), ("a", "\x00")):

                def made(length: int, piece: str = piece, first: str = first, last: str = last) -> str | bytes:
                    text = first + piece * (length // len(piece)) + last
                    return text if is_text else text.encode("latin-1", "replace")

                method = (lambda text, call=call: call(text[:0], text)) if name in ("sub", "subn") else call
                method = (lambda text, call=call: list(call(text))) if name == "finditer" else method

                def took(length: int, method: Any = method, made: Any = made) -> float:
                    text = made(length)
                    return cost.seconds(lambda: method(text))

                if took(LONG) < NOTICED_S:
                    continue
                ratio, long = cost.growth(
                    lambda took=took: took(LONG), lambda took=took: took(SHORT), MAX_RATIO, 4
                )
                if long >= NOTICED_S and ratio > worst:
                    worst, of = ratio, f"{name} of {piece!r} between {first!r} and {last!r}: {long:.3f} s"
                if worst > MAX_RATIO:
                    return worst, of
    return worst, of


def test_only_known_modules_compute_their_patterns() -> None:
    assert sorted(COMPUTED) == sorted(set(NOT_CONSTANT))


def test_patterns_are_found() -> None:
    modules = {pattern.module for pattern in FOUND}
    assert {"outpost.commands.values", "outpost.domain.topics", "outpost.adapters.egress.guard"} <= modules
    assert len(FOUND) > 30


def test_every_exemption_is_of_a_module_with_a_pattern() -> None:
    having = {module for module, path in MODULES.items() if "re." in path.read_text("utf-8")}
    unused = [name for name in EXEMPT if not any(m == name or m.startswith(f"{name}.") for m in having)]
    assert [] == unused


@pytest.mark.parametrize("pattern", [*FOUND, *_of_descriptions()], ids=str)
def test_a_pattern_is_linear(pattern: Pattern) -> None:
    ratio, text = _worst(pattern, _pieces(pattern.compiled))
    assert ratio <= MAX_RATIO, f"{pattern.compiled.pattern!r}: {text}"


@pytest.mark.parametrize("text", [rb'"(?:[^"\\]|\\.)*"', rb"a+b", rb"-----BEGIN-----.*?-----END"])
def test_what_is_not_linear_is_found(text: bytes) -> None:
    """The first is the pattern that let a body of 64 kB stop the process for 8 s."""
    pattern = Pattern("here", 0, re.compile(text, re.DOTALL), frozenset({"search"}))
    ratio, _ = _worst(pattern, ['\\"', "a", "-----BEGIN-----"])
    assert ratio > MAX_RATIO
