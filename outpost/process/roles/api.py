"""The role `api`: the HTTP API with its appends, and the config read model that it reads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from outpost import pacing
from outpost.api import app as api
from outpost.api import publish as publish_route
from outpost.commands import destinations, publish, writer
from outpost.log import append
from outpost.log import partition as log_partitions
from outpost.process import loops, queues
from outpost.process.roles import base
from projections.config import cache, catch_up


class Api(base.Role):
    """The parts of the role. `health` tells how the loops of this process are."""

    def __init__(self, parts: base.Parts, health: api.Health, memory: base.Memory) -> None:
        writes = writer.Writer(parts.log, memory.window)
        self._budget = memory.budget
        self._commit = append.GroupCommit(parts.log, memory.window, memory.budget)
        self._config = catch_up.ConfigProjector(parts.log)
        publisher = publish.Publisher(
            self._commit, cache.TenantCache(parts.log), wildcards=parts.settings.topics_allow_wildcards
        )
        self._intake = queues.open_intake(parts.settings, publisher, base.now_ms)
        deps = api.Deps(
            settings=parts.settings,
            log=parts.log,
            writer=writes,
            destinations=destinations.Destinations(writes, parts.types, parts.sealer, parts.settings),
            publisher=publisher,
            registry=parts.types,
            sealer=parts.sealer,
            store=parts.store,
            health=health,
            now_ms=base.now_ms,
        )
        self.app = api.build(deps)
        self.in_place = publish_route.InPlace(deps)

    async def prepare(self) -> list[str]:
        """Connects the publish queue, if there is one."""
        return await self._intake.prepare() if self._intake else []

    def loops(self) -> Sequence[loops.Loop]:
        """The config projector, the group commit of publish, and the publish queue."""
        found = [
            loops.Loop("config-projector", self._config.run, loops.UPKEEP, self._config.health),
            loops.Loop("append", self._append, loops.APPENDS),
        ]
        if source := self._intake:
            found.append(loops.Loop("publish-queue", source.run, loops.REQUESTS, source.health, required=False))
        return found

    async def _append(self, stop: asyncio.Event) -> None:
        with pacing.waking(stop, self._commit.close):
            await self._commit.run()

    def obstacles(self) -> Sequence[str]:
        """Every partition is over the memory budget."""
        everywhere = len(self._budget.refused) == log_partitions.PARTITIONS
        return ("the log is over its memory budget",) if everywhere else ()

    def setbacks(self) -> Sequence[str]:
        """Partitions that are halted, and some that are over the memory budget."""
        found = [f"the config projection is halted before {at}" for at in self._config.halted.values()]
        refused = self._budget.refused
        if refused and len(refused) < log_partitions.PARTITIONS:
            names = ", ".join(f"{p:02}" for p in refused)
            found.append(f"over the memory budget, so that events are refused in partition {names}")
        return found
