"""Entries of `cfg` that an operator has passed over: which they are, and what the read model takes from them.

A change that cannot be decoded has moved the version of its tenant (`ver`), and appends are fenced by that.
The read model therefore takes the version and nothing else, so that the tenant can be changed and published to.
"""

from __future__ import annotations

from collections.abc import Sequence

from outpost.domain import events
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log import read
from outpost.log.redis import client
from projections.config import apply


async def behind(log: client.Log, partition: int, start: str) -> list[read.Read]:
    """The next entries of `cfg` behind an entry id, as many as one answer may hold."""
    reading = log.config_reading
    return await read.between(log, "cfg", partition, f"({start}", "+", reading.count, reading)


async def is_skipped(log: client.Log, partition: int, position: positions.Position) -> bool:
    """Whether an `entry.skipped` behind `position` names it."""
    start = position.entry_id
    while found := await behind(log, partition, start):
        for item in found:
            if item.fields.get(b"t") == b"entry.skipped" and item.fields.get(b"id") == str(position).encode():
                return True
        start = found[-1].position.entry_id
    return False


async def possible(
    log: client.Log, partition: int, generation: int, changes: Sequence[apply.Entry]
) -> list[apply.Entry]:
    """`changes` without the skipped versions that their tenants never reached or have shown already.

    Such entries were written by hand: the version of the read model must not leave the one that appends are fenced
    by. A rebuild ends with the same versions, because whatever moves a version later is an entry behind these.
    """
    among = {change.tenant for change in changes if isinstance(change, events.VersionSkipped)}
    among = {tenant for tenant in among if partitions.partition_of(tenant) == partition}
    present = await _versions(log, partition, generation, sorted(among)) if among else {}
    kept: list[apply.Entry] = []
    for change in changes:
        reached, shown = present.get(change.tenant, (0, 0))
        if isinstance(change, events.VersionSkipped):
            if not shown < change.version <= reached:
                continue
            version = change.version
        else:
            version = change.change.version
        if change.tenant in present:
            present[change.tenant] = (reached, version)
        kept.append(change)
    return kept


async def _versions(
    log: client.Log, partition: int, generation: int, among: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Tenant -> the version that it has reached and the one that the read model shows."""
    keys = log.keys.partitions[partition]
    reached = await log.pipeline([("HGET", keys.ver, tenant) for tenant in among])
    shown = await log.pipeline([("HGET", keys.tenant(generation, tenant), "version") for tenant in among])
    return {t: (int(r or 0), int(s or 0)) for t, r, s in zip(among, reached, shown, strict=True)}
