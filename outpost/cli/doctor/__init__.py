"""`outpost doctor`: what is wrong with a deployment, and what to do about it.

Looks at Redis and Postgres from here and changes nothing. One finding a line; 1 if there is a problem among them.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable
from typing import TextIO

import msgspec

from outpost import errors
from outpost.cli import local
from outpost.cli.doctor import dispatch as doctor_dispatch
from outpost.cli.doctor import findings as say
from outpost.cli.doctor import postgres as doctor_postgres
from outpost.cli.doctor import projections as doctor_projections
from outpost.cli.doctor import queues as doctor_queues
from outpost.cli.doctor import redis as doctor_redis
from outpost.cli.doctor import tls as doctor_tls
from outpost.cli.doctor.findings import Finding
from outpost.log.redis import client
from outpost.process import opening
from outpost.settings import Settings
from projections.logs import store as stores

OK = 0
PROBLEM = 1
LIMIT_S = 20.0  # for everything about one subject
_CHECK = {
    "redis": "check that it runs, and REDIS_HOST, REDIS_PORT, REDIS_USERNAME, REDIS_PASSWORD, REDIS_TLS_ENABLED",
    "postgres": "check that it runs, and POSTGRES_URL",
}
_ORDER = ("problem", "warn", "ok")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    local.add_config(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Prints the findings, the worst first, and returns the exit code. Raises errors.ConfigurationError."""
    return run_with(args, local.settings_of(args))


def run_with(args: argparse.Namespace, settings: Settings) -> int:
    """The same with these settings."""
    found = asyncio.run(examine(settings))
    _print(found, sys.stdout, as_json=args.json)
    return PROBLEM if any(each.severity == "problem" for each in found) else OK


async def examine(settings: Settings) -> list[Finding]:
    """Every finding about the deployment of these settings."""
    log = opening.open_log(settings)
    store = await stores.open_store(settings.postgres_url, settings.deployment_id)
    try:
        return await _examine(log, store, settings)
    finally:
        await asyncio.gather(log.close(), store.close())


async def _examine(log: client.Log, store: stores.Store, settings: Settings) -> list[Finding]:
    redis, redis_answers = await _look("redis", doctor_redis.look(log, settings))
    postgres, postgres_answers = await _look(
        "postgres", doctor_postgres.look(store, log if redis_answers else None)
    )
    found = [*redis, *postgres, doctor_tls.look(settings)]
    found += (await _look("queues", doctor_queues.look(settings)))[0]
    if redis_answers and await log.command("EXISTS", log.keys.meta):
        found += (await _look("dispatch", doctor_dispatch.look(log)))[0]
        found += (await _look("config", doctor_projections.config(log)))[0]
        if postgres_answers and not any(
            each.about == "tables" and each.severity == "problem" for each in postgres
        ):
            found += (await _look("log", doctor_projections.logs(log, store)))[0]
    return found


async def _look(about: str, work: Awaitable[list[Finding]]) -> tuple[list[Finding], bool]:
    """What `work` finds, and whether the stores answered it."""
    try:
        async with asyncio.timeout(LIMIT_S):
            return await work, True
    except errors.StoreUnavailable as exc:
        return [
            say.problem(about, f"{exc.store} does not answer as it should: {exc.reason}", _advice(exc.store))
        ], False
    except TimeoutError:
        return [say.problem(about, f"no answer within {LIMIT_S:g} s", _advice(about))], False


def _advice(store: str) -> str:
    return _CHECK.get(store, "see whether Redis and Postgres answer")


def _print(found: list[Finding], out: TextIO, *, as_json: bool) -> None:
    for each in sorted(found, key=lambda each: _ORDER.index(each.severity)):
        print(msgspec.json.encode(each).decode() if as_json else each.line(), file=out)
    if not as_json:
        counts = Counter(each.severity for each in found)
        print(f"{counts['problem']} problems, {counts['warn']} warnings", file=out)
