"""What the two processes brought back, put together: the outcome of every event by its number, and the
arrival of every delivery by its key. Pure arithmetic over arrays; no I/O but reading the sample files.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from outpost.cli.bench import wire

ACCEPTED = 202
REFUSALS = frozenset({429, 503})
NS_A_SECOND = 1e9
LATE_NS = 5_000_000  # behind the schedule by more than this is a late send


class Percentiles(msgspec.Struct, frozen=True):
    """Milliseconds; all 0 when nothing was measured."""

    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    max: float = 0.0

    @classmethod
    def of(cls, values_ns: list[int]) -> Percentiles:
        """By nearest rank."""
        if not values_ns:
            return cls()
        ordered = sorted(values_ns)
        ranks = [math.ceil(share * len(ordered)) - 1 for share in (0.5, 0.9, 0.99, 0.999, 1.0)]
        return cls(*(round(ordered[rank] / 1e6, 3) for rank in ranks))


class PhaseSamples:
    """One phase as the generator saw it. Item i of each array is event number `first + i`."""

    def __init__(self, phase: wire.Phase, sent: wire.Sent) -> None:
        self.first = phase.first
        self.closed = phase.closed
        self.interval_ns = phase.interval_ns
        self.answer = sent
        self.sent, self.answered, self.status = array("q"), array("q"), array("h")
        with Path(phase.path).open("rb") as file:
            for samples in (self.sent, self.answered, self.status):
                samples.fromfile(file, sent.issued)

    def scheduled_ns(self, place: int) -> int:
        """When event `first + place` was due; in closed loop that is when it was sent."""
        return self.sent[place] if self.closed else self.answer.start_ns + int(place * self.interval_ns)

    def accepted(self) -> Iterator[int]:
        """The places of the accepted events."""
        return (place for place, status in enumerate(self.status) if status == ACCEPTED)

    def statuses(self) -> Counter[int]:
        """How often each outcome was seen."""
        return Counter(self.status)

    def lateness_ns(self) -> list[int]:
        """How far behind its schedule each event was sent."""
        return [at - self.scheduled_ns(place) for place, at in enumerate(self.sent)]

    def accept_ns(self) -> list[int]:
        """Scheduled to answered, of the accepted events."""
        return [self.answered[place] - self.scheduled_ns(place) for place in self.accepted()]

    def publish_seconds(self) -> float:
        """From the start to the last answer."""
        return (max(self.answered, default=0) - self.answer.start_ns) / NS_A_SECOND


class Arrivals:
    """First arrivals by key (see `wire.key_of`), 0 where nothing came."""

    def __init__(self, path: Path, fan_out: int) -> None:
        self.fan_out = fan_out
        self.first = array("q")
        self.first.frombytes(path.read_bytes())

    def of(self, number: int) -> list[int]:
        """The arrivals of one event, one for each destination of its tenant."""
        start = wire.key_of(number, 0, self.fan_out)
        found = list(self.first[start : start + self.fan_out])
        return found + [0] * (self.fan_out - len(found))

    def latencies_ns(self, phase: PhaseSamples) -> list[int]:
        """Scheduled to arrived, of every delivery of the accepted events."""
        return [
            at - phase.scheduled_ns(place)
            for place in phase.accepted()
            for at in self.of(phase.first + place)
            if at
        ]

    def last_ns(self, phase: PhaseSamples) -> int:
        """When the last delivery of the phase came; its start if none did."""
        keys = (wire.key_of(phase.first + place, 0, self.fan_out) for place in (0, phase.answer.issued))
        return max(self.first[slice(*keys)], default=0) or phase.answer.start_ns
