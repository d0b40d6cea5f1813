"""Destinations that have not answered lately, all together: what of the process they may hold, and how fast.

Their sends end together, at the time-out, and are then recorded and begun anew together: a thousand in the same
moment hold up the loop, and whoever is healthy with it. So they start one after another, no faster than would fill
their slots in a part of a time-out. A destination that answers gives back what its probe took: new ones that are
healthy pay nothing.
"""

from __future__ import annotations

import time

from outpost.dispatch.fairness import lane as lane_rules

MOST_STANDINGS = 100_000  # destinations of which the last outcome is remembered
KNOCKING, FIRST_KNOCK = 1.5, 1.75  # times the bound: what waits for a destination that nobody has tried yet
AT_ONCE = 16  # probes that start together


class Doubt:
    """What is doubted in a process. `slots` bounds its sends at once, `tasks` what waits; sends start no faster
    than `slots` in `fill_s` seconds (0: as fast as they may). `slots` None: nothing is ever doubted."""

    def __init__(self, slots: int | None, tasks: int, fill_s: float) -> None:
        self._slots = slots
        self._tasks = tasks
        self._each_s = 0.0 if slots is None else fill_s / slots
        self._ahead = 0.0  # probes under way or started just now, less those that had the time to start
        self._at = time.monotonic()
        self._standings: dict[lane_rules.Key, lane_rules.Standing] = {}
        self.in_flight = 0
        self.waiting = 0

    @property
    def off(self) -> bool:
        """Whether no difference is made."""
        return self._slots is None

    def of(self, lane: lane_rules.Lane) -> bool:
        """Whether its sends may be slots lost."""
        return self._slots is not None and lane.doubtful

    def standing(self, key: lane_rules.Key) -> lane_rules.Standing:
        """What the last attempt told."""
        return self._standings.get(key, "unknown")

    def learn(self, key: lane_rules.Key, standing: lane_rules.Standing) -> None:
        """What an attempt told. One that was doubted and answers gives its turn to another."""
        before = self._standings.pop(key, "unknown")
        self._standings[key] = standing
        while len(self._standings) > MOST_STANDINGS:
            del self._standings[next(iter(self._standings))]
        if before != "answers" and standing == "answers":
            self._ahead = max(0.0, self._ahead - 1)

    def may_start(self) -> bool:
        """Whether one more probe may start now; `started` if it does."""
        return self._slots is None or (self.in_flight < self._slots and self.wait_s() == 0)

    def started(self) -> None:
        """A probe was taken."""
        self._ahead += 1

    def wait_s(self) -> float:
        """How long until the pace lets another start."""
        if not self._each_s:
            return 0.0
        now = time.monotonic()
        self._ahead = max(0.0, self._ahead - (now - self._at) / self._each_s)
        self._at = now
        most = AT_ONCE - 1
        return 0.0 if self._ahead <= most else (self._ahead - most) * self._each_s

    def holds_its_part(self, lane: lane_rules.Lane) -> bool:
        """Whether nothing more may wait in this lane, since so much waits for such. A newcomer finds room for
        longer, and its first task for longer still."""
        if not self.of(lane):
            return False
        if lane.standing == "times_out":
            return self.waiting >= self._tasks
        return self.waiting >= self._tasks * (KNOCKING if lane.waiting else FIRST_KNOCK)
