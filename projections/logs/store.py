"""The way to Postgres: one pool a process, and the border where foreign errors become ours.

Times cross this border as Unix milliseconds, never as datetimes: that is exact, and cheap on the write path.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import AsyncIterator, Iterator

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from outpost import errors
from outpost.log.redis import connection as wire
from outpost.settings import postgres_url
from outpost.settings.rules import Broken
from projections.logs import connecting

COMMAND_TIMEOUT_S = 30.0  # a transaction of a thousand rows of a megabyte still fits
CLOSE_TIMEOUT_S = 2.0
ACQUIRE_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 10
IDLE_CONNECTION_S = 300.0
MAX_NAME_BYTES = 63  # Postgres cuts longer names off, and two deployments would share a schema
_NO_TLS = "it does not speak TLS, which sslmode in POSTGRES_URL demands"
# By SQLSTATE. Whoever asks again is refused again, until somebody changes something.
_REFUSALS = {
    "28P01": "it does not accept the user or the password in POSTGRES_URL",
    "28000": "it lets nobody in as the user in POSTGRES_URL from here, or not without TLS (see its pg_hba.conf)",
    "3D000": "the database in POSTGRES_URL does not exist: create it",
    "42501": "the user in POSTGRES_URL may not do that: it needs CREATE on the database, or to own our schema",
}
_EPOCH_MS = 946_684_800_000  # 2000-01-01, from which Postgres counts microseconds

Connection = PoolConnectionProxy


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
    """The log store of a deployment; connects at the first use, so Postgres may be away now. Raises
    errors.ConfigurationError where the URL cannot be used."""
    address = postgres_url.parse(url)
    if isinstance(address, Broken):
        raise errors.ConfigurationError([f"POSTGRES_URL {address.must}"])
    schema = schema_name(deployment_id)
    pool = await asyncpg.create_pool(
        min_size=0,
        max_size=max_connections,
        max_inactive_connection_lifetime=IDLE_CONNECTION_S,
        command_timeout=COMMAND_TIMEOUT_S,
        connection_class=connecting.Straight,
        connect=connecting.Connecting(address, quoted(schema)),
        init=_init,
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
    """Turns what asyncpg raises into errors.StoreUnavailable, and errors.StoreRefused where asking again would not
    help; the text is the kind of failure only."""
    try:
        yield
    except asyncpg.PostgresError as exc:
        if (advice := _REFUSALS.get(exc.sqlstate or "")) is not None:
            raise errors.StoreRefused("postgres", advice) from exc
        raise errors.StoreUnavailable("postgres", f"{type(exc).__name__} {exc.sqlstate}") from exc
    except ssl.SSLCertVerificationError as exc:
        raise errors.StoreRefused("postgres", f"its certificate is not trusted ({exc.verify_message})") from exc
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError) as exc:
        if type(exc) is ConnectionError:  # what asyncpg raises where the answer to the offer of TLS is no
            raise errors.StoreRefused("postgres", _NO_TLS) from exc
        raise errors.StoreUnavailable("postgres", type(exc).__name__) from exc
    except RuntimeError as exc:
        if wire.says_closed(exc):
            raise errors.StoreUnavailable("postgres", "ConnectionClosed") from exc
        raise
