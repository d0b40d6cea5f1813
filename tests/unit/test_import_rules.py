"""The layers, held against the syntax trees: who imports whom, who writes to the log, who spells its keys."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "outpost" / "log" / "scripts"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("outpost", "projections")
    for path in sorted((ROOT / folder).rglob("*.py"))
}

# The short modules at the top, which everybody may use; each may use those of them that it needs.
SHORT = {
    "collecting",
    "errors",
    "ids",
    "settings",
    "telemetry",
    "crypto",
    "cursor",
    "pacing",
    "terminal",
    "json_grammar",
    "json_values",
}
# What puts a process together may use everything, and nobody else may use it.
WIRING = {"cli", "process", "__main__"}

# Beside the short modules and itself, a package may import only these (a package stands for its modules).
ALLOWED: dict[str, set[str]] = {
    "outpost.domain": set(),
    "outpost.log": {"outpost.domain"},
    "outpost.adapters": {"outpost.domain"},
    # Brokers are reached by the connections of the destination types.
    "outpost.queue": {"outpost.domain", "outpost.adapters", "outpost.log.partition"},
    "outpost.commands": {
        "outpost.log",
        "outpost.domain",
        "outpost.adapters.base",  # the structs of the protocol that the registry hands out
        "outpost.adapters.registry",
        "outpost.queue.broker",  # the publish queue
        "projections.config",
    },
    "outpost.dispatch": {
        "outpost.log",
        "outpost.domain",
        "outpost.queue",
        "outpost.adapters",
        "outpost.commands",
        "projections.config",
        "projections.alerts",
        "projections.due.repair",  # who sees a missing group mends it
    },
    "outpost.api": {
        "outpost.commands",
        "outpost.domain",
        "outpost.adapters.base",
        "outpost.adapters.registry",
        # Reading the log, never writing to it.
        *(f"outpost.log.{name}" for name in ("redis.client", "upkeep.lag", "partition", "position", "read")),
        "projections.config.catch_up",
        "projections.config.query",
        *(f"projections.logs.{name}" for name in ("deliveries", "paging", "query", "rows", "store")),
        "projections.logs.write",  # for where its checkpoints stand, which /readyz tells
    },
    "outpost.embedded": set(),
    "projections": {"outpost.log", "outpost.domain", "projections"},
}
# Pure: no I/O, no clock, no randomness. Nothing of the standard library beyond these.
PURE = [name for name in MODULES if re.fullmatch(r"projections\.\w+\.(apply|fold)|outpost\.domain(\.\w+)?", name)]
PURE_LIBRARY = {
    *(
        "__future__",
        "collections",
        "collections.abc",
        "datetime",
        "functools",
        "math",
        "msgspec",
        "operator",
        "re",
    ),
    *("typing",),
}
CLOCKS = {"now", "utcnow", "today"}
# The modules whose scripts write entries, and nobody else does.
WRITERS = {
    "append": "outpost.log.append",
    "begin": "outpost.log.delivery.tasks",
    "record": "outpost.log.delivery.tasks",
    "request": "outpost.log.delivery.requests",
}
# Folders of the repository that no package brings along.
OUTSIDE = {"tests", "docs", "examples"}
DOTTED = re.compile(r"(?<![\w./])(?:outpost|projections|tests|docs|examples)(?:\.[A-Za-z_]\w*)+(?![\w/])")
IMPORTERS = {"import_module", "__import__", "run_module", "run_path", "entry_points", "exec", "eval"}
# Who uses one of these, and where the names are from.
IMPORTS_BY_NAME = {
    "outpost.cli.main": "import_module",  # COMMANDS, texts in the same module
    "outpost.adapters.shared.resources": "import_module",  # texts in the modules of the types
    "outpost.queue.selected": "import_module",  # texts in the same module
    "outpost.adapters.registry": "entry_points",  # types of other packages
}
KEY_NAMES = re.compile(r":(cfg|evt|dlv|ver|due|want|mend|gen|idem|ck|slots|meta|lease)(:|$)|:t:|\{p[0-9]{2}")


@functools.cache
def _imports(name: str) -> tuple[str, ...]:
    """Every module that a module imports, wherever in it, or names in a text, which is how a table, `importlib` or
    `python -m` gets at one."""
    return tuple(_imported_by(_tree(name), name))


def _imported_by(tree: ast.Module, name: str) -> Iterator[str]:
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports relatively"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else str(node.module)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
            yield from _named_in(node.value)


def _named_in(text: str) -> Iterator[str]:
    """The modules in a text, by their dotted names; those outside the product, too. `outpost` alone is a word."""
    for found in DOTTED.findall(text):
        if found.partition(".")[0] in OUTSIDE:
            yield found
        module = found
        while "." in module and module not in MODULES:
            module = module.rpartition(".")[0]
        if "." in module:
            yield module


@functools.cache
def _tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text("utf-8"))


@functools.cache
def _ours(name: str) -> list[str]:
    return sorted({each for each in _imports(name) if each.split(".")[0] in {"outpost", "projections"}})


def _within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _rule(name: str) -> tuple[str, set[str]] | None:
    package = next((p for p in ALLOWED if _within(name, {p})), None)
    return None if package is None else (package, ALLOWED[package])


def _top(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def test_every_module_has_a_rule() -> None:
    rest = {name for name in MODULES if _rule(name) is None and _top(name) not in WIRING}
    assert {"outpost"} == {name for name in rest if _top(name) not in SHORT}
    assert {_top(name) for name in rest} - {""} == SHORT


@pytest.mark.parametrize("name", sorted(name for name in MODULES if _rule(name)))
def test_a_module_imports_only_what_its_layer_may(name: str) -> None:
    rule = _rule(name)
    assert rule is not None
    package, allowed = rule
    free = {f"outpost.{short}" for short in SHORT} if package != "outpost.domain" else set()
    assert [] == [each for each in _ours(name) if not _within(each, allowed | free | {package})]


@pytest.mark.parametrize("name", sorted(name for name in MODULES if _top(name) in SHORT))
def test_a_short_module_imports_only_its_likes(name: str) -> None:
    assert [] == [each for each in _ours(name) if _top(each) not in SHORT]


def test_only_what_puts_a_process_together_fills_the_settings() -> None:
    filling = {f"outpost.settings.{name}" for name in ("load", "sources", "table", "unbuilt")}
    found = {n for n in MODULES if _top(n) not in {*WIRING, "settings"} for each in _ours(n) if each in filling}
    assert set() == found


def test_the_product_names_nothing_that_no_package_brings_along() -> None:
    assert [] == [(n, each) for n in MODULES for each in _imports(n) if each.partition(".")[0] in OUTSIDE]


def test_few_modules_import_by_a_name_that_they_are_given() -> None:
    found = {
        name: node.attr if isinstance(node, ast.Attribute) else node.id
        for name in MODULES
        for node in ast.walk(_tree(name))
        if (isinstance(node, ast.Attribute) and node.attr in IMPORTERS)
        or (isinstance(node, ast.Name) and node.id in IMPORTERS)
    }
    assert IMPORTS_BY_NAME == found


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("import outpost.cli.main", ["outpost.cli.main"]),
        ("def f():\n    from outpost.cli import main", ["outpost.cli.main"]),
        ('importlib.import_module("outpost.cli.main")', ["outpost.cli.main"]),
        ('TABLE = {"a": "outpost.cli.main:main"}', ["outpost.cli.main"]),
        ('run(["python", "-m", "tests.chaos"])', ["tests.chaos"]),
        ('run("python -m tests.harness.node 7")', ["tests.harness.node"]),
        ('f"projections.logs.write.{name}"', ["projections.logs.write"]),
        ('"""outpost.cli.main says so."""', []),
        ('".outpost.yaml", "outpost.destinations", "outpost"', []),
        ('"https://example.com/outpost.cli.main/docs.html"', []),
    ],
)
def test_a_module_that_a_text_names_is_an_import(program: str, expected: list[str]) -> None:
    assert expected == list(_imported_by(ast.parse(program), "program"))


def test_nobody_imports_what_puts_a_process_together() -> None:
    found = [(n, each) for n in MODULES if _top(n) not in WIRING for each in _ours(n) if _top(each) in WIRING]
    assert [] == found


@pytest.mark.parametrize("name", PURE)
def test_what_is_pure_has_no_clock_no_randomness_and_no_way_out(name: str) -> None:
    allowed = {"outpost.domain", "outpost.json_grammar"}  # which is pure itself
    foreign = {each for each in _imports(name) if not _within(each, allowed)}
    assert set() == foreign - PURE_LIBRARY
    called = {node.func.attr for node in ast.walk(_tree(name)) if _calls_attribute(node)}
    assert set() == called & CLOCKS
    names = {node.id for node in ast.walk(_tree(name)) if isinstance(node, ast.Name)}
    assert set() == names & {"open", "print", "input", "eval", "exec"}


def _calls_attribute(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)


def _scripts_of(name: str) -> set[str]:
    return {
        node.args[0].value
        for node in ast.walk(_tree(name))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "load_script"
        and isinstance(node.args[0], ast.Constant)
    }


def test_entries_are_written_by_four_scripts_and_each_has_one_wrapper() -> None:
    """Every XADD stands in `log/append`, `log/tasks`, `log/requests` or their scripts."""
    writing = {path.stem for path in SCRIPTS.glob("*.lua") if re.search(r"\bXADD\b", path.read_text("utf-8"))}
    assert {*WRITERS} == writing
    loaded = {script: name for name in MODULES for script in _scripts_of(name)}
    assert WRITERS == {script: name for script, name in loaded.items() if script in writing}
    spelt = [name for name in MODULES if "xadd" in MODULES[name].read_text("utf-8").lower()]
    assert [] == spelt


def test_every_script_is_loaded_by_one_module_of_the_log() -> None:
    loaded = [(script, name) for name in MODULES for script in _scripts_of(name)]
    assert sorted(path.stem for path in SCRIPTS.glob("*.lua")) == sorted(script for script, _ in loaded)
    assert all(_within(name, {"outpost.log"}) for _, name in loaded)


def test_only_one_module_spells_the_keys_of_the_log() -> None:
    found = []
    for name in MODULES:
        if name == "outpost.log.partition":
            continue
        documented = {id(node.value) for node in ast.walk(_tree(name)) if isinstance(node, ast.Expr)}
        found += [
            (name, node.value)
            for node in ast.walk(_tree(name))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented
            if KEY_NAMES.search(node.value)
        ]
    assert [] == found


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.lua")), ids=lambda path: path.stem)
def test_a_script_is_short_and_says_what_it_takes_and_keeps(path: Path) -> None:
    text = path.read_text("utf-8")
    header = "".join(f"{line[2:].strip()} " for line in text.split("\n") if line.startswith("--"))
    assert len(text.splitlines()) <= 80
    assert text.startswith("-- ")
    for part in ("KEYS:", "ARGV:", "Returns "):
        assert part in header
    assert "XADD" not in text or "Invariant:" in header
    assert "cjson" not in text  # it makes {} of [] and rounds numbers
    assert "redis.pcall" not in text  # an error has to end the script
    assert "KEYS[1] .." not in text  # a key that is put together is not declared


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_opens_by_saying_what_it_is(name: str) -> None:
    text = MODULES[name].read_text("utf-8")
    assert not text.strip() or ast.get_docstring(_tree(name))
