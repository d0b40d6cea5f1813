"""An entry of the test harness: runs a command of ours and writes to a file how long its event loop was held.

`python -m tests.harness.watched_entry --report FILE --set MODULE:NAME=JSON -- serve ..` runs the server on the
event loop of asyncio, where every callback passes through `Handle._run`, so that each one is measured by itself:
in CPU time of its thread, which other processes on a busy machine do not lengthen. Each line of the file is JSON:
a `Held` for a callback that took `REPORTED_S` or longer, and a `Counts` every `COUNTED_EVERY_S`.
With `--own-loop` it runs on the event loop of the product, which is not measured: only counts are written.
"""

from __future__ import annotations

import argparse
import asyncio
import asyncio.events
import gc
import re
import threading
import time
import types
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

import msgspec

from outpost.cli import main as cli
from outpost.cli import serve
from tests.harness import crash_entry, slow_names

REPORTED_S = 0.02
COUNTED_EVERY_S = 0.2
NUMBER = re.compile(r"[-_]\d+")


class Held(msgspec.Struct, frozen=True, tag="held"):
    """A callback of the event loop, in seconds of CPU; `at` is of the clock that all processes share."""

    at: float
    cpu_s: float
    callback: str


class Counts(msgspec.Struct, frozen=True, tag="counts"):
    """How many tasks of each coroutine the event loop has, and threads of each name without its number."""

    at: float
    tasks: dict[str, int]
    threads: dict[str, int]


def read(report: Path) -> list[Held | Counts]:
    """Returns what a process has reported; a line that is being written is left out."""
    if not report.exists():
        return []
    whole, _, _ = report.read_bytes().rpartition(b"\n")
    decoder = msgspec.json.Decoder(Held | Counts)
    return [decoder.decode(line) for line in whole.splitlines()]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--report", required=True)
    parser.add_argument("--own-loop", action="store_true")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args(argv)
    crash_entry.change(args.set)
    slow_names.install()  # for the attack by names, which are slow nowhere else
    with Path(args.report).open("a", buffering=1) as report:
        if not args.own_loop:
            watch(report)
        run = serve.uvloop.run if args.own_loop else asyncio.run
        serve.uvloop = types.SimpleNamespace(run=lambda main: run(_counted(main, report)))  # type: ignore[assignment]
        return cli.main(args.command[1:] if args.command[:1] == ["--"] else args.command)


def watch(report: TextIO) -> None:
    """Reports from now on every callback of any event loop of this process that takes long."""
    run = asyncio.events.Handle._run
    collections = _Collections()
    gc.callbacks.append(collections)

    def timed(handle: asyncio.events.Handle) -> None:
        began, collected_s = time.thread_time(), collections.spent_s
        run(handle)
        if (took := time.thread_time() - began) >= REPORTED_S:
            of_it = collections.spent_s - collected_s
            told = f", {of_it * 1e3:.0f} ms of it collecting garbage" if of_it >= REPORTED_S else ""
            _write(report, Held(time.monotonic(), took, _name(handle) + told))

    asyncio.events.Handle._run = timed  # type: ignore[method-assign]


class _Collections:
    """Adds up the CPU time of the collections of cyclic garbage, which begin in whatever runs."""

    def __init__(self) -> None:
        self.spent_s = 0.0
        self._began = 0.0

    def __call__(self, phase: str, _: object) -> None:
        if phase == "start":
            self._began = time.thread_time()
        else:
            self.spent_s += time.thread_time() - self._began


def _name(handle: asyncio.events.Handle) -> str:
    """The coroutine of a task's step, or the function; never what it was called with."""
    callback: Any = handle._callback  # type: ignore[attr-defined]
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return _coroutine(owner)
    return getattr(callback, "__qualname__", type(callback).__name__)


def _coroutine(task: asyncio.Task[Any]) -> str:
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", type(coroutine).__name__)


async def _counted(main: Any, report: TextIO) -> Any:
    counting = asyncio.create_task(_count(report))
    try:
        return await main
    finally:
        counting.cancel()


async def _count(report: TextIO) -> None:
    while True:
        tasks = Counter(_coroutine(task) for task in asyncio.all_tasks())
        threads = Counter(NUMBER.sub("", thread.name) for thread in threading.enumerate())
        _write(report, Counts(time.monotonic(), dict(tasks), dict(threads)))
        await asyncio.sleep(COUNTED_EVERY_S)


def _write(report: TextIO, line: Held | Counts) -> None:
    report.write(msgspec.json.encode(line).decode() + "\n")


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
