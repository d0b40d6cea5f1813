"""The log projection: entries of `evt` and `dlv` become rows in Postgres, exactly once.

Reads every partition from checkpoints that Postgres holds, decodes, applies, and writes rows and checkpoints in
one transaction a batch. Any number may run at once: one wins each transaction and the others read on from there.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence

from outpost import errors, telemetry
from outpost.domain import events
from outpost.log import batching, envelope, read
from outpost.log import partition as partitions
from outpost.log.redis import client
from outpost.log.upkeep import leadership
from projections import base, runner
from projections.logs import apply, history, store, write

STREAMS: tuple[partitions.Stream, ...] = ("evt", "dlv")
WRITE_BYTES = 16 * 1024 * 1024  # of entries in one transaction


class LogProjector:
    """Projects a deployment's log into `target`, at most `batch_size` entries a transaction."""

    def __init__(self, log: client.Log, target: store.Store, batch_size: int) -> None:
        self.health = base.Health("log_projector")
        self._log = log
        self._store = target
        self._batch_size = batch_size
        self._checkpoints: base.Checkpoints = {}  # empty: to be loaded, and the streams to be judged
        self._places: dict[str, partitions.Stream] = {name: name for name in STREAMS}
        self._server = ""
        self._reading = batching.Reading(batch_size * len(STREAMS) * partitions.PARTITIONS)
        self._writing = batching.Sending(batch_size, WRITE_BYTES)
        self._active = len(STREAMS) * partitions.PARTITIONS  # streams that had something to read at last
        self._turn = 0  # the first of the streams that the next read of few entries asks

    async def run(self, stop: asyncio.Event, turn: leadership.Turn | None = None) -> None:
        """Projects until `stop` is set, whenever it is its `turn`; survives both stores being away."""
        await runner.drive(self, stop, turn=turn)

    async def drain(self, limit_s: float) -> bool:
        """Projects what is left, for at most about `limit_s`; whether nothing is left."""
        return await runner.drain(self, limit_s)

    async def lag_ms(self) -> int:
        """The age of the oldest entry that is not projected. Raises errors.StoreUnavailable."""
        return await history.oldest_unread_ms(self._log, self._checkpoints or await write.checkpoints(self._store))

    async def step(self, block_ms: int = 0) -> int:
        """Projects what one read brings and returns how many entries that read brought; 0 too when halted.
        Raises errors.StoreUnavailable; then nothing is half written."""
        try:
            if not self._checkpoints and not await self._begin():
                return 0
            found = await self._read(block_ms)
            if not found:
                return 0
            if await history.server_id(self._log) != self._server:
                # Restarted or replaced between two commands, which no error shows: judge it before using it.
                self._checkpoints = {}
                return len(found)
            self._active = len({item.position[:2] for item in found})
            await self._project_all(found)
        except errors.StoreUnavailable:
            self._checkpoints = {}
            raise
        return len(found)

    async def _begin(self) -> bool:
        """Loads the checkpoints, and refuses to go on where the log went back behind them."""
        self._server = await history.server_id(self._log)
        loaded = await write.checkpoints(self._store)
        lost = await history.first_lost(self._log, loaded)
        if lost is not None:
            if not self.health.halted:
                telemetry.emit("log_halted", "error", position=str(lost))
            self.health.halt(f"the log no longer holds {lost}, up to which it was projected")
            return False
        self.health.halted = False
        self._checkpoints = loaded
        return True

    async def _read(self, block_ms: int) -> list[read.Read]:
        """What stands behind the checkpoints. Where not even one entry of each stream fits into an answer, asks
        some streams after others; once none of them has any, waits for news, which comes from one at a time."""
        starts = {place: f"{ms}-{seq}" for place, (ms, seq) in self._checkpoints.items()}
        count = min(self._batch_size, self._reading.count) // self._active
        for _ in range(0 if count else len(starts)):
            among = self._next_places(min(self._reading.count, len(starts)))
            if found := await read.after(self._log, {at: starts[at] for at in among}, 1, 0, self._reading):
                return found
        return await read.after(self._log, starts, max(1, count), block_ms, self._reading)

    def _next_places(self, count: int) -> list[base.Place]:
        places = list(self._checkpoints)
        among = [places[(self._turn + n) % len(places)] for n in range(count)]
        self._turn = (self._turn + count) % len(places)
        return among

    async def _project_all(self, found: Sequence[read.Read]) -> None:
        """Transaction after transaction, until somebody else has projected what comes next."""
        small = self._reading.size <= WRITE_BYTES  # all of them, so that they need not be measured one by one
        size_of = (lambda _: 0) if small else _bytes
        at = 0
        while at < len(found):
            count = self._writing.cut(map(size_of, itertools.islice(found, at, None)))
            try:
                ours = await self._project(found[at : at + count])
            except errors.StoreUnavailable:
                self._writing.failed()
                raise
            self._writing.passed()
            if not ours:
                return
            at += count

    async def _project(self, reads: Sequence[read.Read]) -> bool:
        """One transaction; False if somebody else had projected these entries before."""
        started = time.perf_counter()
        batch = self._batch(reads)
        outcome = await write.write(self._store, batch)
        if isinstance(outcome, write.Moved):
            self._checkpoints = self._checkpoints | outcome.present
            return False
        self._checkpoints = self._checkpoints | batch.ends
        rejected = batch.rejected + outcome.refused
        for item in rejected:
            telemetry.emit_sampled(
                "log_rejected",
                "warning",
                stream=item.stream,
                partition=item.partition,
                entry=f"{item.ms}-{item.seq}",
                reason=item.reason,
            )
        newest_ms = max(ms for ms, _ in batch.ends.values())
        telemetry.emit_sampled(
            "log_projected",
            entries=len(reads),
            events=len(batch.rows.events),
            attempts=len(batch.rows.attempts),
            rejected=len(rejected),
            streams=len(batch.ends),
            took_ms=round((time.perf_counter() - started) * 1000, 1),
            behind_ms=max(time.time_ns() // 1_000_000 - newest_ms, 0),
        )
        return True

    def _batch(self, reads: Sequence[read.Read]) -> write.Batch:
        placed: list[apply.Placed] = []
        rejected: list[write.Rejected] = []
        ends: base.Checkpoints = {}
        for at, fields in reads:
            ends[self._places[at.stream], at.partition] = (at.ms, at.seq)
            try:
                entry = envelope.decode(at.stream, at, fields)
            except errors.UndecodableEntry as exc:
                rejected.append(write.Rejected(*at, reason=f"{exc.field}: {exc.rule}", fields=fields))
                continue
            if isinstance(entry, events.Event | events.DeliveryEntry):
                placed.append(apply.Placed(at.partition, at.ms, at.seq, entry))
        rows = apply.apply(placed)
        if rows.unfit:
            reasons = {item[:3]: item.reason for item in rows.unfit}
            rejected += [
                write.Rejected(*at, reason=reasons[at[1:]], fields=fields)
                for at, fields in reads
                if at.stream == "evt" and at[1:] in reasons
            ]
        starts = {place: self._checkpoints[place] for place in ends}
        return write.Batch(starts, ends, rows, rejected, reads)


def _bytes(item: read.Read) -> int:
    return sum(map(len, item.fields.values()))
