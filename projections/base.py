"""What projections share: where they are in the log, and how they are."""

from __future__ import annotations

from typing import Protocol

from outpost import telemetry
from outpost.log import partition as partitions

Place = tuple[partitions.Stream, int]  # a stream of a partition
EntryKey = tuple[int, int]  # ms and seq of an entry id, which compare in stream order
Checkpoints = dict[Place, EntryKey]  # the entry of each stream up to which everything is applied


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


class Projector(Protocol):
    """What `runner.drive` drives."""

    health: Health

    async def step(self, block_ms: int = 0) -> int:
        """Applies what is there, after waiting up to `block_ms` for something; the entries applied.
        Raises errors.StoreUnavailable; then nothing is half applied."""
