"""Where the text of a variable comes from: the environment first, then one file, dotenv or YAML.

Values stay text, as written, until a rule parses them: YAML's own ideas of what a number or a boolean is would
turn the key `0123` into 83. Problems name file, line and key, never what stands there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec
import yaml

from outpost.settings.rules import Variable

SEARCHED = (
    ".env",
    ".outpost.yaml",
    "config/outpost.yaml",
    "config/outpost/config.yaml",
    "config/outpost/.env",
    "/config/outpost.yaml",
    "/config/outpost/config.yaml",
    "/config/outpost/.env",
)

# A configuration is a few kilobytes; what is larger is another file given by mistake.
_MAX_FILE_BYTES = 1_048_576
# The longest published path has four parts; an alias that holds itself has no end.
_MAX_YAML_DEPTH = 8

_DOTENV_LINE = re.compile(
    r"""[ \t]*(?:export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*
    (?:'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)"|(?P<bare>(?:[^\s'"#][^\n]*?)?))
    [ \t]*(?:(?<![^\s'"=])\#[^\n]*)?(?:\n|\Z)""",
    re.VERBOSE | re.DOTALL,
)
_DOTENV_BLANK = re.compile(r"[ \t]*(?:\#[^\n]*)?(?:\n|\Z)")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


class Given(msgspec.Struct, frozen=True):
    """What was written for a variable, and where."""

    text: str
    source: Literal["env", "file"]


class ConfigFile(msgspec.Struct, frozen=True):
    """A file as text by key: names of variables in dotenv form, dotted paths in YAML. No path: no file."""

    path: str = ""
    dotenv: bool = False
    values: dict[str, str] = {}
    problems: tuple[str, ...] = ()


def given(variable: Variable, environ: Mapping[str, str], file: ConfigFile) -> Given | None:
    """What counts for this variable. Empty counts as not given, unless the variable says otherwise."""
    text = environ.get(variable.env)
    if text is not None and (text or variable.empty == "always"):
        return Given(text, "env")
    text = file.values.get(variable.env if file.dotenv else variable.yaml)
    # A sample dotenv file lists its variables with nothing behind them: there, empty never counts.
    if text is not None and (text or (variable.empty != "never" and not file.dotenv)):
        return Given(text, "file")
    return None


def read_file(environ: Mapping[str, str], config_path: str | None) -> ConfigFile:
    """The file that was named, by `config_path` or by CONFIG, or else the first of SEARCHED that exists."""
    named = environ.get("CONFIG") or None
    if config_path and named and config_path != named:
        return ConfigFile(problems=("CONFIG and --config name different files: leave one of them out",))
    path = config_path or named or next((path for path in SEARCHED if Path(path).is_file()), None)
    if path is None:
        return ConfigFile()
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        return _broken(path, f"cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        return _broken(path, "is not UTF-8 text")
    if len(raw) > _MAX_FILE_BYTES:
        return _broken(path, f"is larger than {_MAX_FILE_BYTES} bytes")
    return _parse_dotenv(path, text) if path.endswith(".env") else _parse_yaml(path, text)


def _broken(path: str, what: str) -> ConfigFile:
    return ConfigFile(path=path, problems=(f"the configuration file {path} {what}",))


def _parse_dotenv(path: str, text: str) -> ConfigFile:
    values: dict[str, str] = {}
    at = 0
    while at < len(text):
        if blank := _DOTENV_BLANK.match(text, at):
            at = blank.end()
            continue
        line = text.count("\n", 0, at) + 1
        match = _DOTENV_LINE.match(text, at)
        if match is None:
            return _broken(path, f"is broken in line {line}: write NAME=value, in quotes if it has blanks or #")
        if "${" in (match["bare"] or "") + (match["double"] or ""):
            return _broken(path, f"uses ${{..}} in line {line}, which is not replaced here: write out the value")
        values[match["name"]] = _dotenv_value(match)
        at = match.end()
    return ConfigFile(path=path, dotenv=True, values=values)


def _dotenv_value(match: re.Match[str]) -> str:
    if match["single"] is not None:
        return match["single"]
    if match["double"] is not None:
        return re.sub(
            r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), match["double"], flags=re.DOTALL
        )
    return match["bare"] or ""


def _parse_yaml(path: str, text: str) -> ConfigFile:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        # The parser's own text quotes what it does not understand, such as half a password.
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        return _broken(path, f"is not valid YAML{place}")
    if root is None:
        return ConfigFile(path=path)
    if not isinstance(root, yaml.MappingNode):
        return _broken(path, "must hold keys and values")
    values: dict[str, str] = {}
    problems: list[str] = []
    for key, value in _leaves(root, ()):
        if key in values:
            problems.append(f"the configuration file {path} has the key {key} twice")
        elif value is None:
            problems.append(f"the configuration file {path} has a list at {key} that is not one of plain values")
        else:
            values[key] = value
    return ConfigFile(path=path, values=values, problems=tuple(problems))


def _leaves(mapping: yaml.MappingNode, above: tuple[str, ...]) -> Iterator[tuple[str, str | None]]:
    """Dotted path and text of everything that is given; a list is its items with commas between them."""
    for key, value in mapping.value:
        path = (*above, str(key.value))
        if isinstance(value, yaml.MappingNode):
            if len(path) < _MAX_YAML_DEPTH:
                yield from _leaves(value, path)
        elif isinstance(value, yaml.SequenceNode):
            plain = all(isinstance(item, yaml.ScalarNode) and "," not in item.value for item in value.value)
            yield ".".join(path), ",".join(item.value for item in value.value) if plain else None
        elif value.tag != "tag:yaml.org,2002:null":
            yield ".".join(path), value.value
