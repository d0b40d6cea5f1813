"""README, docs and CHANGELOG against the code: what they name by its exact name exists, and the command line has
no command or option that the documents leave out.
"""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from outpost import settings
from outpost.adapters import codes, registry
from outpost.api import app, ops
from outpost.cli import main
from outpost.settings import table as settings_table

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
DOCUMENTS = {"README": README, **PAGES}
DOCS = "\n".join(DOCUMENTS.values())
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
NAMED = re.compile(r"`([^`\n]+)`")
VARIABLE = re.compile(r"(?<![.\w])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
# Words in capitals that name no setting of ours.
NOT_SETTINGS = {"SSL_CERT_FILE", "SESSION_VARIABLES", "READER_LIMIT", "PUBSUB_EMULATOR_HOST"}
# The bench explains its own options, which nobody else needs.
EXPLAINS_ITSELF = "bench"


def code(text: str) -> str:
    """What stands in fences and in backticks."""
    fences = re.findall(r"^```.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return "\n".join([*fences, *NAMED.findall(re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))])


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Long options, of the commands below it too."""
    own = {name for action in parser._actions for name in action.option_strings if name.startswith("--")}
    return (own - {"--help"}).union(*(options(each) for each in commands(parser).values()))


def words(parser: argparse.ArgumentParser) -> set[str]:
    """The words that may stand behind a command: its commands, or the choices of its argument."""
    choices = [
        action.choices
        for action in parser._actions
        if action.choices is not None and not action.option_strings and not isinstance(action.choices, dict)
    ]
    return set(commands(parser)).union(*choices)


def test_the_table_of_codes_has_every_code_and_no_other():
    section = PAGES["destinations"].partition("## Codes of failed attempts")[2].partition("\n#")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    assert sorted(code.value for code in codes.Code) == sorted(NAMED.findall(" ".join(rows)))


def test_the_table_of_types_has_every_type_with_its_bounds():
    section = PAGES["destinations"].partition("# Destinations")[2].partition("\n#")[0]
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d,]+)[^|]*\| ([\d,]+) \|$", section, re.MULTILINE)
    built = registry.build(settings.Settings())
    found = {one.type: built.get(one.type) for one in built.types()}
    assert list(found) == [name for name, *_ in rows]
    assert {name: adapter.max_open for name, adapter in found.items()} == {
        name: int(most.replace(",", "")) for name, _, most in rows
    }


def test_the_example_of_a_type_is_the_one_that_is_tested():
    toy = (ROOT / "tests/harness/toy_destination/__init__.py").read_text()
    page = PAGES["adding-a-type"]
    [example] = re.findall(r"^```python\n(from __future__.*?)\n```$", page, re.DOTALL | re.MULTILINE)
    assert example in toy


COMMANDS = commands(main.parser())
ROWS = {
    name: "\n".join(line for line in PAGES["operations"].splitlines() if line.startswith(f"| `outpost {name}"))
    for name in COMMANDS
}


def test_every_command_has_a_row():
    assert set() == {name for name, row in ROWS.items() if not row}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_rows_of_a_command_name_its_words(name):
    named = {word for text in NAMED.findall(ROWS[name]) for word in re.findall(r"(?<!-)\b[a-z]+\b", text)}
    assert words(COMMANDS[name]) <= named


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {EXPLAINS_ITSELF}))
def test_the_rows_of_a_command_name_its_options_and_no_other(name):
    known = options(COMMANDS[name])
    if name not in ("serve", "demo"):
        known -= {"--config"}  # the same everywhere, told once under Settings
    assert known == set(OPTION.findall(ROWS[name]))


def test_every_option_that_is_named_anywhere_exists():
    known = set().union(*(options(parser) for parser in COMMANDS.values()))
    others = {"--build", "--profile", "--help"}
    assert set() == set(OPTION.findall(code(DOCS))) - known - others


def test_the_command_lines_in_the_fences_are_accepted():
    lines = [
        shlex.split(line, comments=True)[1:]
        for fence in re.findall(r"^```sh\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE)
        for line in fence.splitlines()
        if line.startswith("outpost ")
    ]
    assert 2 <= len(lines)
    for line in lines:
        main.parser().parse_args(line)


@pytest.mark.parametrize("text", [*DOCUMENTS.values(), CHANGELOG], ids=[*DOCUMENTS, "CHANGELOG"])
def test_every_variable_that_is_named_is_a_setting(text):
    known = {variable.env for variable in settings_table.VARIABLES} | NOT_SETTINGS
    assert set() == set(VARIABLE.findall(code(text))) - known


@pytest.mark.parametrize("text", [*DOCUMENTS.values(), CHANGELOG], ids=[*DOCUMENTS, "CHANGELOG"])
def test_every_make_target_that_is_named_exists(text):
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    assert set() == set(re.findall(r"\bmake ([a-z]+)", code(text))) - targets


def test_every_route_that_is_named_exists():
    handlers = [*app._GUARDED, *ops.OPEN, *ops.ROOT]
    routes = {
        (method, re.sub(r":str\b", "", path))
        for handler in handlers
        for method in handler.http_methods
        for path in handler.paths
    }
    named = {
        (method, match[2])
        for match in re.finditer(r"((?:`?(?:GET|PUT|POST|PATCH|DELETE)`?(?:, | and |\s)+)+)(/[a-z_/{}-]+)", README)
        for method in re.findall(r"[A-Z]+", match[1])
    }
    assert 10 <= len(named)
    assert set() == named - routes


@pytest.mark.parametrize("text", [*DOCUMENTS.values(), CHANGELOG], ids=[*DOCUMENTS, "CHANGELOG"])
def test_every_file_that_is_named_exists(text):
    named = set(re.findall(r"`((?:\.|compose|requirements|pyproject)[\w.]*\.(?:yaml|lock|toml|example))`", text))
    assert set() == {name for name in named if not (ROOT / name).exists()}
