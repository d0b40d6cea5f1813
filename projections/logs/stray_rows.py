"""Moves rows out of a default table into tables of their days, which become partitions.

A row is in the default table because its day had no table when it was written. The rows are copied in steps into
tables that are no partitions yet, so that readers find each row once all the time. Only then, in one short
transaction, the default table is emptied and the new tables are attached: an empty default table needs no scan
under its lock, nor does a table whose constraint says which rows it holds. A crash leaves copies in tables that
are no partitions; the next call goes on with them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

from outpost.log import partition as partitions
from projections.logs import migrate, sql, store, write

STEP_ROWS = 5_000  # copied by one statement
LOCK_TIMEOUT_MS = 5_000  # emptying waits for readers of the default table; better later than holding others up
TRIES = 5  # while rows of ever more days come; the next call moves what is left
_DAY_MS = 86_400_000

Key = tuple[int, int, int]  # accepted_at in Unix ms, partition, seq


def table_name(parent: str, day: dt.date) -> str:
    """The table of one UTC day."""
    return f"{parent}_{day:%Y%m%d}"


async def days_of(connection: store.Connection, parent: str) -> list[dt.date]:
    """The UTC days of the rows in the default table of `parent`. Costs one look into an index for each of them."""
    days: list[dt.date] = []
    after_ms = None
    while True:
        where = "" if after_ms is None else "WHERE accepted_at >= $1"
        first_ms = await connection.fetchval(
            f"SELECT min(accepted_at) FROM {parent}_default {where}",  # noqa: S608 -- the name is ours
            *([] if after_ms is None else [after_ms]),
        )
        if first_ms is None:
            return days
        days.append(dt.datetime.fromtimestamp(first_ms / 1000, dt.UTC).date())
        after_ms = (first_ms // _DAY_MS + 1) * _DAY_MS


async def make_tables(
    connection: store.Connection, schema: str, parent: str, days: Collection[dt.date]
) -> list[str]:
    """Makes the tables of `days`, which have none, and of every day of which the default table holds rows; returns
    their names. Afterwards the default table is empty, but for what came meanwhile on other days. Raises what
    asyncpg raises; calling it again goes on."""
    for _ in range(TRIES):
        stray = await days_of(connection, parent)
        wanted = sorted({*days, *stray})
        for day in wanted:
            await _prepare(connection, schema, parent, day)
        for day in stray:
            await _copy(connection, parent, day)
        made = await _attach_all(connection, schema, parent, wanted)
        if made is not None:
            return made
    return []


async def _attach_all(
    connection: store.Connection, schema: str, parent: str, wanted: Collection[dt.date]
) -> list[str] | None:
    """Copies what came last, empties the default table, and makes the tables of `wanted` partitions; returns their
    names. None, with nothing changed, where rows of yet another day have come."""
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        await _stop_writers(connection, schema)
        attached = await present(connection, parent)
        open_ = [day for day in wanted if table_name(parent, day) not in attached]
        left = await days_of(connection, parent)
        if not {*left} <= {*open_}:
            return None
        for day in left:
            await connection.execute(_insert(parent, day, "NOT EXISTS (" + _same_row(parent, day) + ")"))
        await connection.execute(f"LOCK TABLE {parent}_default IN ACCESS EXCLUSIVE MODE")
        if left:
            await connection.execute(f"TRUNCATE {parent}_default")
        for day in open_:
            await connection.execute(_attach(parent, day))
    return [table_name(parent, day) for day in open_]


async def present(connection: store.Connection, parent: str) -> set[str]:
    """The tables that are partitions of `parent`."""
    return {r["relname"] for r in await connection.fetch(sql.STATEMENTS["partition_tables"], parent)}


async def _prepare(connection: store.Connection, schema: str, parent: str, day: dt.date) -> None:
    """Makes the table of a day, which is no partition yet, with the indexes that it will need as one."""
    name = table_name(parent, day)
    async with connection.transaction():
        await migrate.lock(connection, schema)
        if await connection.fetchval("SELECT to_regclass($1)", name) is None:
            await connection.execute(
                f"CREATE TABLE {name} (LIKE {parent} INCLUDING ALL, CONSTRAINT {name}_day CHECK ({_of_day(day)}))"
            )


async def _copy(connection: store.Connection, parent: str, day: dt.date) -> None:
    """Copies the rows of a day step by step; what comes meanwhile is left to the end."""
    after: Key | None = None
    while True:
        beyond = "true" if after is None else "(accepted_at, partition, seq) > ($1, $2, $3)"
        found = await connection.fetchrow(
            f"""
            WITH step AS (
                SELECT * FROM {parent}_default WHERE {_of_day(day)} AND {beyond}
                ORDER BY accepted_at, partition, seq LIMIT {STEP_ROWS}
            ), copied AS (INSERT INTO {table_name(parent, day)} SELECT * FROM step ON CONFLICT DO NOTHING)
            SELECT accepted_at, partition, seq FROM step ORDER BY 1 DESC, 2 DESC, 3 DESC LIMIT 1
            """,  # noqa: S608 -- names and days are ours
            *(after or ()),
        )
        if found is None:
            return
        after = (found["accepted_at"], found["partition"], found["seq"])


async def _stop_writers(connection: store.Connection, schema: str) -> None:
    """Lets nobody write rows, nor make tables, until the transaction ends: whoever writes locks its checkpoints
    first."""
    await migrate.lock(connection, schema)
    places = [(p, s) for p in range(partitions.PARTITIONS) for s in partitions.STREAMS]
    await connection.fetch(
        sql.STATEMENTS["lock_checkpoints"], write.PROJECTION, [p for p, _ in places], [s for _, s in places]
    )


def _of_day(day: dt.date) -> str:
    return f"accepted_at >= '{day} 00:00:00+00' AND accepted_at < '{day + dt.timedelta(days=1)} 00:00:00+00'"


def _same_row(parent: str, day: dt.date) -> str:
    return (
        f"SELECT FROM {table_name(parent, day)} AS copied WHERE (copied.accepted_at, copied.partition, copied.seq)"
        " = (stray.accepted_at, stray.partition, stray.seq)"
    )


def _insert(parent: str, day: dt.date, where: str) -> str:
    name = table_name(parent, day)
    return f"INSERT INTO {name} SELECT * FROM {parent}_default AS stray WHERE {_of_day(day)} AND {where}"  # noqa: S608 -- names and days are ours


def _attach(parent: str, day: dt.date) -> str:
    name = table_name(parent, day)
    bounds = f"FROM ('{day} 00:00:00+00') TO ('{day + dt.timedelta(days=1)} 00:00:00+00')"
    return (
        f"ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES {bounds};"
        f"ALTER TABLE {name} DROP CONSTRAINT {name}_day"
    )
