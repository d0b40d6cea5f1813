"""Who does a piece of background work now, in a partition or in all of them, so that others need not.

An optimisation, never the guard: two holders at once, or none for the length of a lease, must be harmless to
whatever is done under it.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Sequence

from outpost import errors
from outpost.log.redis import client

TURN_MS = 5_000  # how long nobody does the work after its doer died
RENEW_S = 1.5
LOOK_AGAIN_S = 1.0
LONGEST_LEASE_MS = 60_000  # what expires later was taken while the clock of Redis was ahead: it is over
_HOME = 0  # the partition whose lease stands for all of them


class Turn:
    """Work over all partitions that one process at a time does."""

    def __init__(self, log: client.Log, name: str) -> None:
        self._log = log
        self._name = name
        self._holder = uuid.uuid4().hex
        self._ours = False
        self._ask_at = 0.0

    async def ours(self) -> bool:
        """Whether the work is this process's now; asks Redis now and then. Raises errors.StoreUnavailable."""
        if time.monotonic() >= self._ask_at:
            self._ours = bool(await take(self._log, self._name, self._holder, TURN_MS, (_HOME,)))
            self._ask_at = time.monotonic() + (RENEW_S if self._ours else LOOK_AGAIN_S)
        return self._ours

    async def give_back(self) -> None:
        """Lets another process do it at once. Raises errors.StoreUnavailable."""
        await give_back(self._log, self._name, self._holder, (_HOME,))


async def take(log: client.Log, name: str, holder: str, lease_ms: int, among: Sequence[int]) -> list[int]:
    """Those partitions of `among` whose lease `name` nobody else has; it is `holder`'s for the next `lease_ms`.

    While Redis has no memory left for a lease there is none, and they are told all the same: the work may be what
    frees it. Raises errors.StoreUnavailable.
    """
    keys = {p: log.keys.partitions[p].lease(name) for p in among}
    held = await log.pipeline([(asked, key) for asked in ("GET", "PTTL") for key in keys.values()])
    found = zip(among, held[: len(keys)], held[len(keys) :], strict=True)
    ours = [p for p, by, left_ms in found if by in (None, holder.encode()) or left_ms > LONGEST_LEASE_MS]
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
