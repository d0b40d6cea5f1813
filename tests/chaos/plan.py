"""What happens when: a pure function of the seed, so that a run can be repeated.

Kinds are dealt from a shuffled deck, so that a short run has of everything too. What comes of a step is up to the
processes: the same plan meets them at another moment each time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec

QUIET_S = 2.0  # nothing happens at first, and nothing begins that late before the end
SHORTEST_GAP_S, LONGEST_GAP_S = 0.3, 2.0
STORES = ("redis", "postgres")
MOODS = ("slow", "failing", "wordy", "hanging", "resetting")
# How far the wall clock of a store or a process is stepped ahead of the machine's, or behind it, in seconds.
OFFSETS_S = (-60.0, -20.0, -5.0, -1.0, 0.0, 1.0, 5.0, 20.0, 60.0)
LONGEST_STEP_S = max(OFFSETS_S) - min(OFFSETS_S)
LAYOUTS = (("all", "all"), ("api", "delivery", "log"), ("all", "api", "delivery"))

# Kind -> the shortest and longest time that it lasts, in seconds. Longer than the leases and timeouts of the run,
# shorter than what a start waits for a store.
KINDS = {
    "kill process": (0.0, 1.5),
    "pause process": (0.3, 4.0),
    "kill store": (0.0, 1.5),
    "pause store": (0.3, 5.0),
    "reset connections": (0.0, 0.0),
    "cut an answer": (0.0, 0.0),
    "stall connections": (0.3, 5.0),
    "refuse connections": (0.3, 3.0),
    "delay connections": (1.0, 4.0),
    "receiver in a mood": (1.0, 5.0),
    "reset the receiver": (0.0, 0.0),
    "half-open receiver": (1.0, 4.0),
    "disable a destination": (0.2, 3.0),
    "change topics": (0.2, 3.0),
    "delete a destination": (0.2, 3.0),
    "ask for retries": (0.0, 0.0),
    "ask for a burst of retries": (0.0, 0.0),
    "publish large events": (0.0, 0.0),
    "publish to thousands": (0.0, 0.0),
    "slow link": (2.0, 5.0),
    "memory at its limit": (1.0, 4.0),
    "another window": (0.0, 0.0),
    "replica takes over": (0.0, 0.0),
    "step the store's clock": (0.0, 0.0),
    "step a process's clock": (0.0, 0.0),
}
DECK = (
    *KINDS,
    "kill process",
    "kill process",
    "kill store",
    "kill store",
    "pause store",
    "step the store's clock",
)


class Step(msgspec.Struct, frozen=True):
    """`kind` of KINDS, begun `at_s` after the start and over `for_s` later. `store` and `mood` say of which, where
    that is asked; `number` chooses among processes, destinations, bytes, offsets of a clock."""

    at_s: float
    kind: str
    for_s: float
    store: str
    mood: str
    number: int

    @property
    def offset_s(self) -> float:
        """Where it steps a clock to."""
        return OFFSETS_S[self.number % len(OFFSETS_S)]

    def __str__(self) -> str:
        of = {"receiver in a mood": self.mood, "kill store": self.store, "pause store": self.store}
        if "clock" in self.kind:
            of[self.kind] = f"{self.offset_s:+.0f} s"
        what = of.get(self.kind, self.store if "connections" in self.kind or "answer" in self.kind else "")
        lasts = f" for {self.for_s:.1f} s" if self.for_s else ""
        return f"{self.at_s:6.1f} s  {self.kind}{what and f' ({what})'}{lasts}"


def layout(seed: int) -> tuple[str, ...]:
    """The services of the processes of this run."""
    return LAYOUTS[seed % len(LAYOUTS)]


def steps(seed: int, seconds: float) -> Iterator[Step]:
    """The steps of a run, in order of their time."""
    chance = random.Random(seed)
    at_s, deck = QUIET_S, list[str]()
    while at_s < seconds - QUIET_S:
        if not deck:
            deck = chance.sample(DECK, len(DECK))
        kind = deck.pop()
        for_s = chance.uniform(*KINDS[kind])
        yield Step(at_s, kind, for_s, chance.choice(STORES), chance.choice(MOODS), chance.randrange(1_000))
        at_s += chance.uniform(SHORTEST_GAP_S, LONGEST_GAP_S)
