"""A connection to Postgres, straight or through a pooler that hands it to another server with each transaction.

Behind such a pooler nothing lasts beyond a transaction, neither prepared statements nor settings, and the start-up
packet may hold hardly more than who connects. So it holds nothing else; a straight connection is then set up
once, and one through a pooler at the head of each transaction, in which every statement of it runs. Which of the
two it is shows in the number of the server process: a pooler makes up its own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import ssl
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import asyncpg

from outpost import telemetry
from outpost.settings.postgres_url import PostgresAddress

CONNECT_TIMEOUT_S = 5.0
CACHED_STATEMENTS = 100
SETTINGS = {
    "jit": "off",  # compiling a plan over many table partitions takes longer than running it
    # A process that is gone without a word must not keep its locks, which all projectors wait for: half-open
    # connections are found out by the server, and a transaction that does nothing is rolled back.
    "idle_in_transaction_session_timeout": "'10s'",
}
# Of a connection that is ours alone.
STRAIGHT_SETTINGS = {
    "timezone": "'UTC'",
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


class Straight(asyncpg.Connection):
    """Nothing here changes session state (locks are those of transactions), so the round trip that resets a
    connection on its way back into the pool is left out."""

    settings = ""  # what a transaction begins with

    def get_reset_query(self) -> str:
        return ""


class Pooled(Straight):
    """Every statement runs in a transaction, and every transaction begins with `settings`."""

    @contextlib.asynccontextmanager
    async def _inside(self) -> AsyncIterator[None]:
        if self.is_in_transaction():
            yield
        else:
            async with self.transaction():
                yield

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """As the driver's; what begins a transaction of it, too, so that the settings cost no round trip."""
        if query.startswith("BEGIN"):
            return await super().execute(query + self.settings, **options)
        async with self._inside():
            return await super().execute(query, *args, **options)

    async def fetch(self, *args: Any, **options: Any) -> Any:
        async with self._inside():
            return await super().fetch(*args, **options)

    async def fetchrow(self, *args: Any, **options: Any) -> Any:
        async with self._inside():
            return await super().fetchrow(*args, **options)

    async def fetchval(self, *args: Any, **options: Any) -> Any:
        async with self._inside():
            return await super().fetchval(*args, **options)

    async def copy_records_to_table(self, *args: Any, **options: Any) -> Any:
        async with self._inside():
            return await super().copy_records_to_table(*args, **options)


class Connecting:
    """Makes the connections of one pool; remembers whether a pooler answers."""

    def __init__(self, address: PostgresAddress, search_path: str) -> None:
        self._address = address
        self._search_path = search_path
        # The driver asks with a statement whether it is the primary, before we can ask whether it is a pooler.
        self._pooled = address.pooled or "target_session_attrs" in address.words
        self._said = False

    async def __call__(self, *_: Any, **options: Any) -> asyncpg.Connection:
        """For `asyncpg.create_pool`. Raises what asyncpg raises."""
        taken_for, tried = self._pooled, 0
        while True:
            tried += 1
            connection = await self._connect(taken_for, options)
            try:
                pooled = self._address.pooled or not await _is_straight(connection)
                if pooled is taken_for or (taken_for and tried > 1):  # as through a pooler works in any case
                    await self._prepare(taken_for, connection)
                    return connection
            except BaseException:
                connection.terminate()
                raise
            await connection.close()
            taken_for = self._pooled = pooled  # while others may be under way

    async def _connect(self, pooled: bool, options: dict[str, Any]) -> Straight:
        address = self._address
        server_settings = {"application_name": address.application_name or "outpost"}
        if address.options:
            server_settings["options"] = address.options
        hosts = [host.name for host in address.hosts]
        connection = await asyncpg.connect(
            # Only words are in here: what raises may repeat them.
            f"postgres://?{urllib.parse.urlencode(self._words())}",
            **options
            | {
                "connection_class": Pooled if pooled else Straight,
                "statement_cache_size": 0 if pooled else CACHED_STATEMENTS,
                "timeout": address.connect_timeout_s or CONNECT_TIMEOUT_S,
                "host": hosts or None,
                "port": [host.port or 5432 for host in address.hosts] or None,
                "user": address.user,
                "password": address.password,
                "database": address.database,
                "ssl": _context(address),
                "server_settings": server_settings,
            },
        )
        return cast("Straight", connection)

    def _words(self) -> dict[str, str]:
        mode = {"sslmode": self._address.mode} if self._address.mode and _context(self._address) is None else {}
        return self._address.words | mode

    async def _prepare(self, pooled: bool, connection: Straight) -> None:
        path = {"search_path": self._search_path}
        if pooled:
            connection.settings = _sets("SET LOCAL", path | SETTINGS)
            if not self._said:
                self._said = True
                telemetry.emit("pooler_found")
        else:
            await connection.execute(_sets("SET", path | SETTINGS | STRAIGHT_SETTINGS))


async def _is_straight(connection: asyncpg.Connection) -> bool:
    """Whether the process that serves this is the one that it said it is. By the simple protocol, which needs no
    prepared statement: the tag says how many rows there are."""
    number = connection.get_server_pid()
    return await Straight.execute(connection, f"SELECT WHERE pg_backend_pid() = {number:d}") == "SELECT 1"


def _sets(command: str, settings: dict[str, str]) -> str:
    return "".join(f"{command} {name} = {value};" for name, value in settings.items())


@functools.lru_cache(maxsize=8)
def _context_of(mode: str, words: tuple[tuple[str, str], ...]) -> ssl.SSLContext:
    given = dict(words)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which has no strict flag under any version of Python
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = mode == "verify-full"
    context.verify_mode = ssl.CERT_NONE if mode == "no-verify" else ssl.CERT_REQUIRED
    context.load_default_certs()
    context.set_alpn_protocols(["postgresql"])
    if given.get("sslcert"):
        context.load_cert_chain(given["sslcert"], given.get("sslkey"), given.get("sslpassword", ""))
    return context


def _context(address: PostgresAddress) -> ssl.SSLContext | None:
    """Of our own for what the driver has no word for: TLS that verifies nothing whatever files there are, and the
    authorities of this machine where no file names others. None: the driver does as `sslmode` says."""
    named = address.words.get("sslrootcert") or os.environ.get("PGSSLROOTCERT")
    file = named if named != "system" else None
    verifies = address.mode in ("verify-ca", "verify-full")
    if address.mode == "no-verify" or (verifies and not file and not _has_own_authorities()):
        return _context_of(address.mode, tuple(sorted(address.words.items())))
    return None


def _has_own_authorities() -> bool:
    try:
        return (Path.home() / ".postgresql" / "root.crt").exists()
    except (OSError, RuntimeError):
        return False
