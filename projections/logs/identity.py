"""Which log the tables are of, held against the log in Redis before a process works with both.

A Redis that was lost and started anew has ids behind every checkpoint, so that the checkpoints alone do not show
it: what was not projected of the first log would be missed by nobody.
"""

from __future__ import annotations

from outpost import errors
from projections.logs import sql, store


async def claim(target: store.Store, namespace_id: str) -> None:
    """Makes the tables those of the log `namespace_id` if they are of none yet. Raises errors.StoreUnavailable,
    and errors.StartRefused if they are of another."""
    async with target.acquire() as connection:
        await connection.execute(sql.STATEMENTS["claim_identity"], namespace_id)
    await check(target, namespace_id)


async def check(target: store.Store, namespace_id: str) -> None:
    """Raises errors.StartRefused if the tables are of another log than `namespace_id`, and
    errors.StoreUnavailable."""
    if await of(target) not in (None, namespace_id):
        raise errors.StartRefused(
            f"The tables in the Postgres schema {target.schema} are of another log than the one in Redis. If "
            "Redis lost its data, restore it; for a new log use another DEPLOYMENT_ID, or another database."
        )


async def of(target: store.Store) -> str | None:
    """The log that the tables are of; None: of none yet. Raises errors.StoreUnavailable."""
    async with target.acquire() as connection:
        found: str | None = await connection.fetchval(sql.STATEMENTS["identity"])
        return found
