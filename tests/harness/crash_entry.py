"""An entry of the test harness: runs a command of ours in a process that kills itself at a named place.

`python -m tests.harness.crash_entry --at MODULE:NAME --when before|after --nth N --set MODULE:NAME=JSON -- ..`
wraps the named function (or `Class.method`) and SIGKILLs the process at its N-th call, before the call or
after it returned. `--set` replaces a constant. The product holds no hook for this: it imports modules, not names,
so that what is replaced in a module is what everybody calls.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import json
import os
import signal
import sys
from typing import Any

from outpost.cli import main as cli


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--at")
    parser.add_argument("--when", choices=["before", "after"], default="before")
    parser.add_argument("--nth", type=int, default=1)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args(argv)
    change(args.set)
    if args.at:
        owner, name = _find(args.at)
        setattr(owner, name, _fatal(getattr(owner, name), args.when, args.nth))
    return cli.main(args.command[1:] if args.command[:1] == ["--"] else args.command)


def change(changes: list[str]) -> None:
    """Replaces constants, each as `MODULE:NAME=JSON`. Raises AttributeError for one that is not there."""
    for one in changes:
        place, _, value = one.partition("=")
        owner, name = _find(place)
        getattr(owner, name)
        setattr(owner, name, json.loads(value))


def _find(place: str) -> tuple[Any, str]:
    module, _, path = place.partition(":")
    owner = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    return owner, name


def _fatal(real: Any, when: str, nth: int) -> Any:
    calls = 0

    def is_last() -> bool:
        nonlocal calls
        calls += 1
        if calls == nth and when == "before":
            _die()
        return calls == nth

    @functools.wraps(real)
    async def call(*args: Any, **kwargs: Any) -> Any:
        last = is_last()
        reply = await real(*args, **kwargs)
        if last:
            _die()
        return reply

    @functools.wraps(real)
    def call_plainly(*args: Any, **kwargs: Any) -> Any:
        last = is_last()
        reply = real(*args, **kwargs)
        if last:
            _die()
        return reply

    return call if inspect.iscoroutinefunction(real) else call_plainly


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
