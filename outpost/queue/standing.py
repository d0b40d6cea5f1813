"""How a broker stands with this process: whether chunks go through it, and what an operator is told of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping

from outpost import telemetry
from outpost.queue import base

AWAY_S = 30.0  # a broker that is away for so long is an obstacle to a process that only delivers
LAG_MS = 5_000  # while what arrives is older than this, new tasks do not queue up behind it


class Standing:
    """Shared by both sides of one queue. `through`: whether new tasks go to the broker."""

    def __init__(self, name: str, names: Mapping[str, str]) -> None:
        self.health = telemetry.Health("queue")
        self._name = name
        self._names = names
        self._sends = True  # as far as is known
        self._receives = False
        self._lag_ms: int | None = None
        self._reached_since_ms: int | None = None
        self._last_error = ""
        self._last_error_ms: int | None = None
        self._counts: Counter[str] = Counter()
        self._away = asyncio.Event()
        self._ever = False  # reached since the start
        self._away_since = time.monotonic()

    @property
    def through(self) -> bool:
        """Both sides work, and what arrives is young."""
        return self._sends and self._receives and (self._lag_ms or 0) <= LAG_MS

    @property
    def reached(self) -> bool:
        """Whether the receiving side is connected."""
        return self._receives

    @property
    def published(self) -> int:
        """Chunks handed to the broker since the start."""
        return self._counts["published"]

    @property
    def away(self) -> bool:
        """The broker was never reached, or not for `AWAY_S`."""
        if self._sends and self._receives:
            return False
        return not self._ever or time.monotonic() - self._away_since >= AWAY_S

    def count(self, what: str, n: int = 1) -> None:
        """Adds to `queue.<what>` and to what `state` tells."""
        self._counts[what] += n
        telemetry.count(f"queue.{what}", n)

    def sending_fell(self, code: str, text: str) -> None:
        """A message was not confirmed."""
        self._sends = False
        self._away.set()
        self._fell(code, text)

    def sending_rose(self) -> None:
        """Messages were confirmed."""
        self._sends = True
        self._away.clear()
        self._rose()

    async def sending_is_away(self) -> None:
        """Returns once `sending_fell`, at once while that is so."""
        await self._away.wait()

    def receiving_fell(self, code: str, text: str) -> None:
        """Nothing can be received, and therefore nothing is sent."""
        self._receives = False
        self._fell(code, text)

    def receiving_rose(self) -> None:
        """The queue can be received from."""
        self._receives = True
        self._rose()

    def arrived(self, age_ms: int | None) -> None:
        """The oldest chunk of what came together has this age; None: nothing waits there."""
        self._lag_ms = age_ms

    def state(self) -> base.State:
        """See `base.Queue`."""
        return base.State(
            broker=self._name,
            names=dict(self._names),
            through="broker" if self.through else "process",
            reached_since_ms=self._reached_since_ms,
            away=self.away,
            last_error=self._last_error,
            last_error_ms=self._last_error_ms,
            lag_ms=self._lag_ms,
            counts=dict(self._counts),
        )

    def _fell(self, code: str, text: str) -> None:
        if self._reached_since_ms is not None:
            self._away_since = time.monotonic()
        self._reached_since_ms = None
        self._last_error, self._last_error_ms = f"{code}: {text}", _now_ms()
        self.health.fell(f"queue {self._name}", f"{code}: {text}")

    def _rose(self) -> None:
        if self._sends and self._receives:
            self._ever = True
            self._reached_since_ms = self._reached_since_ms or _now_ms()
            self.health.rose()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
