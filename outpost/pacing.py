"""How long to wait before trying again, and waiting that ends when the process is to stop."""

from __future__ import annotations

import asyncio
import contextlib
import random

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
