"""A generation of the config read model as it stands in Redis, so that two of them can be compared."""

from __future__ import annotations

from typing import Any

from outpost.log import checkpoint, read
from outpost.log import partition as partitions
from outpost.log.redis import client
from projections.config import catch_up

REBUILT = 99


async def content(log: client.Log, generation: int = 1) -> dict[bytes, Any]:
    """Every key of a generation with its content, byte for byte, spelt without the generation."""
    found: dict[bytes, Any] = {}
    for p, keys in enumerate(log.keys.partitions):
        for key in await log.command("KEYS", keys.tenant(generation, "*")):
            found[key.replace(b":g%d:" % generation, b":")] = await log.command("HGETALL", key)
        listed = await log.command("ZRANGE", keys.tenants(generation), 0, -1, "WITHSCORES")
        found[keys.evt.encode()] = (listed, await checkpoint.read(log, p, generation))
    return found


async def rebuild(log: client.Log, generation: int = REBUILT) -> None:
    """Folds all of `cfg` into a generation of its own, up to the heads of now."""
    for p in range(partitions.PARTITIONS):
        [head] = await read.heads(log, [("cfg", p)])
        await catch_up.catch_up(log, p, head.entry_id, generation=generation)
