"""The clock of Redis, as its last reply told it: what several processes compare is never a clock of their own."""

from __future__ import annotations

import time


class Clock:
    """Goes on by itself between two replies."""

    def __init__(self) -> None:
        self._ahead_ms: float | None = None  # of the monotonic clock of this process

    def told(self, redis_ms: int) -> None:
        """A reply that has just arrived says so."""
        self._ahead_ms = redis_ms - time.monotonic() * 1000

    def now_ms(self) -> int | None:
        """Unix ms, about a round trip late; None before the first reply."""
        return None if self._ahead_ms is None else int(time.monotonic() * 1000 + self._ahead_ms)
