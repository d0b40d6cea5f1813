"""The log on a real server, and a clock that its scripts believe."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from outpost.log.redis import client
from tests.contract import worlds
from tests.harness.servers import RedisServer


@pytest.fixture
async def log(any_redis: RedisServer) -> AsyncIterator[client.Log]:
    """An empty log, on Redis 7.0 and on Valkey 9 in turn."""
    opened = worlds.open_log(any_redis)
    yield opened
    await opened.close()


@pytest.fixture
def clock(log: client.Log, monkeypatch: pytest.MonkeyPatch) -> worlds.Clock:
    """What the scripts take for the time, once it is set."""
    worlds.believe_the_clock(monkeypatch)
    return worlds.Clock(log)
