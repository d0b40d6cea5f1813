"""Reading the log tables: pages of events and attempts, single ones, and how far the projection has come.

Statements are composed of fixed text out of `queries.sql` and of the conditions here; every value is a parameter.
All functions raise errors.StoreUnavailable.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import asyncpg

from outpost import cursor
from outpost.log import partition as partitions
from outpost.log import position as positions
from projections.logs import paging, rows, sql, store, write

ROW_BYTES = 512  # that a row of a page is counted as, beside its long columns; about what its ids take as JSON
_ID_BYTES = 64  # that a matched destination is counted as
# Columns of pages, and how long they are. Texts come as bytes, since text takes up to four times as much memory.
_DATA = "convert_to(data, 'UTF8') AS data"
_EVENT_COLUMNS = f"""accepted_at, partition, seq, time, tenant_id, event_id, topic, eligible_for_retry, metadata,
    matched_destination_ids, {_DATA}"""
_ATTEMPT_COLUMNS = """accepted_at, partition, seq, time, tenant_id, event_id, destination_id, destination_created,
    destination_type, topic, status, code, attempt_number, manual, latency_ms,
    convert_to(response_data, 'UTF8') AS response_data"""
_EVENT_OF_ATTEMPT = f"""event_accepted_at, event_seq, e_tenant_id, e_time, e_topic, eligible_for_retry, metadata,
    matched_destination_ids, {_DATA}"""
_EVENT_SIZE = f"""coalesce(octet_length(data), 0) + coalesce(octet_length(metadata), 0)
    + {_ID_BYTES} * coalesce(cardinality(matched_destination_ids), 0)"""
_RESPONSE_SIZE = "coalesce(octet_length(response_data), 0)"
POLL_S = 0.01  # between looks at the checkpoint while a read waits for the projection
_LARGEST_SEQ = 2**63 - 1  # of a bigint; no stream counts as far within a millisecond


class _Where:
    """Conditions joined by AND, and the values of their parameters. `?` stands for the next parameter."""

    def __init__(self) -> None:
        self.values: list[object] = []
        self._conditions = ["true"]
        self.impossible = False

    @property
    def text(self) -> str:
        return " AND ".join(self._conditions)

    def add(self, condition: str, *values: object) -> None:
        for value in values:
            self.values.append(value)
            condition = condition.replace("?", f"${len(self.values)}", 1)
        self._conditions.append(condition)

    def any_of(self, column: str, wanted: Sequence[str]) -> None:
        """The column has one of these values. `=` for a single one lets the index give the order too."""
        if wanted and (storable := self._storable(wanted)):
            if len(storable) == 1:
                self.add(f"{column} = ?", storable[0])
            else:
                self.add(f"{column} = ANY(?::text[])", storable)

    def overlaps(self, column: str, wanted: Sequence[str]) -> None:
        """The array column holds one of these values."""
        if wanted and (storable := self._storable(wanted)):
            self.add(f"{column} && ?::text[]", storable)

    def within(self, column: str, bounds: rows.TimeRange) -> None:
        first, last = bounds.bounds_ms()
        if first is not None:
            self.add(f"{column} >= ?", first)
        if last is not None:
            self.add(f"{column} <= ?", last)

    def behind(self, alias: str, scan: paging.Scan) -> None:
        if scan.start is not None:
            compare = ">" if scan.dir == "asc" else "<"
            self.add(
                f"({alias}.time, {alias}.accepted_at, {alias}.partition, {alias}.seq) {compare} "
                "(?::timestamptz, ?::timestamptz, ?::smallint, ?::bigint)",
                *scan.start,
            )

    def _storable(self, wanted: Sequence[str]) -> list[str]:
        """Postgres refuses a NUL even in a comparison, and nothing that is stored holds one."""
        storable = [value for value in wanted if "\0" not in value and _is_unicode(value)]
        self.impossible = self.impossible or not storable
        return storable


def _is_unicode(value: str) -> bool:
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


async def list_events(
    source: store.Store,
    wanted: rows.EventFilter,
    request: paging.PageRequest,
) -> paging.Page[rows.EventRow] | cursor.CursorProblem:
    """A page of events by their time."""
    scan = paging.scan("evt", request)
    if isinstance(scan, cursor.CursorProblem):
        return scan
    where = _Where()
    where.any_of("e.tenant_id", wanted.tenant_ids)
    where.any_of("e.event_id", wanted.ids)
    where.any_of("e.topic", wanted.topics)
    where.overlaps("e.matched_destination_ids", wanted.destination_ids)
    where.within("e.time", wanted.time)
    where.behind("e", scan)
    page = sql.STATEMENTS["events"].format(where=where.text, dir=scan.dir, limit=request.limit + 1)
    statement = _measured(page, _EVENT_COLUMNS, _EVENT_SIZE, scan.dir, request.max_bytes)
    records = await _fetch(source, statement, where)
    found = [_event(record) for record in records]
    return paging.page("evt", request, found, [row.place for row in found], _found(records))


async def get_event(source: store.Store, event_id: str, tenant: str | None = None) -> rows.EventRow | None:
    """The newest event with this id, of one tenant or of any."""
    where = _Where()
    where.any_of("e.event_id", (event_id,))
    if tenant is not None:
        where.any_of("e.tenant_id", (tenant,))
    found = await _fetch(source, sql.STATEMENTS["event"].format(where=where.text), where)
    return _event(found[0]) if found else None


async def list_attempts(
    source: store.Store,
    wanted: rows.AttemptFilter,
    request: paging.PageRequest,
    include: rows.Include = rows.Include(),  # noqa: B008 -- a frozen value
) -> paging.Page[rows.AttemptRow] | cursor.CursorProblem:
    """A page of attempts by their time."""
    scan = paging.scan("att", request)
    if isinstance(scan, cursor.CursorProblem):
        return scan
    where = _Where()
    where.any_of("a.tenant_id", wanted.tenant_ids)
    where.any_of("a.event_id", wanted.event_ids)
    where.any_of("a.destination_id", wanted.destination_ids)
    where.any_of("a.destination_type", wanted.destination_types)
    where.any_of("a.topic", wanted.topics)
    where.any_of("a.status", () if wanted.status is None else (wanted.status,))
    where.within("a.time", wanted.time)
    where.behind("a", scan)
    records = await _attempts(source, where, scan.dir, request.limit + 1, request.max_bytes, include)
    found = [_attempt(record) for record in records]
    return paging.page("att", request, found, [row.place for row in found], _found(records))


async def get_attempt(
    source: store.Store,
    at: tuple[int, int, int],
    tenant: str | None = None,
    include: rows.Include = rows.Include(),  # noqa: B008 -- a frozen value
) -> rows.AttemptRow | None:
    """The attempt at (partition, ms, seq), which `ids.parse_attempt_id` reads off its id."""
    partition, ms, seq = at
    if partition >= partitions.PARTITIONS or seq > _LARGEST_SEQ:
        return None
    where = _Where()
    where.add("a.accepted_at = ? AND a.partition = ? AND a.seq = ?", ms, partition, seq)
    if tenant is not None:
        where.any_of("a.tenant_id", (tenant,))
    found = await _attempts(source, where, "desc", 1, 0, include)
    return _attempt(found[0]) if found else None


async def reached(source: store.Store, target: positions.Position) -> bool:
    """Whether the entry at this position of `evt` or `dlv` is projected."""
    async with source.acquire() as connection:
        return bool(
            await connection.fetchval(
                sql.STATEMENTS["reached"], write.PROJECTION, target.stream, target.partition, target.ms, target.seq
            )
        )


async def wait_reached(source: store.Store, target: positions.Position, limit_s: float) -> bool:
    """`reached`, after waiting for it up to `limit_s`."""
    end = time.monotonic() + limit_s
    while not await reached(source, target):
        if time.monotonic() >= end:
            return False
        await asyncio.sleep(POLL_S)
    return True


async def _attempts(
    source: store.Store,
    where: _Where,
    direction: paging.Dir,
    limit: int,
    max_bytes: int,
    include: rows.Include,
) -> list[asyncpg.Record]:
    page = sql.STATEMENTS["attempts"].format(
        where=where.text,
        dir=direction,
        limit=limit,
        response="a.response_data" if include.response_data else "NULL::text",
    )
    columns, size = _ATTEMPT_COLUMNS, _RESPONSE_SIZE
    if include.event or include.event_data:
        data = "e.data" if include.event_data else "NULL::text"
        page = sql.STATEMENTS["with_events"].format(page=page, data=data)
        columns, size = f"{columns}, {_EVENT_OF_ATTEMPT}", f"{size} + {_EVENT_SIZE}"
    return await _fetch(source, _measured(page, columns, size, direction, max_bytes), where)


def _measured(page: str, columns: str, size: str, direction: paging.Dir, max_bytes: int) -> str:
    """The statement that reads no more of a page than `max_bytes`, and one row at least."""
    size = f"{ROW_BYTES} + {size}"
    return sql.STATEMENTS["measured"].format(page=page, columns=columns, size=size, dir=direction, bytes=max_bytes)


def _found(records: list[asyncpg.Record]) -> int:
    return records[0]["found"] if records else 0


async def _fetch(source: store.Store, statement: str, where: _Where) -> list[asyncpg.Record]:
    if where.impossible:
        return []
    async with source.acquire() as connection:
        return await connection.fetch(statement, *where.values)


def _event(r: asyncpg.Record) -> rows.EventRow:
    return rows.EventRow(
        r["accepted_at"],
        r["partition"],
        r["seq"],
        r["time"],
        r["tenant_id"],
        r["event_id"],
        r["topic"],
        r["eligible_for_retry"],
        r["metadata"],
        tuple(r["matched_destination_ids"]),
        r["data"],
    )


def _attempt(r: asyncpg.Record) -> rows.AttemptRow:
    event = None
    if "e_time" in r and r["e_time"] is not None:
        event = rows.EventRow(
            r["event_accepted_at"],
            r["partition"],
            r["event_seq"],
            r["e_time"],
            r["e_tenant_id"],
            r["event_id"],
            r["e_topic"],
            r["eligible_for_retry"],
            r["metadata"],
            tuple(r["matched_destination_ids"]),
            r["data"],
        )
    return rows.AttemptRow(
        r["accepted_at"],
        r["partition"],
        r["seq"],
        r["time"],
        r["tenant_id"],
        r["event_id"],
        r["destination_id"],
        r["destination_created"],
        r["destination_type"],
        r["topic"],
        r["status"],
        r["code"],
        r["attempt_number"],
        r["manual"],
        r["response_data"],
        event,
        r["latency_ms"],
    )
