"""The API over real stores; with Postgres where a test reads the log."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from tests.harness.api_server import SETTINGS, Api
from tests.harness.servers import RedisServer


@pytest.fixture
async def api(redis70: RedisServer) -> AsyncIterator[Api]:
    """Without Postgres: a read of the log is 503."""
    started = Api(SETTINGS, redis70)
    yield started
    await started.close()


@pytest.fixture
async def api_without_topics(redis70: RedisServer) -> AsyncIterator[Api]:
    """Any topic is allowed."""
    started = Api(msgspec.structs.replace(SETTINGS, topics=()), redis70)
    yield started
    await started.close()
