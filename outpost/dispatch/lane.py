"""One lane: what waits for a destination, how much of it is under way, and what its last attempt says of it."""

from __future__ import annotations

import time
from collections import deque
from typing import Literal, Protocol

import msgspec

from outpost.queue import base

MOST_WAITING = 20_000
MOST_TIMED_OUT = 100  # where the last attempt timed out: it will not be reached soon
PROBES = 1  # sends at once to a destination that has not answered lately
SHORTEST_DELAY_MS = 1_000
LONGEST_DELAY_MS = 30_000

Key = tuple[str, str, int]  # tenant, destination, the version that made it
Standing = Literal["unknown", "answers", "times_out"]


class Turns(Protocol):
    """Where ready lanes stand; see `turns.Turns`."""

    def add(self, lane: Lane) -> None:
        """Puts it in."""

    def remove(self, lane: Lane) -> None:
        """Takes it out."""


class Lane(msgspec.Struct):
    """The tasks of one destination in this process. `cap` bounds its sends at once."""

    key: Key
    cap: int
    standing: Standing = "unknown"
    waiting: deque[base.Task] = msgspec.field(default_factory=deque)
    in_flight: int = 0
    turn: Turns | None = None  # where it stands
    finished: int = 0
    since: float = msgspec.field(default_factory=time.monotonic)

    @property
    def doubtful(self) -> bool:
        """Whether its sends may be slots lost: it has not answered yet, or did not the last time."""
        return self.standing != "answers"

    @property
    def full(self) -> bool:
        return len(self.waiting) >= (MOST_TIMED_OUT if self.standing == "times_out" else MOST_WAITING)

    def ready(self, probing: bool) -> bool:
        """Whether its next task may be sent. `probing`: a doubtful one gets `PROBES` only."""
        cap = min(PROBES, self.cap) if probing and self.doubtful else self.cap
        return bool(self.waiting) and self.in_flight < cap

    def delay_ms(self) -> int:
        """When a task that finds no room would be reached at the rate of this lane so far."""
        if self.standing == "times_out" or not self.finished:
            return LONGEST_DELAY_MS
        rate = self.finished / max(time.monotonic() - self.since, 0.001)
        return int(min(max(len(self.waiting) / rate * 1000, SHORTEST_DELAY_MS), LONGEST_DELAY_MS))
