"""Destinations that accept connections and never answer, beside a healthy one: it feels next to nothing of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import receiver as receivers
from tests.harness.polling import eventually
from tests.harness.process import Outpost
from tests.harness.servers import RedisServer

HOLES, A_TENANT, EVENTS_EACH = 100, 20, 10
SLOTS = 40
DOUBTFUL = SLOTS // 2  # of them may be lost to destinations that do not answer
RATE, SECONDS = 50, 4
# Behind what waits for the black holes it would be 50 s: 1,000 time-outs of a second, 20 at a time.
LATEST_S = 10.0
MEMORY_MB = 40
LIMITS = {"DELIVERY_MAX_CONCURRENCY": str(SLOTS), "LOG_LEVEL": "info"}


class Healthy:
    """A receiver that answers at once and notes when each event came, and how many sockets the holes had then."""

    def __init__(self, hole: receivers.Receiver) -> None:
        self.hole = hole
        self.arrived: dict[str, float] = {}
        self.doubled: list[str] = []
        self.most_sockets = 0

    def answer(self, request: receivers.Request) -> receivers.Script:
        id_ = request.headers["x-outpost-event-id"]
        if id_ in self.arrived:
            self.doubled.append(id_)
        self.arrived[id_] = time.monotonic()
        self.most_sockets = max(self.most_sockets, self.hole.open)
        return receivers.answer()


@pytest.fixture
async def hole() -> AsyncIterator[receivers.Receiver]:
    async with receivers.Receiver(greeting=[receivers.Do.HANG]) as running:
        yield running


@pytest.fixture
async def url() -> AsyncIterator[receivers.Receiver]:
    async with receivers.Receiver() as running:
        yield running


@pytest.fixture
def healthy(hole: receivers.Receiver, url: receivers.Receiver) -> Healthy:
    noted = Healthy(hole)
    url.always(noted.answer)
    return noted


async def dig(process: Outpost, hole: receivers.Receiver) -> None:
    """Creates the black holes and publishes to all of them."""
    tenants = [f"hole-{n}" for n in range(HOLES // A_TENANT)]
    for tenant in tenants:
        await process.tenant(tenant)
        await asyncio.gather(*(process.webhook(tenant, hole.url()) for _ in range(A_TENANT)))
    await asyncio.gather(*(process.publish(t, f"{t}.{n}") for t in tenants for n in range(EVENTS_EACH)))


async def load(process: Outpost, tenant: str, healthy: Healthy, prefix: str) -> list[float]:
    """Publishes at a steady rate, whatever comes of it; how long after its time each event came, in seconds."""
    began = time.monotonic() + 0.1
    due = {f"{prefix}{n}": began + n / RATE for n in range(RATE * SECONDS)}
    publishing = []
    for id_, at in due.items():
        await asyncio.sleep(at - time.monotonic())
        publishing.append(asyncio.create_task(process.publish(tenant, id_)))
    await asyncio.gather(*publishing)
    await eventually(lambda: due.keys() <= healthy.arrived.keys())
    return [healthy.arrived[id_] - at for id_, at in due.items()]


def memory_mb(process: Outpost) -> float:
    [line] = [li for li in Path(f"/proc/{process.pid}/status").read_text().splitlines() if li.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


async def test_black_holes_leave_the_latency_of_a_healthy_destination_and_the_memory_as_they_were(
    redis70: RedisServer,
    postgres_url: str,
    tmp_path: Path,
    hole: receivers.Receiver,
    url: receivers.Receiver,
    healthy: Healthy,
):
    async with Outpost(redis70, postgres_url, tmp_path, **LIMITS) as process:
        await process.tenant("healthy")
        await process.webhook("healthy", url.url())
        await load(process, "healthy", healthy, "alone-")
        before = memory_mb(process)
        await dig(process, hole)
        beside = await load(process, "healthy", healthy, "beside-")
        assert max(beside) < LATEST_S
        assert DOUBTFUL // 2 < healthy.most_sockets <= DOUBTFUL
        assert memory_mb(process) - before < MEMORY_MB
        assert [] == healthy.doubled


async def test_a_new_destination_does_not_wait_behind_black_holes_that_are_known(
    redis70: RedisServer,
    postgres_url: str,
    tmp_path: Path,
    hole: receivers.Receiver,
    url: receivers.Receiver,
    healthy: Healthy,
):
    async with Outpost(redis70, postgres_url, tmp_path, **LIMITS) as process:
        await dig(process, hole)
        await eventually(lambda: hole.connections >= 2 * HOLES)  # everyone was probed
        await process.tenant("new")
        await process.webhook("new", url.url())
        latencies = await load(process, "new", healthy, "new-")
        assert max(latencies) < LATEST_S
        assert [] == healthy.doubled
