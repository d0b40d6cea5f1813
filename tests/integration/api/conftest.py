"""The API over real stores; with Postgres where a test reads the log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from outpost.settings import Settings
from projections.logs import store as stores
from tests.harness.api_server import SETTINGS, Api
from tests.harness.servers import RedisServer

Start = Callable[..., Api]


@pytest.fixture
async def api(redis70: RedisServer) -> AsyncIterator[Api]:
    """Without Postgres: a read of the log is 503."""
    started = Api(SETTINGS, redis70)
    yield started
    await started.close()


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts APIs of a test's own making, and closes them however it ends."""
    started: list[Api] = []

    def start(settings: Settings, redis: RedisServer, store: stores.Store | None = None) -> Api:
        started.append(Api(settings, redis, store))
        return started[-1]

    yield start
    for api in started:
        await api.close()


@pytest.fixture
async def api_without_topics(redis70: RedisServer) -> AsyncIterator[Api]:
    """Any topic is allowed."""
    started = Api(msgspec.structs.replace(SETTINGS, topics=()), redis70)
    yield started
    await started.close()
