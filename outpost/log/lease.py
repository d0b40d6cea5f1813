"""Who does a piece of background work in a partition now, so that others need not.

An optimisation, never the guard: two holders at once, or none for the length of a lease, must be harmless to
whatever is done under it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from outpost import errors
from outpost.log import client


async def take(log: client.Log, name: str, holder: str, lease_ms: int, among: Sequence[int]) -> list[int]:
    """Those partitions of `among` whose lease `name` nobody else has; it is `holder`'s for the next `lease_ms`.

    While Redis has no memory left for a lease there is none, and they are told all the same: the work may be what
    frees it. Raises errors.StoreUnavailable.
    """
    keys = {p: log.keys.partitions[p].lease(name) for p in among}
    held = await log.pipeline([("GET", key) for key in keys.values()])
    ours = [p for p, found in zip(among, held, strict=True) if found in (None, holder.encode())]
    if ours:
        with contextlib.suppress(errors.StoreFull):
            await log.pipeline([("SET", keys[p], holder, "PX", lease_ms) for p in ours])
    return ours


async def give_back(log: client.Log, name: str, holder: str, among: Sequence[int]) -> None:
    """Ends the leases that are `holder`'s. Raises errors.StoreUnavailable."""
    keys = [log.keys.partitions[p].lease(name) for p in among]
    held = await log.pipeline([("GET", key) for key in keys])
    ours = [key for key, found in zip(keys, held, strict=True) if found == holder.encode()]
    if ours:
        await log.pipeline([("DEL", key) for key in ours])
