"""Whether Redis is still the primary with the log that this process started with, asked every second.

New connections find that out by themselves (see `pin`); what they do not see is a server that changes under them:
made a replica by a failover, whose reads go on and show the past, or emptied. Then every connection is dropped, so
that the next ones are made to where the name points by then.
"""

from __future__ import annotations

import asyncio
from typing import Any

from outpost import errors, pacing, telemetry
from outpost.log import client

EVERY_S = 1.0


class Guard:
    """One a process; its health says what is wrong."""

    def __init__(self, log: client.Log) -> None:
        self._log = log
        self.health = telemetry.Health("guard")

    async def run(self, stop: asyncio.Event) -> None:
        """Looks until `stop`."""
        while not stop.is_set():
            try:
                await self.look()
            except errors.StoreUnavailable as exc:
                self.health.fell(exc.store, exc.reason)
            else:
                self.health.rose()
            await pacing.sleep(EVERY_S, stop)

    async def look(self) -> None:
        """Raises errors.StoreUnavailable, errors.LogReplaced among them; every connection is anew then."""
        info, name = await self._log.pipeline([("INFO", "replication"), self._log.pin.question])
        try:
            self._judge(info, name)
        except errors.StoreUnavailable:
            await self._log.disconnect()
            raise

    def _judge(self, info: dict[str, Any], name: bytes | None) -> None:
        if info.get("role") != "master":
            raise errors.StoreUnavailable("redis", "it is a replica")
        with client.mapped_errors():
            self._log.pin.check(name)
