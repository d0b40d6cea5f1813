"""The stand-ins of `make bench-destinations`: each runs `MODULE` in a process of its own, so that the CPU time of
the command is that of what sends. They are those of the conformance suite, `tests/harness/destinations`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import msgspec

from outpost.cli.bench import pipe

MODULE = "tests.benchmarks.stage"
ROOT = Path(__file__).parents[2]
START_LIMIT_S = 120.0  # RabbitMQ takes 4 s on a machine with nothing else to do
COUNT_LIMIT_S = 60.0


class Wanted(msgspec.Struct, frozen=True):
    """The first line to a stand-in's process. Answered with `Found`."""

    type: str


class Found(msgspec.Struct, frozen=True):
    """`missing`: what has to be installed for it, "" if nothing has."""

    missing: str


class Ask(msgspec.Struct, frozen=True):
    """`target` makes a place that takes events and is answered with it; the first one starts the service. `count`
    is answered with how many are in `key`, once that are `expected`. `close` stops the service."""

    do: Literal["target", "count", "close"]
    key: str = ""
    expected: int = 0


class Place(msgspec.Struct, frozen=True):
    """What a tenant would save, the settings that Outpost needs for it, and the name for `count`."""

    config: dict[str, str]
    credentials: dict[str, str]
    key: str
    settings: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Place({self.key!r})"


class Count(msgspec.Struct, frozen=True):
    """Events in a place; for `close`, 0."""

    arrived: int


class StandIn:
    """One that runs; see `Ask`."""

    def __init__(self, worker: pipe.Worker) -> None:
        self._worker = worker

    async def target(self) -> Place:
        """A fresh place. Raises `StartRefused` if the service does not start."""
        return msgspec.json.decode(await self._worker.ask(Ask("target"), START_LIMIT_S), type=Place)

    async def arrived(self, place: Place, expected: int) -> int:
        """How many events are there, waiting a while for `expected`."""
        answer = await self._worker.ask(Ask("count", place.key, expected), COUNT_LIMIT_S)
        return msgspec.json.decode(answer, type=Count).arrived


@contextlib.asynccontextmanager
async def opened(type_: str) -> AsyncIterator[StandIn | str]:
    """The stand-in of a type, stopped at the end; or what has to be installed for it. Raises `StartRefused` if it
    does not start."""
    worker, line = await pipe.Worker.start(MODULE, Wanted(type_), folder=ROOT, limit_s=START_LIMIT_S)
    try:
        missing = msgspec.json.decode(line, type=Found).missing
        yield missing or StandIn(worker)
        await worker.ask(Ask("close"), START_LIMIT_S)
    finally:
        await worker.stop()
