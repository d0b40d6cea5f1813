"""The tables of single days behind the log tables: made ahead, so that rows find them.

A row of a day without a table goes to the default one (a clock that jumped, a process that was away); when the
day's table is made, such rows move into it.
"""

from __future__ import annotations

import asyncio
import datetime as dt

from outpost import errors, pacing, telemetry
from projections import base
from projections.logs import migrate, sql, store, write

DAYS_AHEAD = 7
EVERY_S = 3600.0
LOCK_TIMEOUT_MS = 5_000  # attaching waits for readers of the default table; better later than holding others up


async def ensure_partitions(
    connection: store.Connection,
    schema: str,
    today: dt.date,
    ahead: int = DAYS_AHEAD,
) -> list[str]:
    """Makes the missing tables of `today` (UTC) and the `ahead` days after it; returns their names. Any number may
    run at once. Raises what asyncpg raises."""
    made: list[str] = []
    days = [today + dt.timedelta(days=n) for n in range(ahead + 1)]
    for parent in (write.EVENT_TABLE, write.ATTEMPT_TABLE, write.CHANGE_TABLE):
        if missing := await _missing(connection, parent, days):
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
                await migrate.lock(connection, schema)
                made += [
                    await _make(connection, parent, day) for day in await _missing(connection, parent, missing)
                ]
    return made


async def missing(connection: store.Connection, today: dt.date, ahead: int = DAYS_AHEAD) -> list[str]:
    """The names of those tables that are not there. Raises what asyncpg raises."""
    days = [today + dt.timedelta(days=n) for n in range(ahead + 1)]
    parents = (write.EVENT_TABLE, write.ATTEMPT_TABLE, write.CHANGE_TABLE)
    return [table_name(parent, day) for parent in parents for day in await _missing(connection, parent, days)]


def table_name(parent: str, day: dt.date) -> str:
    """The table of one UTC day."""
    return f"{parent}_{day:%Y%m%d}"


async def _missing(connection: store.Connection, parent: str, days: list[dt.date]) -> list[dt.date]:
    present = {r["relname"] for r in await connection.fetch(sql.STATEMENTS["partition_tables"], parent)}
    return [day for day in days if table_name(parent, day) not in present]


async def _make(connection: store.Connection, parent: str, day: dt.date) -> str:
    """In this order, so that no row of the day can arrive in the default table after they were moved out of it."""
    name, default = table_name(parent, day), f"{parent}_default"
    first, after = f"'{day} 00:00:00+00'", f"'{day + dt.timedelta(days=1)} 00:00:00+00'"
    await connection.execute(f"""
        LOCK TABLE ONLY {parent} IN SHARE UPDATE EXCLUSIVE MODE;
        LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE;
        CREATE TABLE {name} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
        WITH moved AS (DELETE FROM {default} WHERE accepted_at >= {first} AND accepted_at < {after} RETURNING *)
        INSERT INTO {name} SELECT * FROM moved;
        ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES FROM ({first}) TO ({after});
    """)  # noqa: S608 -- names and days are ours
    return name


async def refresh(target: store.Store, today: dt.date) -> None:
    """`ensure_partitions`, and a line if any were made. Raises errors.StoreUnavailable."""
    async with target.acquire() as connection:
        made = await ensure_partitions(connection, target.schema, today)
    if made:
        telemetry.emit("partition_tables_created", tables=made)


async def keep(target: store.Store, stop: asyncio.Event) -> None:
    """Sees every hour until `stop` that the coming days have their tables; sooner again after a failure."""
    health, pause = base.Health("partition_tables"), pacing.Pause()
    while not stop.is_set():
        try:
            await refresh(target, dt.datetime.now(dt.UTC).date())
        except errors.StoreUnavailable as exc:
            health.fell(exc.store, exc.reason)
            await pacing.sleep(pause.next_s(), stop)
            continue
        health.rose()
        pause.reset()
        await pacing.sleep(EVERY_S, stop)
