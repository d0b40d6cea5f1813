"""Bringing the config read model up to a position, by whoever needs it.

`advance` is a compare-and-set, so that any process may do it at any time; the background loop calls the same
function. An entry that does not decode halts its partition visibly until an operator appends `entry.skipped`; then
the read model takes nothing but the tenant's version from it (`skipped`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from outpost import errors, pacing, telemetry
from outpost.domain import events
from outpost.log import checkpoint, envelope, read
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.redis import client
from projections.config import apply, skipped


async def catch_up(log: client.Log, partition: int, target: str, generation: int | None = None) -> None:
    """Returns when the read model of `partition` contains the entry id `target`.

    Raises errors.Halted if an entry up to there cannot be decoded, errors.StoreUnavailable if Redis is away.
    """
    if generation is None:
        generation = (await checkpoint.generations(log, [partition]))[0]
    present = await checkpoint.read(log, partition, generation)
    wanted = positions.entry_key(target)
    while positions.entry_key(present) < wanted:
        found = await skipped.behind(log, partition, present)
        if not found:
            return
        changes, end, bad = await _decode(log, partition, found[: log.config_sending.cut(map(_bytes, found))])
        if end is not None:
            changes = await skipped.possible(log, partition, generation, changes)
            writes = [_operation(log, partition, generation, w) for w in apply.apply(changes)]
            moved = await _advance(log, partition, generation, present, end, writes)
            present = moved.present if isinstance(moved, checkpoint.Lost) else end
            if isinstance(moved, checkpoint.Lost):
                continue
        if bad is not None and (bad.ms, bad.seq) <= wanted:
            raise errors.Halted(str(bad))
        if bad is not None:
            return


async def to_head(log: client.Log, partition: int) -> None:
    """`catch_up` to the head of `cfg`: what every API read does first, so that it sees every acknowledged write.
    Raises as `catch_up`."""
    head = (await read.heads(log, [("cfg", partition)]))[0]
    await catch_up(log, partition, head.entry_id)


async def halted_before(log: client.Log, partition: int) -> positions.Position | None:
    """The entry that stops, or is going to stop, the read model of `partition`. Raises errors.StoreUnavailable."""
    generation = (await checkpoint.generations(log, [partition]))[0]
    present = await checkpoint.read(log, partition, generation)
    while found := await skipped.behind(log, partition, present):
        _, _, bad = await _decode(log, partition, found)
        if bad is not None:
            return bad
        present = found[-1].position.entry_id
    return None


def _bytes(item: read.Read) -> int:
    return len(item.fields.get(b"d", b""))


async def _advance(
    log: client.Log,
    partition: int,
    generation: int,
    start: str,
    end: str,
    writes: Sequence[checkpoint.Operation],
) -> checkpoint.Moved | checkpoint.Lost:
    try:
        moved = await checkpoint.advance(log, partition, generation, start, end, writes)
    except errors.StoreUnavailable:
        log.config_sending.failed()
        raise
    log.config_sending.passed()
    return moved


async def _decode(
    log: client.Log, partition: int, found: Sequence[read.Read]
) -> tuple[list[apply.Entry], str | None, positions.Position | None]:
    """The changes up to the first entry that stops us, the entry id they reach, and that entry."""
    changes: list[apply.Entry] = []
    end = None
    for item in found:
        try:
            entry = envelope.decode("cfg", item.position, item.fields)
        except errors.UndecodableEntry:
            if not await skipped.is_skipped(log, partition, item.position):
                return changes, end, item.position
            passed = envelope.skipped_version(item.fields)
            changes += [passed] if passed is not None else []
        else:
            if isinstance(entry, events.ConfigChanged):
                changes.append(entry)
        end = item.position.entry_id
    return changes, end, None


def _operation(log: client.Log, partition: int, generation: int, write: apply.Write) -> checkpoint.Operation:
    keys = log.keys.partitions[partition]
    key = keys.tenant(generation, write.tenant) if write.target == "tenant" else keys.tenants(generation)
    return checkpoint.Operation(write.command, key, write.args)


class ConfigProjector:
    """The background loop: applies what is appended to `cfg` as it comes. `halted` maps a partition to the
    position that it stopped before."""

    def __init__(self, log: client.Log) -> None:
        self._log = log
        self._seen: dict[int, str] = {}
        self.halted: dict[int, str] = {}
        self.health = telemetry.Health("config")

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`: waits for entries, applies them, backs off while Redis is away."""
        await pacing.every(0, self.step, stop, self.health)

    async def step(self, block_ms: int = client.BLOCK_MS) -> None:
        """Waits up to `block_ms` for entries behind those seen, and applies them. Raises errors.StoreUnavailable;
        then the next step begins where this one did."""
        if not self._seen:
            self._seen = await self._checkpoints()
        starts: dict[tuple[partitions.Stream, int], str] = {("cfg", p): i for p, i in self._seen.items()}
        reading = self._log.config_reading
        count = max(1, reading.count // len(starts))
        found = await read.after(self._log, starts, count, block_ms, reading)
        reached = {item.position.partition: item.position.entry_id for item in found}
        for partition, entry_id in reached.items():
            await self._catch_up(partition, entry_id)
            self._seen[partition] = entry_id

    async def _checkpoints(self) -> dict[int, str]:
        """Where each partition's read model stands: what is behind it may be halted, and has to be seen."""
        among = range(partitions.PARTITIONS)
        active = await checkpoint.generations(self._log, among)
        return {p: await checkpoint.read(self._log, p, active[p]) for p in among}

    async def _catch_up(self, partition: int, target: str) -> None:
        try:
            await catch_up(self._log, partition, target)
        except errors.Halted as exc:
            if self.halted.get(partition) != exc.position:
                telemetry.emit("config_halted", "error", position=exc.position)
            self.halted[partition] = exc.position
        else:
            self.halted.pop(partition, None)
