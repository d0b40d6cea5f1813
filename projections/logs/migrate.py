"""The schema of the log store: which migrations there are, which were applied, and applying the others.

Each migration runs in a transaction of its own under the deployment's advisory lock, so that any number of
processes may start at once. An applied one is never edited: its checksum is held against the file.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib.resources
import time

import msgspec

from outpost import errors, telemetry
from projections.logs import apply, sql, store

LOCK_TIMEOUT_MS = 60_000  # as long as another process may take over its migrations
WAIT_S = 60.0
_POLL_S = 0.5
_READS = {"event": apply.EVENT_COLUMNS, "attempt": apply.ATTEMPT_COLUMNS, "delivery_change": apply.CHANGE_COLUMNS}
_TABLES = (
    "event_g1",
    "event_g1_default",
    "attempt_g1",
    "attempt_g1_default",
    "delivery_change_g1",
    "delivery_change_g1_default",
    "log_rejected",
    "checkpoint",
    "migration",
    "log_identity",
)


class Migration(msgspec.Struct, frozen=True):
    """One file of `migrations/`, `<version>_<name>.sql`."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.version:04}_{self.name}"


class State(msgspec.Struct, frozen=True):
    """What is missing, and what is otherwise than this code expects (a sentence each)."""

    pending: list[Migration]
    problems: list[str]


@functools.cache
def known() -> tuple[Migration, ...]:
    """The migrations of this version of the code, in order."""
    found = []
    for file in importlib.resources.files("projections.logs").joinpath("migrations").iterdir():
        if file.name.endswith(".sql"):
            version, _, name = file.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(version), name, file.read_text("utf-8")))
    return tuple(sorted(found, key=lambda m: m.version))


async def lock(connection: store.Connection, schema: str) -> None:
    """Takes the lock under which tables of this deployment are made, until the transaction ends."""
    digest = hashlib.sha256(f"outpost tables {schema}".encode()).digest()
    await connection.execute("SELECT pg_advisory_xact_lock($1)", int.from_bytes(digest[:8], signed=True))


async def state(target: store.Store) -> State:
    """How the schema stands; changes nothing. Raises errors.StoreUnavailable."""
    async with target.acquire() as connection:
        applied = await _applied(connection)
        found = await connection.fetch(sql.STATEMENTS["tables"])
    pending = [m for m in known() if m.version not in applied]
    problems = [
        f"migration {m} was edited after it had been applied"
        for m in known()
        if m.version in applied and applied[m.version] != m.checksum
    ]
    if not pending:
        problems += _differences({(r["table_name"], r["column_name"]) for r in found})
    return State(pending, problems)


def _differences(columns: set[tuple[str, str]]) -> list[str]:
    tables = {table for table, _ in columns}
    missing = [f"table {name} is missing" for name in _TABLES if name not in tables]
    for view, expected in _READS.items():
        if view not in tables:
            missing.append(f"view {view} is missing")
        else:
            missing += [f"column {name} of {view} is missing" for name in expected if (view, name) not in columns]
    return missing


async def apply_pending(target: store.Store) -> list[Migration]:
    """Applies what is missing and returns it. Raises errors.StoreUnavailable, and errors.StartRefused if the
    database cannot hold the log or an applied migration is not the one we know."""
    done: list[Migration] = []
    async with target.acquire() as connection:
        if await connection.fetchval("SHOW server_encoding") != "UTF8":
            raise errors.StartRefused("The Postgres database must have the encoding UTF8.")
        while (migration := await _apply_next(connection, target.schema)) is not None:
            done.append(migration)
            telemetry.emit("schema_migrated", migration=str(migration), schema=target.schema)
    current = await state(target)
    if current.problems:
        raise errors.StartRefused(
            "The Postgres schema is not what this version expects: "
            + "; ".join(current.problems)
            + ". See `outpost migrate verify`."
        )
    return done


async def _apply_next(connection: store.Connection, schema: str) -> Migration | None:
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        await lock(connection, schema)
        # A look into the table, since to_regnamespace may answer from before the wait for the lock.
        if await connection.fetchval("SELECT true FROM pg_namespace WHERE nspname = $1", schema) is None:
            # Not IF NOT EXISTS: that asks for the right to create even where there is nothing to create.
            await connection.execute(f"CREATE SCHEMA {store.quoted(schema)}")
        await connection.execute(sql.STATEMENTS["migration_table"])
        applied = await _applied(connection)
        for migration in known():
            if migration.version not in applied:
                await connection.execute(migration.text)
                await connection.execute(
                    sql.STATEMENTS["record_migration"], migration.version, migration.name, migration.checksum
                )
                return migration
    return None


async def _applied(connection: store.Connection) -> dict[int, str]:
    if await connection.fetchval("SELECT to_regclass('migration')") is None:
        return {}
    return {r["version"]: r["checksum"] for r in await connection.fetch(sql.STATEMENTS["migrations"])}


async def wait_for_schema(target: store.Store, limit_s: float = WAIT_S) -> None:
    """Returns once the schema is what this code expects. Raises errors.StartRefused after `limit_s`, saying why;
    newer migrations than ours are not in the way, as readers go through views."""
    end = time.monotonic() + limit_s
    said = False
    while True:
        try:
            current = await state(target)
        except errors.StoreRefused as exc:
            raise errors.StartRefused(f"{exc}.") from exc
        except errors.StoreUnavailable as exc:
            why = str(exc)
        else:
            if not current.pending and not current.problems:
                return
            why = "; ".join(current.problems) or f"migration {current.pending[0]} is not applied"
        if not said:
            telemetry.emit("store_awaited", "warning", store="postgres", reason=why)
            said = True
        if time.monotonic() >= end:
            raise errors.StartRefused(
                f"The Postgres schema was not ready within {limit_s:g} s ({why}). Run `outpost migrate apply`, or "
                "start a process with SERVICE=log or all, which does."
            )
        await asyncio.sleep(min(_POLL_S, limit_s))
