"""Fixtures of real servers, each test's marker from its folder, and how parallel workers share the tests."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.harness import servers
from tests.harness.servers import PostgresServer, RedisServer

TESTS = Path(__file__).parent
FOLDERS = ("cluster", "crash", "hostile", "integration", "contract", "corpus", "unit")  # the slowest tests first
# Files that start a service of their own, wait or compute for long; `make test-fast` leaves them out.
SLOW = {
    "test_aws_queues.py",
    "test_batch_sizes.py",
    "test_broker_cycles.py",
    "test_delivery_cycles.py",
    "test_delivery_protocol.py",
    "test_destination_types.py",
    "test_gcp_publish.py",
    "test_kafka_publish.py",
    "test_kinesis_records.py",
    "test_models.py",
    "test_rabbitmq_broker.py",
    "test_s3_objects.py",
    "test_servicebus_links.py",
    "test_streams_command.py",
    "test_webhook_delivery.py",
}
LONGEST_BYTES_IN_A_NAME = 40
ALONE = ("cluster", "crash", "hostile")  # each test of these starts what it needs, and shares it with no other


def pytest_configure() -> None:
    """A shell without job control starts background commands with SIGINT ignored, and every process that a test
    starts would inherit that and never end at its Ctrl-C.

    Hypothesis draws the same examples each time, so that a run does not fail by chance, and gives each as long as
    a busy machine needs. `HYPOTHESIS_PROFILE=explore` draws others."""
    hypothesis.settings.register_profile("outpost", deadline=None, derandomize=True)
    hypothesis.settings.register_profile("explore", deadline=None, print_blob=True)
    hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "outpost"))
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Bytes that are no short text give a test their length as its name: a gzip holds the time at which it was
    made, and parallel workers have to collect the same names."""
    if isinstance(val, bytes) and (len(val) > LONGEST_BYTES_IN_A_NAME or not val.decode("latin-1").isprintable()):
        return f"{len(val)}-bytes"
    return None


def pytest_report_header() -> str:
    return servers.describe()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    """Gives each test its markers, and lets parallel workers begin with the tests that take long."""
    for item in items:
        folder = _folder(item)
        if folder in FOLDERS:
            item.add_marker(folder)
        if folder in ("unit", "corpus", "contract") and _is_quick(item):
            item.add_marker("fast")
        if folder not in ALONE:
            item.add_marker(pytest.mark.xdist_group(_group(item)))
    yield
    if hasattr(config, "workerinput"):  # after the shuffle, which is the same in every worker
        items.sort(key=lambda item: FOLDERS.index(_folder(item)))


def pytest_collection_finish() -> None:
    """Thousands of tests and their modules stay to the end: no later collection of garbage looks through them."""
    gc.collect()
    gc.freeze()


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""


def _is_quick(item: pytest.Item) -> bool:
    """Whether it ends soon; contracts of the log run on one of the two servers then."""
    return item.path.name not in SLOW and servers.REDIS_70 not in item.name


def _group(item: pytest.Item) -> str:
    """Tests of one group run in one worker: those of a file, which may share a server, or where the file's tests
    run for each destination type, those of the type."""
    kind = getattr(item, "callspec", None)
    of_type = kind.params.get("kind") if kind else None
    return f"{item.path.stem}-{of_type}" if isinstance(of_type, str) else item.path.stem


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open() -> Iterator[None]:
    """What the tests of a file leave open is found at its end and fails its last test, not one of another file."""
    yield
    gc.collect()


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
