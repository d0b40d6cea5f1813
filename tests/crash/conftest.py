"""What every crash test starts from: a receiver, and somebody who counts."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.crash import scene
from tests.harness import counting
from tests.harness import receiver as receivers
from tests.harness.process import Outpost
from tests.harness.servers import RedisServer

Serve = Callable[..., Outpost]


@pytest.fixture
async def receiver() -> AsyncIterator[receivers.Receiver]:
    """Takes everything at /good; refuses each event once at /flaky."""
    refused: set[str] = set()

    def answer(request: receivers.Request) -> receivers.Script:
        id_ = request.headers["x-outpost-event-id"]
        if request.target == "/flaky" and id_ not in refused:
            refused.add(id_)
            return receivers.answer(500)
        return receivers.after(0.02, receivers.answer())

    async with receivers.Receiver() as running:
        running.always(answer)
        yield running


@pytest.fixture
async def counts(redis70: RedisServer, postgres_url: str) -> AsyncIterator[counting.Counts]:
    async with counting.Counts(redis70, postgres_url) as looking:
        yield looking


@pytest.fixture
def serve(redis70: RedisServer, postgres_url: str, tmp_path: Path) -> Serve:
    """A process of ours on the test's stores: `serve("api", crash=..)`."""
    return functools.partial(Outpost, redis70, postgres_url, tmp_path, changes=scene.CHANGES, **scene.ENVIRONMENT)
