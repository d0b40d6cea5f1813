"""Names in the consumer group: leased, so that what a dead process had read is known to be nobody's when its lease
ends, and reaped, so that names do not pile up. A lease is an optimisation: what two read under one name, or take
over from each other, is opened once all the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from outpost.log import partition as partitions
from outpost.log.redis import client, shapes

LEASE_MS = 10_000
RENEW_MS = 3_000
LONGEST_LEASE_MS = 60_000  # one that ends later was taken while the clock of Redis was ahead: it is over

_LEASE = client.load_script("lease_name")
_REAP = client.load_script("reap")
_FORGET = client.load_script("forget_name")


async def lease_name(log: client.Log, holder: str, name: str = "") -> str | None:
    """The first free name, or `name` again; None if `name` has passed to another holder.
    Raises errors.StoreUnavailable."""
    return await _lease(log, holder, LEASE_MS, name)


async def release_name(log: client.Log, holder: str, name: str) -> None:
    """Ends the lease of a name now, if it is `holder`'s: whatever it left pending is taken over at once.
    Raises errors.StoreUnavailable."""
    await _lease(log, holder, 0, name)


async def _lease(log: client.Log, holder: str, lease_ms: int, name: str) -> str | None:
    reply = (await log.call(_LEASE, [((log.keys.slots,), (holder, lease_ms, name, LONGEST_LEASE_MS))]))[0]
    return None if reply is None else reply.decode()


async def ended(log: client.Log) -> list[str]:
    """Names whose lease is over and that were not reaped yet. Raises errors.StoreUnavailable."""
    time, slots = await log.pipeline([("TIME",), ("HGETALL", log.keys.slots)])
    now = shapes.clock_ms(time)
    left_ms = {name.decode(): int(held.rpartition(b" ")[2]) - now for name, held in slots.items()}
    return [name for name, left in left_ms.items() if not 0 < left <= LONGEST_LEASE_MS]


async def reap(log: client.Log, names: Sequence[str]) -> list[str]:
    """Deletes consumers with nothing pending and forgets their names; those with something pending stay and are
    returned. Raises errors.StoreUnavailable."""
    replies = await log.call(_REAP, [((keys.evt,), (partitions.GROUP, *names)) for keys in log.keys.partitions])
    pending = {name.decode() for reply in replies for name in reply}
    idle = [name for name in names if name not in pending]
    if idle:
        await log.call(_FORGET, [((log.keys.slots,), (LONGEST_LEASE_MS, *idle))])
    return sorted(pending)
