"""Opens the stores of a process: the way to the log, and waiting at a start until a store answers and fits."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from outpost import errors, pacing, telemetry
from outpost.log.redis import client
from outpost.settings import Settings
from projections.logs import identity, migrate, partitions, store

T = TypeVar("T")

STORE_WAIT_S = 60.0  # how long a start waits for a store


def open_log(settings: Settings) -> client.Log:
    """The log of this deployment; connects at the first command."""
    address = client.RedisAddress(
        host=settings.redis_host,
        port=settings.redis_port,
        username=settings.redis_username or None,
        password=settings.redis_password or None,
        database=settings.redis_database,
        tls=settings.redis_tls_enabled,
        tls_verify=settings.redis_tls_verify,
        unix_socket=settings.redis_unix_socket or None,
    )
    return client.open_log(address, settings.deployment_id)


async def prepare_schema(target: store.Store, service: str, namespace_id: str, stop: asyncio.Event) -> None:
    """Brings the schema up to date in the roles `log` and `all`; the others wait until it is. Raises
    errors.StartRefused where the tables are those of another log than `namespace_id`, or Postgres stays away."""
    if service == "api":
        await migrate.wait_for_schema(target, STORE_WAIT_S)
        await wait_for("postgres", lambda: identity.check(target, namespace_id), stop)
        return

    async def prepare() -> None:
        await migrate.apply_pending(target)
        await identity.claim(target, namespace_id)
        # What may take long, moving rows of days without a table, is left to `partitions.keep`.
        await partitions.refresh(target, dt.datetime.now(dt.UTC).date(), move=False)

    await wait_for("postgres", prepare, stop)


async def wait_for(name: str, prepare: Callable[[], Coroutine[Any, Any, T]], stop: asyncio.Event) -> T:
    """What `prepare` returns; runs it again and again while the store `name` is away. Raises errors.StartRefused
    after `STORE_WAIT_S`, or at once where the store refuses for good."""
    loop = asyncio.get_running_loop()
    give_up, pause, said = loop.time() + STORE_WAIT_S, pacing.Pause(), False
    while True:
        try:
            return await prepare()
        except errors.StoreRefused as exc:
            raise errors.StartRefused(f"{exc}.") from exc
        except errors.StoreUnavailable as exc:
            if loop.time() > give_up:
                raise errors.StartRefused(
                    f"{name} did not answer within {STORE_WAIT_S:g} s: {exc.reason}"
                ) from exc
            if not said:
                telemetry.emit("store_awaited", "warning", store=name, reason=exc.reason)
            said = True
            await pacing.sleep(pause.next_s(), stop)
