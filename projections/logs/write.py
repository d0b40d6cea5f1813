"""One transaction of the log projection: the rows of a batch and the checkpoints that they bring, or neither.

Exactly once: the checkpoints are locked first and compared with the ones the batch was read from. A row that
Postgres refuses is found by halving the batch behind savepoints, kept in `log_rejected`, and the rest goes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import asyncpg
import msgspec

from outpost.log import partition as partitions
from outpost.log import read
from projections import base
from projections.logs import apply, sql, store

GENERATION = 1
PROJECTION = f"log_g{GENERATION}"
EVENT_TABLE = f"event_g{GENERATION}"
ATTEMPT_TABLE = f"attempt_g{GENERATION}"
CHANGE_TABLE = f"delivery_change_g{GENERATION}"

# SQLSTATE classes that speak of the row: data exception, constraint, size limit. All others are the store's state.
_ROW_CLASSES = ("22", "23", "54")
_UNIQUE = "23505"
_CODEC_ERRORS = (ValueError, OverflowError, TypeError)  # a value that asyncpg cannot write as its column's type


class Rejected(NamedTuple):
    """An entry that gets no row, and why; the reason holds no value of it."""

    stream: str
    partition: int
    ms: int
    seq: int
    reason: str
    fields: read.Fields


class Batch(msgspec.Struct):
    """`reads` as rows, from the checkpoints `starts` to `ends` (the places that were read, no others)."""

    starts: base.Checkpoints
    ends: base.Checkpoints
    rows: apply.Rows
    rejected: list[Rejected]
    reads: Sequence[read.Read]


class Written(msgspec.Struct, frozen=True, tag=True):
    """It is committed; `refused` are rows that Postgres did not take."""

    refused: list[Rejected]


class Moved(msgspec.Struct, frozen=True, tag=True):
    """Somebody else projected from `starts` before us: nothing was written, and the checkpoints are these."""

    present: base.Checkpoints


async def checkpoints(source: store.Store) -> base.Checkpoints:
    """Where the log projection is. Raises errors.StoreUnavailable."""
    async with source.acquire() as connection:
        return _checkpoints(await connection.fetch(sql.STATEMENTS["checkpoints"], PROJECTION))


async def write(target: store.Store, batch: Batch) -> Written | Moved:
    """Writes the batch in one transaction. Raises errors.StoreUnavailable: then it may have happened."""
    async with target.acquire() as connection:
        try:
            return await _transaction(connection, batch, careful=False)
        except (asyncpg.PostgresError, *_CODEC_ERRORS) as exc:
            if _refusal(exc) is None:
                raise
        return await _transaction(connection, batch, careful=True)


async def _transaction(connection: store.Connection, batch: Batch, *, careful: bool) -> Written | Moved:
    async with connection.transaction():
        places = sorted((p, s) for s, p in batch.ends)
        numbers, names = [p for p, _ in places], [s for _, s in places]
        present = _checkpoints(
            await connection.fetch(sql.STATEMENTS["lock_checkpoints"], PROJECTION, numbers, names)
        )
        if present != batch.starts:
            return Moved(present)
        refused: list[Rejected] = []
        for table, columns, stream, rows in (
            (EVENT_TABLE, apply.EVENT_COLUMNS, "evt", batch.rows.events),
            (ATTEMPT_TABLE, apply.ATTEMPT_COLUMNS, "dlv", batch.rows.attempts),
            (CHANGE_TABLE, apply.CHANGE_COLUMNS, "dlv", batch.rows.changes),
        ):
            if not rows:
                continue
            if careful:
                found = await _copy_halving(connection, table, columns, rows)
                refused += _with_fields(found, stream, batch.reads)
            else:
                await connection.copy_records_to_table(table, records=rows, columns=columns)
        await _reject(connection, batch.rejected + refused)
        ends = [batch.ends[s, p] for p, s in places]
        await connection.execute(
            sql.STATEMENTS["move_checkpoints"],
            PROJECTION,
            numbers,
            names,
            [ms for ms, _ in ends],
            [seq for _, seq in ends],
        )
    return Written(refused)


async def _copy_halving(
    connection: store.Connection,
    table: str,
    columns: Sequence[str],
    rows: list[apply.Row],
) -> list[tuple[apply.Row, str]]:
    """Copies what Postgres takes and returns the others with the reason. A row that is there already is neither:
    it can only mean that checkpoints were set back by hand."""
    try:
        async with connection.transaction():  # a savepoint, as we are in a transaction
            await connection.copy_records_to_table(table, records=rows, columns=columns)
    except (asyncpg.PostgresError, *_CODEC_ERRORS) as exc:
        reason = _refusal(exc)
        if reason is None:
            raise
        if len(rows) == 1:
            return [] if _UNIQUE in reason else [(rows[0], reason)]
    else:
        return []
    middle = len(rows) // 2
    left = await _copy_halving(connection, table, columns, rows[:middle])
    right = await _copy_halving(connection, table, columns, rows[middle:])
    return left + right


def _refusal(exc: Exception) -> str | None:
    """Why the row is to blame; None if it is not."""
    if isinstance(exc, asyncpg.PostgresError):
        state = exc.sqlstate or ""
        return f"Postgres refused it: SQLSTATE {state}" if state[:2] in _ROW_CLASSES else None
    return f"Postgres has no such value: {type(exc).__name__}"


def _with_fields(
    found: Sequence[tuple[apply.Row, str]],
    stream: str,
    reads: Sequence[read.Read],
) -> list[Rejected]:
    """A row names its entry: accepted_at, partition and seq are the first three columns of every table."""
    if not found:
        return []
    reasons = {row[:3]: reason for row, reason in found}
    return [
        Rejected(*at, reason=reasons[at.ms, at.partition, at.seq], fields=fields)
        for at, fields in reads
        if at.stream == stream and (at.ms, at.partition, at.seq) in reasons
    ]


async def _reject(connection: store.Connection, rejected: Sequence[Rejected]) -> None:
    for item in rejected:
        await connection.execute(
            sql.STATEMENTS["reject"],
            item.stream,
            item.partition,
            item.ms,
            item.seq,
            item.reason,
            msgspec.msgpack.encode(item.fields),
        )


def _checkpoints(records: Sequence[asyncpg.Record]) -> base.Checkpoints:
    names: dict[str, partitions.Stream] = {name: name for name in partitions.STREAMS}
    return {(names[r["stream"]], r["partition"]): (r["ms"], r["seq"]) for r in records}
