"""The role `log`: projects the log into Postgres, keeps the table partitions, and trims the streams."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from outpost.log.upkeep import leadership, trim
from outpost.process import loops
from outpost.process.roles import base
from projections.logs import partitions, projector, write

PROJECT_S = 2.0  # what is left for the log projection, at a stop


class Log(base.Role):
    """The parts of the role. A process of it alone is not ready without its projection; one of all roles is
    degraded."""

    def __init__(self, parts: base.Parts) -> None:
        self._store = parts.store
        self._required = parts.settings.service == "log"
        self._projector = projector.LogProjector(parts.log, parts.store, parts.settings.log_batch_size)
        self._turn = leadership.Turn(parts.log, "log")
        checkpoints = functools.partial(write.checkpoints, parts.store)
        self._trimmer = trim.Trimmer(parts.log, [checkpoints], parts.settings.stream_retention_ms)

    def loops(self) -> Sequence[loops.Loop]:
        """The projector, the trimmer, and the tables of coming days."""
        return (
            loops.Loop(
                "log-projector",
                functools.partial(self._projector.run, turn=self._turn),
                loops.PROJECTIONS,
                self._projector.health,
                self._required,
                then=functools.partial(self._projector.drain, PROJECT_S),
            ),
            loops.Loop(
                "trimmer",
                self._trimmer.run,
                loops.UPKEEP,
                self._trimmer.health,
                required=False,
                then=self._give_back,
            ),
            loops.Loop("table-partitions", functools.partial(partitions.keep, self._store), loops.WATCHES),
        )

    async def _give_back(self) -> None:
        """Lets another process project and trim at once."""

        async def both() -> None:
            await self._turn.give_back()
            await self._trimmer.give_back()

        await loops.best_effort(both())
