"""One phase of load inside the generator: which event is due when, and what was sent and answered when and how.
Samples are kept in arrays that are made before the phase, so that noting one costs next to nothing.
"""

from __future__ import annotations

import asyncio
import sys
from array import array
from pathlib import Path
from time import monotonic_ns

from outpost.cli.bench import wire

LEAD_NS = 50_000_000  # between the decision to start and the first event
GROWTH = 65_536


class Load:
    """One phase: what was sent when, what was answered when and how."""

    def __init__(self, phase: wire.Phase) -> None:
        self.phase = phase
        size = GROWTH if phase.closed else phase.count
        self.sent = array("q", bytes(8 * size))
        self.answered = array("q", bytes(8 * size))
        self.status = array("h", bytes(2 * size))
        self.start_ns = monotonic_ns() + LEAD_NS
        self.end_ns = self.start_ns + int(phase.seconds * 1e9)
        self.issued = self.finished = self.blocked = self.resent = 0
        self.over = asyncio.get_running_loop().create_future()

    def due(self, now: int) -> int:
        """How many events are due by `now`."""
        if self.phase.closed:
            return sys.maxsize if self.start_ns <= now < self.end_ns else self.issued
        return min(self.phase.count, int((now - self.start_ns) // self.phase.interval_ns) + 1)

    def issue(self) -> int:
        """The next event's place in the arrays, which grow in closed loop."""
        place = self.issued
        self.issued = place + 1
        if place == len(self.sent):
            self.sent.frombytes(bytes(8 * GROWTH))
            self.answered.frombytes(bytes(8 * GROWTH))
            self.status.frombytes(bytes(2 * GROWTH))
        return place

    def finish(self, place: int, status: int) -> None:
        """Note an answer, or the loss of its connection."""
        now = self.answered[place] = monotonic_ns()
        self.status[place] = status
        self.finished += 1
        if self.finished == self.issued and not self.over.done():
            whole = now >= self.end_ns if self.phase.closed else self.issued == self.phase.count
            if whole:
                self.over.set_result(None)

    def report(self) -> wire.Sent:
        """Write the arrays to the phase's file and say what they hold."""
        issued = self.issued
        with Path(self.phase.path).open("wb") as file:
            for samples in (self.sent, self.answered, self.status):
                samples[:issued].tofile(file)
        scheduled = issued if self.phase.closed else self.phase.count
        return wire.Sent(
            start_ns=self.start_ns, issued=issued, scheduled=scheduled, blocked=self.blocked, resent=self.resent
        )
