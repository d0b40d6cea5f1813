"""What the roles of a process have in common: what they are made from, and what the process asks of each."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from outpost import crypto
from outpost.adapters import registry as registries
from outpost.log import append, budget
from outpost.log.redis import client
from outpost.log.upkeep import usage
from outpost.process import loops
from outpost.settings import Settings
from projections.logs import store as stores


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What a process opens once, for all of its roles."""

    settings: Settings
    log: client.Log
    store: stores.Store
    types: registries.Registry
    sealer: crypto.Sealer
    namespace_id: str  # names the log


class Role:
    """A part of what a process does."""

    async def prepare(self) -> list[str]:
        """Looks at what it needs beside the stores; every problem that is certain, a sentence each."""
        return []

    def loops(self) -> Sequence[loops.Loop]:
        """Its background loops."""
        return ()

    def obstacles(self) -> Sequence[str]:
        """Why it cannot do its work now, beside the health of its loops."""
        return ()

    def setbacks(self) -> Sequence[str]:
        """What of its work it cannot do now, beside the health of its loops."""
        return ()

    async def close(self) -> None:
        """Closes what it has opened, once its loops have ended."""


class Memory(Role):
    """What a process that publishes or delivers knows of the memory of Redis."""

    def __init__(self, parts: Parts) -> None:
        self.window = append.Window(parts.settings.publish_idempotency_ttl_ms)
        self.budget = budget.Budget(parts.settings.redis_memory_budget_bytes)
        self._usage = usage.Watch(parts.log, self.window, self.budget)

    def loops(self) -> Sequence[loops.Loop]:
        """The estimate of what Redis holds."""
        return (loops.Loop("budget", self._usage.run, loops.WATCHES),)


def now_ms() -> int:
    """The clock of this process: Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
