"""The log projection: entries of `evt` and `dlv` become rows in Postgres, exactly once.

Reads every partition from checkpoints that Postgres holds, decodes, applies, and writes rows and checkpoints in
one transaction a batch. Any number may run at once: one wins each transaction and the others read on from there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from outpost import errors, telemetry
from outpost.domain import events
from outpost.log import client, envelope, lease, read
from outpost.log import partition as partitions
from projections import base, runner
from projections.logs import apply, history, store, write

STREAMS: tuple[partitions.Stream, ...] = ("evt", "dlv")
READ_BYTES = 16 * 1024 * 1024  # about what one read brings into memory, going by the size of the last ones
FEWEST = 8  # entries of each stream that a read asks for at least
# Before anything was read: large entries in every stream, as after an hour without Postgres.
CAUTIOUS_BYTES = 64 * 1024


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
        self._count = FEWEST

    async def run(self, stop: asyncio.Event, turn: lease.Turn | None = None) -> None:
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
            starts = {place: f"{ms}-{seq}" for place, (ms, seq) in self._checkpoints.items()}
            found = await read.after(self._log, starts, self._count, block_ms)
            if not found:
                return 0
            if await history.server_id(self._log) != self._server:
                # Restarted or replaced between two commands, which no error shows: judge it before using it.
                self._checkpoints = {}
                return len(found)
            self._count = self._next_count(found)
            for first in range(0, len(found), self._batch_size):
                if not await self._project(found[first : first + self._batch_size]):
                    break
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
        self._count = max(FEWEST, READ_BYTES // (CAUTIOUS_BYTES * len(loaded)))
        return True

    def _next_count(self, found: Sequence[read.Read]) -> int:
        """How many entries of each stream to ask for: a transaction's worth over as many streams as had some."""
        streams = len({item.position[:2] for item in found})
        mean_bytes = sum(len(item.fields.get(b"d", b"")) for item in found) // len(found) + 256
        return max(FEWEST, min(self._batch_size, READ_BYTES // mean_bytes) // streams)

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
