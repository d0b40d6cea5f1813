"""The tables of single days behind the log tables: made ahead, so that rows find them.

A row of a day without a table goes to the default one (a clock that jumped, a process that was away). Its day gets
a table the next time that tables are made, be it past or far ahead, and such rows move into it (`stray_rows`).
"""

from __future__ import annotations

import asyncio
import datetime as dt

from outpost import pacing, telemetry
from projections.logs import store, stray_rows, write

DAYS_AHEAD = 7
EVERY_S = 3600.0
PARENTS = (write.EVENT_TABLE, write.ATTEMPT_TABLE, write.CHANGE_TABLE)


async def ensure_partitions(
    connection: store.Connection,
    schema: str,
    today: dt.date,
    ahead: int = DAYS_AHEAD,
    *,
    move: bool = True,
) -> list[str]:
    """Makes the missing tables of `today` (UTC) and the `ahead` days after it, and those of all days that have
    rows in the default table; returns their names. Without `move`, nothing is made where there are such rows, for
    moving them may take long. Any number may run at once. Raises what asyncpg raises."""
    made: list[str] = []
    days = [today + dt.timedelta(days=n) for n in range(ahead + 1)]
    for parent in PARENTS:
        stray = await stray_rows.days_of(connection, parent)
        lacking = await _missing(connection, parent, days)
        if (lacking or stray) and (move or not stray):
            made += await stray_rows.make_tables(connection, schema, parent, lacking)
    return made


async def missing(connection: store.Connection, today: dt.date, ahead: int = DAYS_AHEAD) -> list[str]:
    """The names of those tables that are not there. Raises what asyncpg raises."""
    days = [today + dt.timedelta(days=n) for n in range(ahead + 1)]
    return [
        stray_rows.table_name(parent, day)
        for parent in PARENTS
        for day in await _missing(connection, parent, days)
    ]


async def _missing(connection: store.Connection, parent: str, days: list[dt.date]) -> list[dt.date]:
    present = await stray_rows.present(connection, parent)
    return [day for day in days if stray_rows.table_name(parent, day) not in present]


async def refresh(target: store.Store, today: dt.date, *, move: bool = True) -> None:
    """`ensure_partitions`, and a line if any were made. Raises errors.StoreUnavailable."""
    async with target.acquire() as connection:
        made = await ensure_partitions(connection, target.schema, today, move=move)
    if made:
        telemetry.emit("partition_tables_created", tables=made)


async def keep(target: store.Store, stop: asyncio.Event) -> None:
    """Sees every hour until `stop` that the coming days have their tables; sooner again after a failure."""

    async def step() -> None:
        await refresh(target, dt.datetime.now(dt.UTC).date())

    await pacing.every(EVERY_S, step, stop, telemetry.Health("partition_tables"))
