"""The background loops of a process: started together, watched, and stopped phase by phase.

A stop tells most loops at once, and then waits for them in the order of `STOP_ORDER`. Each phase has a limit of
its own, beyond which its loops are cancelled. What has to happen once a loop can do no more is its `then`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from outpost import errors, telemetry
from outpost.log.redis import client

HTTP_GRACE_S = 3.0  # open requests, at a stop
QUEUE_S = 3.0  # the last messages to a broker confirmed, at a stop
DRAIN_S = 5.5  # sends under way, at a stop: those that time out by default are recorded, too
READ_LIMIT_S = client.BLOCK_MS / 1000 + 1  # a loop sees the stop when its blocking read returns
CLOSE_S = 2.0


class Phase(msgspec.Struct, frozen=True):
    """A step of the stop: its loops have `limit_s` to end. They are told `at_once`, or when their phase begins."""

    name: str
    limit_s: float
    at_once: bool = True


REQUESTS = Phase("requests", HTTP_GRACE_S)
APPENDS = Phase("appends", CLOSE_S, at_once=False)  # requests still need it
CLAIMS = Phase("claims", READ_LIMIT_S)
READS = Phase("reads", READ_LIMIT_S)
QUEUES = Phase("queues", QUEUE_S, at_once=False)  # the dispatcher publishes until reading has ended
SENDS = Phase("sends", DRAIN_S + 1)
PROJECTIONS = Phase("projections", READ_LIMIT_S, at_once=False)  # attempts are recorded until sending has ended
UPKEEP = Phase("upkeep", CLOSE_S)
WATCHES = Phase("watches", 0.0)  # cut off with the connections

# Row after row; in a row, these sequences beside each other.
STOP_ORDER: tuple[tuple[tuple[Phase, ...], ...], ...] = (
    ((REQUESTS, APPENDS), (CLAIMS, READS, QUEUES, SENDS)),
    ((PROJECTIONS,),),
    ((UPKEEP,),),
)


class Loop(msgspec.Struct, frozen=True):
    """Work in the background of a process that ends soon after the event that `run` is given is set.

    `health` is shown by /readyz: a process is not ready while that of a `required` loop is bad, and degraded while
    that of another one is. `then` runs once all loops of the phase have ended.
    """

    name: str
    run: Callable[[asyncio.Event], Coroutine[Any, Any, Any]]
    phase: Phase
    health: telemetry.Health | None = None
    required: bool = True
    then: Callable[[], Coroutine[Any, Any, Any]] | None = None


class Loops:
    """The loops of one process. Raises ValueError if two of them share a name."""

    def __init__(self, loops: Sequence[Loop]) -> None:
        twice = [name for name, count in Counter(loop.name for loop in loops).items() if count > 1]
        if twice:
            raise ValueError(f"two loops are called {twice[0]}")
        self.loops = loops
        self.tasks: dict[str, asyncio.Task[Any]] = {}
        self._told: dict[Phase, asyncio.Event] = {loop.phase: asyncio.Event() for loop in loops}

    def start(self) -> None:
        """Starts every loop."""
        for loop in self.loops:
            self.tasks[loop.name] = asyncio.create_task(loop.run(self._told[loop.phase]), name=loop.name)

    def running(self) -> Mapping[str, bool]:
        """Whether each loop runs, by its name."""
        return {name: not task.done() for name, task in self.tasks.items()}

    async def stop(self) -> None:
        """Stops the loops in `STOP_ORDER`."""
        for phase, told in self._told.items():
            if phase.at_once:
                told.set()
        for row in STOP_ORDER:
            await asyncio.gather(*(self._end(phases) for phases in row))

    async def _end(self, phases: Sequence[Phase]) -> None:
        for phase in phases:
            ending = [loop for loop in self.loops if loop.phase == phase]
            if not ending:
                continue
            self._told[phase].set()
            tasks = [self.tasks[loop.name] for loop in ending]
            await asyncio.wait(tasks, timeout=phase.limit_s)
            await _cancel(tasks)
            for loop in ending:
                if loop.then is not None:
                    await loop.then()

    async def cancel(self) -> None:
        """Ends what still runs."""
        await _cancel(list(self.tasks.values()))


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def best_effort(work: Coroutine[Any, Any, Any]) -> None:
    """Gives `work` `CLOSE_S`; a store that is away is no failure of a stop."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await work
    except (errors.OutpostError, TimeoutError):
        return  # the watchdog brings back what was not given back
