"""Whether a process should get traffic, and what works only in part.

Not ready is a role that cannot do its work: without Redis, or with no memory left for events. What another role or
a part of the tenants suffers from is told as reasons of `degraded`, which takes nobody out of a load balancer: the
store of one role only, a partition that is halted or refused, readers of the log that are behind.
"""

from __future__ import annotations

import asyncio

from outpost import errors
from outpost.api import schemas
from outpost.api.deps import Probes
from outpost.log.upkeep import lag
from projections.logs import write

PROBE_LIMIT_S = 2.0  # below the time-outs of orchestrators, above a slow moment of a store
LAG_MS = 30_000  # events are opened and projected within a second; beyond it, nobody does or can


async def look(probes: Probes) -> tuple[schemas.Readiness, int]:
    """The answer and its status."""
    redis, postgres, behind = await asyncio.gather(_redis(probes), _postgres(probes), _behind(probes))
    hard = [*probes.health.obstacles(), *redis]
    hard += postgres if probes.settings.service == "log" else []
    reasons = list(dict.fromkeys([*hard, *probes.health.setbacks(), *postgres, *behind]))
    if hard:
        return schemas.Readiness("not_ready", reasons), 503
    return schemas.Readiness("degraded" if reasons else "ready", reasons), 200


async def _redis(probes: Probes) -> list[str]:
    try:
        async with asyncio.timeout(PROBE_LIMIT_S):
            await probes.log.command("PING")
    except (errors.StoreUnavailable, TimeoutError):
        return ["redis is unavailable"]
    return []


async def _postgres(probes: Probes) -> list[str]:
    if probes.store is None:
        return []
    try:
        async with asyncio.timeout(PROBE_LIMIT_S), probes.store.acquire() as connection:
            await connection.fetchval("SELECT 1")
    except (errors.StoreUnavailable, TimeoutError):
        return ["postgres is unavailable"]
    return []


async def _behind(probes: Probes) -> list[str]:
    """Which readers of the log are behind; nothing where that cannot be told, since then a store is away."""
    service = probes.settings.service
    checkpoints = None
    try:
        async with asyncio.timeout(PROBE_LIMIT_S):
            if probes.store is not None and service != "delivery":
                try:
                    checkpoints = await write.checkpoints(probes.store)
                except errors.StoreUnavailable:
                    checkpoints = None
            found = await lag.measure(probes.log, checkpoints)
    except (errors.StoreUnavailable, TimeoutError):
        return []
    reasons = []
    if found.dispatch > LAG_MS and service != "log":
        reasons.append(f"deliveries are {found.dispatch // 1000} s behind")
    if found.projection > LAG_MS:
        reasons.append(f"the log projection is {found.projection // 1000} s behind")
    return reasons
