"""How background loops go on: step after step until the process is to stop, with growing pauses after failures."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator

from outpost import errors, telemetry

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


class Pause:
    """Pauses that double from failure to failure, each with jitter, so that processes do not return at once."""

    def __init__(self, first_s: float = FIRST_PAUSE_S, longest_s: float = LONGEST_PAUSE_S) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._failures = 0

    def next_s(self) -> float:
        """The pause after one more failure, in seconds: half to all of the doubled one, at most the longest."""
        full = min(self._first_s * float(1 << min(self._failures, 30)), self._longest_s)
        self._failures += 1
        return full * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """After a success the next failure is the first again."""
        self._failures = 0


async def sleep(seconds: float, stop: asyncio.Event) -> None:
    """Sleeps, but no longer than until `stop`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds)):
            await stop.wait()


@contextlib.contextmanager
def waking(stop: asyncio.Event, wake: Callable[[], None]) -> Iterator[None]:
    """Calls `wake` when `stop` is set, for a loop inside that waits for something else than `stop`."""
    waiting = asyncio.create_task(stop.wait())
    waiting.add_done_callback(lambda task: None if task.cancelled() else wake())
    try:
        yield
    finally:
        waiting.cancel()


async def repeat(
    step: Callable[[], Awaitable[float | None]],
    stop: asyncio.Event,
    health: telemetry.Health,
    pause: Pause | None = None,
    *,
    failures: type[errors.OutpostError] = errors.StoreUnavailable,
    judge: Callable[[], None] | None = None,
) -> None:
    """Runs `step` again and again until `stop` is set, and keeps `health`.

    A step returns for how many seconds to sleep before the next one (0: not at all), or None if there was nothing
    to do, which says nothing of the store. A step that raises one of `failures` is followed by a growing pause.
    `judge` is called after a step that succeeded, in place of `health.rose`.
    """
    pause, judge = pause or Pause(), judge or health.rose
    while not stop.is_set():
        try:
            wait_s = await step()
        except failures as exc:
            if isinstance(exc, errors.StoreUnavailable):
                health.fell(exc.store, exc.reason)
            else:
                health.fell("redis", type(exc).__name__)
            wait_s = pause.next_s()
        else:
            if wait_s is None:
                continue
            judge()
            pause.reset()
        if wait_s > 0:
            await sleep(wait_s, stop)


async def every(
    seconds: float,
    step: Callable[[], Awaitable[object]],
    stop: asyncio.Event,
    health: telemetry.Health,
    pause: Pause | None = None,
) -> None:
    """Runs `step` every `seconds` until `stop` is set, as `repeat` does."""

    async def one() -> float:
        await step()
        return seconds

    await repeat(one, stop, health, pause)
