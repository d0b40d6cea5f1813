"""Whether Redis is still the primary with the log that this process started with, asked every second.

New connections find that out by themselves (see `log_identity`). They do not see a server that changes under them:
a failover made it a replica, whose reads go on and show the past, or it was emptied. Then every connection is
dropped, so that the next ones are made to where the name points by then. A server whose disk is full is told of as
well: it answers reads, so that a process that only appends would otherwise call itself ready.
"""

from __future__ import annotations

import asyncio
from typing import Any

from outpost import errors, pacing, telemetry
from outpost.log.redis import boot_checks, client

EVERY_S = 1.0


class Guard:
    """One a process; its health says what is wrong."""

    def __init__(self, log: client.Log) -> None:
        self._log = log
        self.health = telemetry.Health("guard")

    async def run(self, stop: asyncio.Event) -> None:
        """Looks until `stop`."""
        await pacing.every(EVERY_S, self.look, stop, self.health, pacing.Pause(EVERY_S, EVERY_S))

    async def look(self) -> None:
        """Raises errors.StoreUnavailable, errors.LogReplaced among them; every connection is anew then."""
        info, name = await self._log.pipeline([("INFO", "replication", "persistence"), self._log.pin.question])
        try:
            self._judge(info, name)
        except errors.StoreUnavailable:
            await self._log.disconnect()
            raise
        if await cannot_write(self._log, info):
            raise errors.StoreFull("redis", client.DISK)

    def _judge(self, info: dict[str, Any], name: bytes | None) -> None:
        if info.get("role") != "master":
            raise errors.StoreUnavailable("redis", "it is a replica")
        with client.mapped_errors():
            self._log.pin.check(name)


async def cannot_write(log: client.Log, info: dict[str, Any]) -> bool:
    """Whether Redis refuses writes because it cannot write to its disk, by `INFO persistence`. Where CONFIG is
    denied, failed snapshots are not judged. Raises errors.StoreUnavailable."""
    if info.get("aof_last_write_status", "ok") != "ok":
        return True
    if info.get("rdb_last_bgsave_status", "ok") == "ok":
        return False
    told = await boot_checks.config(log, "stop-writes-on-bgsave-error", "save") or {}
    return told.get("stop-writes-on-bgsave-error") == "yes" and bool(told.get("save"))
