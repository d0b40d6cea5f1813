"""The statements of `queries.sql`, by name.

A file rather than strings, so that every statement can be read, searched and tried in psql on its own.
"""

from __future__ import annotations

import importlib.resources
import re

_HEAD = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def _load() -> dict[str, str]:
    text = importlib.resources.files("projections.logs").joinpath("queries.sql").read_text("utf-8")
    parts = _HEAD.split(text)[1:]
    bodies = ("\n".join(line for line in body.splitlines() if not line.startswith("--")) for body in parts[1::2])
    return dict(zip(parts[::2], (body.strip() for body in bodies), strict=True))


STATEMENTS = _load()
