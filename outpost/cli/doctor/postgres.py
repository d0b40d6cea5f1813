"""The doctor on Postgres: whether it can hold the log tables, and whether they are what this version expects."""

from __future__ import annotations

import datetime as dt
import time

import asyncpg

from outpost.cli.doctor import findings as say
from outpost.cli.doctor import redis as doctor_redis
from outpost.cli.doctor.findings import Finding
from outpost.log.redis import client
from projections.logs import identity, migrate, partitions, sql, store

OLDEST = 15


async def look(target: store.Store, log: client.Log | None) -> list[Finding]:
    """`log` where Redis answers. Raises errors.StoreUnavailable."""
    before = time.time()
    async with target.acquire() as connection:
        [server] = await connection.fetch(sql.STATEMENTS["server"])
    clock = doctor_redis.clock_of("Postgres", server["now_ms"], before, time.time())
    found = [*_server(server), clock]
    current = await migrate.state(target)
    if current.pending or current.problems:
        found += [
            say.problem(
                "tables", f"migration {m} is not applied", "run `outpost migrate apply`, or start the role log"
            )
            for m in current.pending
        ]
        advice = "see `outpost migrate verify`; run the version that made them, or restore them"
        return found + [say.problem("tables", text, advice) for text in current.problems]
    found += await _tables(target)
    return found + (await _identity(target, log) if log is not None else [])


def _server(server: asyncpg.Record) -> list[Finding]:
    found = []
    if server["standby"]:
        found.append(say.problem("postgres", "it is a standby", "point POSTGRES_URL at the primary"))
    elif server["read_only"]:
        text = "it takes no writes (default_transaction_read_only is on)"
        advice = "turn that off once its disk has room or the failover is over; the log catches up by itself"
        found.append(say.problem("postgres", text, advice))
    if server["encoding"] != "UTF8":
        text = f"the database has the encoding {server['encoding']}"
        found.append(say.problem("postgres", text, "make one with ENCODING 'UTF8': events are UTF-8"))
    if not server["fsync"]:
        text = "fsync is off: a crash may damage the tables"
        found.append(say.warn("postgres", text, "set fsync to on"))
    version = server["version_text"].partition(" ")[0]
    if server["version"] < OLDEST * 10_000:
        found.append(say.warn("postgres", f"PostgreSQL {version} is not tested", f"use {OLDEST} or newer"))
    return found or [say.ok("postgres", f"PostgreSQL {version}, a primary that takes writes")]


async def _tables(target: store.Store) -> list[Finding]:
    today = dt.datetime.now(dt.UTC).date()
    async with target.acquire() as connection:
        missing = await partitions.missing(connection, today, 1)
        later = await partitions.missing(connection, today)
        stray = await connection.fetchval(sql.STATEMENTS["default_rows"])
        [rejected] = await connection.fetch(sql.STATEMENTS["rejected"])
    found = []
    if missing:
        text = f"tables of today or tomorrow are missing: {', '.join(missing)}"
        found.append(
            say.problem("tables", text, "run `outpost migrate apply`; a process of the role log keeps them")
        )
    elif later:
        text = f"{len(later)} tables of the coming {partitions.DAYS_AHEAD} days are missing"
        found.append(
            say.warn("tables", text, "a process of the role log makes them within the hour; see that one runs")
        )
    if stray:
        text = "rows stand in the default tables: they came on days that had no table"
        found.append(
            say.warn(
                "tables", text, "a process of the role log moves them within the hour; a clock may have jumped"
            )
        )
    if rejected["entries"]:
        stream, partition, ms, seq = rejected["last"].strip("()").split(",")
        text = f"{rejected['entries']} entries became no row, the last one {stream}.{int(partition):02}.{ms}-{seq}"
        found.append(say.warn("tables", text, "see `reason` in the table log_rejected, which keeps them"))
    return found or [say.ok("tables", f"schema {target.schema} is up to date, the coming days have their tables")]


async def _identity(target: store.Store, log: client.Log) -> list[Finding]:
    made = await log.command(*log.pin.question)
    rows = await identity.of(target)
    if made is None or rows in (None, made.decode()):
        return []
    text = f"the tables in schema {target.schema} are of another log than the one in Redis"
    return [say.problem("log", text, "restore Redis if it lost its data; for a new log use another DEPLOYMENT_ID")]
