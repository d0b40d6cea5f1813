"""`outpost migrate plan|apply|verify`: the Postgres schema, by hand. Roles `log` and `all` apply it themselves."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable

from outpost import errors
from outpost import settings as settings_module
from outpost.cli import local
from projections.logs import migrate, partitions
from projections.logs import store as stores

OK = 0
NOT_OK = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The action and its options."""
    parser.add_argument("action", choices=["plan", "apply", "verify"])
    # As the published command takes it; nothing is asked here.
    parser.add_argument("-y", "--yes", action="store_true", help="taken for scripts: nothing is asked")
    local.add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the action that was parsed. Raises errors.ConfigurationError."""
    actions = {"plan": plan, "apply": apply, "verify": verify}
    return actions[args.action](local.settings_of(args))


def plan(settings: settings_module.Settings) -> int:
    """Prints what `apply` would run; changes nothing. 1 if Postgres cannot be asked."""
    return _with_store(settings, _plan)


def apply(settings: settings_module.Settings) -> int:
    """Applies what is missing and makes the tables of the coming days. 1 if that is not possible."""
    return _with_store(settings, _apply)


def verify(settings: settings_module.Settings) -> int:
    """Prints what is otherwise than this version expects. 1 if anything is."""
    return _with_store(settings, _verify)


def _with_store(settings: settings_module.Settings, work: Callable[[stores.Store], Awaitable[int]]) -> int:
    if not settings.postgres_url:
        print("POSTGRES_URL is not set.")
        return NOT_OK

    async def run() -> int:
        store = await stores.open_store(settings.postgres_url, settings.deployment_id)
        try:
            return await work(store)
        except (errors.StoreUnavailable, errors.StartRefused) as exc:
            print(exc)
            return NOT_OK
        finally:
            await store.close()

    return asyncio.run(run())


async def _plan(store: stores.Store) -> int:
    current = await migrate.state(store)
    for migration in current.pending:
        print(f"would apply {migration} to schema {store.schema}")
    if not current.pending:
        print(f"nothing to apply to schema {store.schema}")
    return OK


async def _apply(store: stores.Store) -> int:
    for migration in await migrate.apply_pending(store):
        print(f"applied {migration} to schema {store.schema}")
    async with store.acquire() as connection:
        today = dt.datetime.now(dt.UTC).date()
        made = await partitions.ensure_partitions(connection, store.schema, today)
    print(f"schema {store.schema} is up to date, {len(made)} day tables made")
    return OK


async def _verify(store: stores.Store) -> int:
    current = await migrate.state(store)
    problems = [f"migration {m} is not applied" for m in current.pending] + current.problems
    for problem in problems:
        print(problem)
    if not problems:
        print(f"schema {store.schema} is what this version expects")
    return NOT_OK if problems else OK
