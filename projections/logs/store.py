"""The way to Postgres: one pool a process, and the border where foreign errors become ours.

Times cross this border as Unix milliseconds, never as datetimes: that is exact, and cheap on the write path.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from outpost import errors
from outpost.log.redis import connection as wire

CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 30.0  # a transaction of a thousand rows of a megabyte still fits
CLOSE_TIMEOUT_S = 2.0
ACQUIRE_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 10
IDLE_CONNECTION_S = 300.0
MAX_NAME_BYTES = 63  # Postgres cuts longer names off, and two deployments would share a schema
SERVER_SETTINGS = {
    "jit": "off",  # compiling a plan over many table partitions takes longer than running it
    # A process that is gone without a word must not keep its locks, which all projectors wait for: half-open
    # connections are found out by the server, and a transaction that does nothing is rolled back.
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "idle_in_transaction_session_timeout": "10s",
}
_EPOCH_MS = 946_684_800_000  # 2000-01-01, from which Postgres counts microseconds

Connection = PoolConnectionProxy


class _Connection(asyncpg.Connection):
    """Nothing here changes session state (locks are those of transactions), so the round trip that resets a
    connection on its way back into the pool is left out."""

    def get_reset_query(self) -> str:
        return ""


class Store:
    """A deployment's schema in Postgres. One a process, closed by its owner."""

    def __init__(self, pool: asyncpg.Pool, schema: str) -> None:
        self.pool = pool
        self.schema = schema

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection. Raises errors.StoreUnavailable, for what happens in the block too."""
        with mapped_errors():
            async with self.pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                yield connection

    async def close(self, limit_s: float = CLOSE_TIMEOUT_S) -> None:
        """Closes every connection. One in use may finish what it does, for at most `limit_s`; then it is cut off,
        and whoever uses it gets errors.StoreUnavailable."""
        with contextlib.suppress(TimeoutError, OSError, asyncpg.InterfaceError):
            async with asyncio.timeout(limit_s):
                await self.pool.close()  # cancelled, it ends every connection at once


def schema_name(deployment_id: str) -> str:
    """The schema of a deployment. A name too long for Postgres ends in a digest instead of being cut off."""
    name = f"outpost_{deployment_id}" if deployment_id else "outpost"
    if len(name) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: MAX_NAME_BYTES - 17]}_{digest}"


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


async def open_store(url: str, deployment_id: str = "", max_connections: int = MAX_CONNECTIONS) -> Store:
    """The log store of a deployment; connects at the first use, so Postgres may be away now."""
    schema = schema_name(deployment_id)
    pool = await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=max_connections,
        max_inactive_connection_lifetime=IDLE_CONNECTION_S,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=COMMAND_TIMEOUT_S,
        connection_class=_Connection,
        init=_init,
        server_settings={
            "search_path": quoted(schema),
            "application_name": "outpost",
            "timezone": "UTC",
            **SERVER_SETTINGS,
        },
    )
    return Store(pool, schema)


async def _init(connection: asyncpg.Connection | Connection) -> None:
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        format="tuple",
        encoder=lambda ms: ((ms - _EPOCH_MS) * 1000,),
        decoder=lambda micros: micros[0] // 1000 + _EPOCH_MS,
    )


@contextlib.contextmanager
def mapped_errors() -> Iterator[None]:
    """Turns what asyncpg raises into errors.StoreUnavailable; the text is the kind of failure only."""
    try:
        yield
    except asyncpg.PostgresError as exc:
        raise errors.StoreUnavailable("postgres", f"{type(exc).__name__} {exc.sqlstate}") from exc
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError) as exc:
        raise errors.StoreUnavailable("postgres", type(exc).__name__) from exc
    except RuntimeError as exc:
        if wire.says_closed(exc):
            raise errors.StoreUnavailable("postgres", "ConnectionClosed") from exc
        raise
