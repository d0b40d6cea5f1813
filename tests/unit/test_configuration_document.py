"""`docs/configuration.md` is made from the table of settings: `make docs` writes it, a test compares it."""

from __future__ import annotations

from pathlib import Path

from outpost import settings
from outpost.settings import about, table
from outpost.settings.rules import Variable

DOCUMENT = Path(__file__).parents[2] / "docs/configuration.md"

HEAD = """# Configuration

Outpost reads its settings from the environment, or from a YAML or `.env` file (`--config`, `CONFIG`), under the
names of the published server; the environment wins. **`outpost config list`** shows every variable, its value with
secrets masked, where that is from, and whether it has an effect. A start that cannot use its settings says every
problem at once. This page is made from the code by `make docs`.

## Settings

| variable | in YAML | default | what it is for |
|---|---|---|---|
"""
IDLE = """
## Accepted without effect

An environment file of the published server may name these. `outpost config list` says of each why it does nothing.

"""
REFUSED = """
## Refused until it is built

These would change what is stored or sent, so the start is refused where one of them is set.

"""


def document() -> str:
    """The whole page."""
    rows = [_row(variable) for variable in table.VARIABLES if variable.field]
    idle = sorted(f"`{variable.env}`" for variable in table.VARIABLES if variable.idle)
    refused = sorted(f"`{variable.env}`" for variable in table.VARIABLES if variable.refused)
    return "\n".join([HEAD + "\n".join(rows), IDLE + _wrapped(idle), REFUSED + _wrapped(refused), ""])


def _row(variable: Variable) -> str:
    assert variable.rule is not None
    value = getattr(settings.Settings(), variable.field)
    default = "" if value in ("", (), None) else f"`{variable.rule.show(value)}`"
    if variable.env == "HTTP_USER_AGENT":
        default = "`Outpost/` and the version"
    return f"| `{variable.env}` | `{variable.yaml}` | {default} | {about.ABOUT[variable.env]} |"


def _wrapped(names: list[str]) -> str:
    lines = [""]
    for name in names:
        if len(lines[-1]) + len(name) + 2 > 115:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{name},"
    return "\n".join(lines).removesuffix(",") + "."


def test_every_variable_that_sets_something_is_explained() -> None:
    assert {variable.env for variable in table.VARIABLES if variable.field} == set(about.ABOUT)


def test_the_page_is_made_from_the_table() -> None:
    assert document() == DOCUMENT.read_text("utf-8"), "run `make docs`"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), "utf-8")
