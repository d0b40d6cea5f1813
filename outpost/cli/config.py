"""`outpost config list`: every variable, what it comes to, and where that is from.

It never stops at a problem, because it is what an operator runs when nothing starts. Of a secret it says only
whether it is set.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import msgspec
from rich.console import Console
from rich.table import Table

from outpost.cli import local
from outpost.settings import load as settings_load
from outpost.settings import table as settings_table
from outpost.settings import urls
from outpost.settings.load import Resolved
from outpost.settings.rules import Variable

_HEADINGS = ("variable", "value", "from", "note")
# Longer values are cut on a terminal and in plain text alike; nothing published is longer by nature.
_MAX_VALUE_CHARACTERS = 80
# Secrets of which the place is shown.
_SHOWN_URLS = ("POSTGRES_URL", "REDIS_URL")


class Row(msgspec.Struct, frozen=True):
    """One line of the list, as text."""

    variable: str
    value: str
    source: str
    note: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The action and its options."""
    parser.add_argument("action", choices=["list"])
    local.add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the list for the environment of this process."""
    return list_settings(os.environ, args.config, sys.stdout)


def list_settings(environ: Mapping[str, str], config_path: str | None, out: TextIO) -> int:
    """Prints the list and then every problem. The exit status is 0 even with problems: listing worked."""
    resolved = settings_load.resolve(environ, config_path, None)
    rows = [_row(variable, resolved) for variable in settings_table.VARIABLES]
    if out.isatty():
        _print_table(rows, out)
    else:
        _print_plain(rows, out)
    out.write(f"\nconfiguration file: {resolved.file.path or 'none'}\n")
    if resolved.unknown:
        out.write(f"keys of the file that mean nothing here: {', '.join(resolved.unknown)}\n")
    if resolved.problems:
        out.write(f"\n{len(resolved.problems)} problem(s); `outpost serve` would not start:\n")
        out.writelines(f"- {problem}\n" for problem in resolved.problems)
    return 0


def _row(variable: Variable, resolved: Resolved) -> Row:
    given = resolved.given.get(variable.env)
    note = ""
    if variable.idle:
        note = f"no effect: {variable.idle}"
    elif variable.refused:
        note = "refused" if variable.env in resolved.broken else ""
    source = given.source if given else "default" if variable.field else ""
    return Row(variable.env, _value(variable, resolved), source, note)


def _value(variable: Variable, resolved: Resolved) -> str:
    given = resolved.given.get(variable.env)
    if variable.env in resolved.broken and not variable.refused:
        return "(invalid)"
    value: Any = given.text if given else None
    if variable.field and variable.rule and not _is_switch(variable):
        value = getattr(resolved.settings, variable.field)
        if not variable.secret and value not in {None, ""}:
            value = variable.rule.show(value)
    if variable.env in _SHOWN_URLS and value:
        url = urls.parse(str(value))
        return "set" if url is None else _cut(url.shown())
    if variable.secret:
        return "set" if value else "not set"
    if value is None or (value == "" and given is None):
        return "not set"
    return _one_line(str(value))


def _is_switch(variable: Variable) -> bool:
    """The deprecated switches set the field of another variable: show what was written, not the field."""
    return variable.env.startswith("DESTINATIONS_WEBHOOK_DISABLE_")


def _one_line(value: str) -> str:
    if not value.strip():
        return '""'
    if "://" in value and "@" in value:
        return "set"
    return _cut(value)


def _cut(value: str) -> str:
    text = value if value.isprintable() else repr(value)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else text[: _MAX_VALUE_CHARACTERS - 1] + "…"


def _print_table(rows: list[Row], out: TextIO) -> None:
    table = Table(*_HEADINGS, box=None, pad_edge=False)
    for row in rows:
        table.add_row(row.variable, row.value, row.source, row.note)
    Console(file=out, markup=False, highlight=False).print(table)


def _print_plain(rows: list[Row], out: TextIO) -> None:
    lines = [_HEADINGS, *((row.variable, row.value, row.source, row.note) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        out.write("  ".join([*cells, line[3]]).rstrip() + "\n")
