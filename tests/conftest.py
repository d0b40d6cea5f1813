"""Fixtures of real servers, and the marker that each test gets from its folder."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.harness import servers
from tests.harness.servers import PostgresServer, RedisServer

TESTS = Path(__file__).parent
FOLDERS = ("unit", "contract", "integration", "crash", "cluster", "corpus", "hostile")


def pytest_configure() -> None:
    """A shell without job control starts background commands with SIGINT ignored, and every process that a test
    starts would inherit that and never end at its Ctrl-C."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    return servers.describe()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if folder in FOLDERS:
            item.add_marker(folder)


@pytest.fixture(scope="session")
def session_servers() -> Iterator[servers.Session]:
    session = servers.Session()
    yield session
    session.close()


@pytest.fixture(params=servers.REDIS_KINDS)
async def any_redis(
    request: pytest.FixtureRequest, session_servers: servers.Session
) -> AsyncIterator[RedisServer]:
    """Empty, on Redis 7.0 and on Valkey 9 in turn."""
    server = session_servers.redis(request.param)
    yield server
    await server.close_clients()


@pytest.fixture
async def redis70(session_servers: servers.Session) -> AsyncIterator[RedisServer]:
    """Empty: Redis 7.0, or Valkey where that is missing."""
    server = session_servers.redis(_oldest_redis())
    yield server
    await server.close_clients()


@pytest.fixture
async def own_redis(request: pytest.FixtureRequest) -> AsyncIterator[RedisServer]:
    """A server of the test's own, to be killed and paused; parametrize it indirectly with REDIS_KINDS for both."""
    kind = getattr(request, "param", _oldest_redis())
    servers.require(kind)
    server = RedisServer(kind)
    yield server
    await server.close_clients()
    server.close()


def _oldest_redis() -> str:
    return servers.REDIS_70 if servers.present(servers.REDIS_70) else servers.VALKEY_9


@pytest.fixture
def postgres(session_servers: servers.Session) -> PostgresServer:
    """The session's Postgres 18; tests work in a database of their own, see `postgres_url`."""
    return session_servers.postgres(servers.POSTGRES_18)


@pytest.fixture
async def postgres_url(postgres: PostgresServer) -> AsyncIterator[str]:
    """The URL of an empty database."""
    database = await postgres.create_database()
    yield postgres.url_of(database)
    await postgres.drop_database(database)


@pytest.fixture(params=servers.POSTGRES_KINDS)
async def any_postgres_url(request: pytest.FixtureRequest, session_servers: servers.Session) -> AsyncIterator[str]:
    """The URL of an empty database, on Postgres 18 and on Debian's 15 in turn."""
    server = session_servers.postgres(request.param)
    database = await server.create_database()
    yield server.url_of(database)
    await server.drop_database(database)


@pytest.fixture
def own_postgres(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A server of the test's own with the product's settings, to be killed, stopped and paused."""
    kind = getattr(request, "param", servers.POSTGRES_18)
    servers.require(kind)
    server = PostgresServer(kind)
    yield server
    server.close()
