"""Libraries that only some types need: imported when such a destination is used, named when they are missing."""

from __future__ import annotations

import importlib.util


def missing(type_: str, module: str, extra: str) -> str:
    """The sentence on what to install for `type_`, or "" where `module` is there."""
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is not there
        found = False
    if found:
        return ""
    return f"{type_} needs a library that is not installed: pip install 'outpost-events[{extra}]'"
