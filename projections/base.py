"""What projections share: where they are in the log, how they are, and how long they pause after a failure."""

from __future__ import annotations

import random
from typing import Protocol

from outpost import telemetry
from outpost.log import partition as partitions

Place = tuple[partitions.Stream, int]  # a stream of a partition
EntryKey = tuple[int, int]  # ms and seq of an entry id, which compare in stream order
Checkpoints = dict[Place, EntryKey]  # the entry of each stream up to which everything is applied

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0


class Health(telemetry.Health):
    """How a projection is; beside a store being away, it can be halted where going on would skip entries."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.halted = False

    def halt(self, reason: str) -> None:
        """Nothing is applied until what `reason` says is mended."""
        self.healthy, self.reason, self.halted = False, reason, True

    def rose(self) -> None:
        self.halted = False
        super().rose()


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


class Projector(Protocol):
    """What `runner.drive` drives."""

    health: Health

    async def step(self, block_ms: int = 0) -> int:
        """Applies what is there, after waiting up to `block_ms` for something; the entries applied.
        Raises errors.StoreUnavailable; then nothing is half applied."""
