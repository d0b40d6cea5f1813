"""The doctor on the projections: how far behind the log they are, what halts them, whether the log went back."""

from __future__ import annotations

from outpost.cli.doctor import findings as say
from outpost.cli.doctor.findings import Finding
from outpost.log import checkpoint, read
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.redis import client, shapes
from outpost.log.upkeep import lag
from projections.config import catch_up
from projections.logs import history, store, write

LATE_MS = 30_000  # projected within a second; beyond it, nobody does or can
TOO_LATE_MS = 300_000
_EVERYWHERE = range(partitions.PARTITIONS)


async def config(log: client.Log) -> list[Finding]:
    """The read model of tenants and destinations. Raises errors.StoreUnavailable."""
    heads = await read.heads(log, [("cfg", p) for p in _EVERYWHERE])
    active = await checkpoint.generations(log, _EVERYWHERE)
    stand = [await checkpoint.read(log, p, active[p]) for p in _EVERYWHERE]
    behind = [p for p in _EVERYWHERE if positions.entry_key(stand[p]) < (heads[p].ms, heads[p].seq)]
    found = []
    for p in behind:
        bad = await catch_up.halted_before(log, p)
        if bad is not None:
            text = f"partition {p:02} is halted before {bad}, which does not decode: its tenants get 503"
            advice = f"run the version that wrote it, or see `outpost streams show {bad}` and `streams skip {bad}`"
            found.append(say.problem("config", text, advice))
    late = await _late(log, {p: stand[p] for p in behind})
    if late > LATE_MS and not found:
        text = f"the oldest change that is not applied is {say.seconds(late)} old"
        found.append(
            say.warn("config", text, "start a process of the role api; requests apply it as they need it")
        )
    ahead = [p for p in _EVERYWHERE if positions.entry_key(stand[p]) > (heads[p].ms, heads[p].seq)]
    if ahead:
        text = f"the read model is ahead of the log in partition {say.names(ahead)}: entries of `cfg` were lost"
        found.append(say.problem("config", text, "restore Redis from its append-only files"))
    return found or [say.ok("config", "the read model is at the head of the log")]


async def _late(log: client.Log, starts: dict[int, str]) -> int:
    """The age in ms of the oldest entry of `cfg` behind `starts`."""
    keys = [(log.keys.partitions[p].cfg, start) for p, start in starts.items()]
    reads = [("XRANGE", key, f"({start}", "+", "COUNT", 1) for key, start in keys]
    *found, clock = await log.pipeline([*reads, ("TIME",)])
    now = shapes.clock_ms(clock)
    return max((now - positions.entry_key(entries[0][0])[0] for entries in found if entries), default=0)


async def logs(log: client.Log, target: store.Store) -> list[Finding]:
    """The log tables. Raises errors.StoreUnavailable."""
    checkpoints = await write.checkpoints(target)
    lost = await history.first_lost(log, checkpoints)
    if lost is not None:
        text = (
            f"the log no longer holds {lost}, up to which it was projected: Redis went back, and the log is halted"
        )
        advice = "restore Redis to a later state, or Postgres to an earlier one"
        return [say.problem("log", text, advice)]
    late = max(wait.projection for wait in await lag.each(log, checkpoints))
    if late <= LATE_MS:
        return [say.ok("log", "everything is in Postgres")]
    text = f"the oldest entry that is not in Postgres is {say.seconds(late)} old"
    advice = "see /readyz of the processes of the role log; nothing that is not there leaves Redis"
    return [say.problem("log", text, advice) if late > TOO_LATE_MS else say.warn("log", text, advice)]
