"""One lane: what waits for a destination, how much of it is under way, and what its last attempt says of it."""

from __future__ import annotations

import random
import time
from collections import deque
from typing import Literal, Protocol

import msgspec

from outpost.dispatch.fairness import tenant as tenants
from outpost.queue import base

MOST_WAITING = 20_000
LEAST_WAITING = 1_000  # what a lane that answers may hold however full the process is
ROOM_SHARE = 4  # and beyond that this part of the room that is left, so that some is left for every newcomer
MOST_TIMED_OUT = 100  # where the last attempt timed out: it will not be reached soon
PROBES = 1  # sends at once to a destination that has not answered lately
SHORTEST_DELAY_MS = 1_000
LONGEST_DELAY_MS = 30_000
# Where too much waits for such destinations, and where the last attempt timed out: spread, since what comes back
# is read again.
DOUBTED_DELAY_MS = (5_000, 30_000)
SILENT_DELAY_MS = (30_000, 90_000)
MAX_DELAY_MS = SILENT_DELAY_MS[1]  # of all of them
RATE_OVER_S = 1.0  # the rate of a lane is that of its last second or so
SOONER = 2.0  # what comes back too soon is read and put aside again; what comes too late leaves the lane idle

Key = tuple[str, str, int]  # tenant, destination, the version that made it
Standing = Literal["unknown", "answers", "times_out"]


class Turns(Protocol):
    """Where ready lanes stand; see `turns.Turns`."""

    def add(self, lane: Lane) -> None:
        """Puts it in."""

    def remove(self, lane: Lane) -> None:
        """Takes it out."""


class Lane(msgspec.Struct, eq=False):
    """The tasks of one destination in this process."""

    key: Key
    tenant: tenants.Tenant
    standing: Standing = "unknown"
    waiting: deque[base.Task] = msgspec.field(default_factory=deque)
    in_flight: int = 0
    turn: Turns | None = None  # where it stands
    finished: int = 0
    promised: int = 0  # what `finished` will be when all that was put aside so far is
    rate: float = 0.0  # tasks a second
    measured_at: float = msgspec.field(default_factory=time.monotonic)
    measured: int = 0  # `finished` at that time
    doubtful: bool = True  # its sends may be slots lost: it has not answered yet, or did not the last time

    def __post_init__(self) -> None:
        self.judge(self.standing)

    def judge(self, standing: Standing) -> None:
        """Takes note of what the last attempt told."""
        self.standing = standing
        self.doubtful = standing != "answers"

    def most(self, room: int) -> int:
        """How many may wait, where there is `room` for so many more of its tenant."""
        if room <= 0:
            return 0
        if self.standing == "times_out":
            return MOST_TIMED_OUT
        return min(MOST_WAITING, max(LEAST_WAITING, room // ROOM_SHARE))

    def ready(self, most: int, probing: bool) -> bool:
        """Whether its next task may be sent beside less than `most`, or `PROBES` if `probing` and doubtful."""
        most = min(PROBES, most) if probing and self.doubtful else most
        return bool(self.waiting) and self.in_flight < most

    def put_aside_ms(self, doubted: bool = False) -> int:
        """When one more task that found no room would be reached at the rate of this lane, behind those that wait
        and those that were put aside before. `doubted`: it is for doubt that there is none."""
        self.promised = max(self.promised, self.finished + len(self.waiting)) + 1
        if self.standing == "times_out":
            return random.randint(*SILENT_DELAY_MS)
        if doubted:
            return random.randint(*DOUBTED_DELAY_MS)
        rate = self._rate() * SOONER
        delay_ms = (self.promised - self.finished) / rate * 1000 if rate else SHORTEST_DELAY_MS
        return int(min(max(delay_ms, SHORTEST_DELAY_MS), LONGEST_DELAY_MS))

    def _rate(self) -> float:
        now = time.monotonic()
        passed = now - self.measured_at
        if not self.rate or passed > RATE_OVER_S:
            rate = (self.finished - self.measured) / max(passed, 0.001)
            if passed > RATE_OVER_S:
                self.rate, self.measured_at, self.measured = rate, now, self.finished
            return rate
        return self.rate
