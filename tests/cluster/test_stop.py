"""How a process ends: in good order, in time, at once when it is asked twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.harness import counting, process
from tests.harness import receiver as receivers
from tests.harness.polling import eventually
from tests.harness.process import Outpost
from tests.harness.servers import RedisServer

TENANT = "acme"
PATIENT = (*process.QUICK, "outpost.process.supervise:STOP_S=60.0")  # a busy machine may take its time
HUNG_S = "300"  # longer than a test waits for the end of a process


@pytest.fixture
async def receiver() -> AsyncIterator[receivers.Receiver]:
    async with receivers.Receiver() as running:
        yield running


@pytest.fixture
async def counts(redis70: RedisServer, postgres_url: str) -> AsyncIterator[counting.Counts]:
    async with counting.Counts(redis70, postgres_url) as looking:
        yield looking


async def publish_until_refused(server: Outpost, who: int, acknowledged: list[str], refused: list[str]) -> None:
    for n in range(100_000):
        id_ = f"{who}.{n}"
        try:
            status, _, _ = await server.request("POST", "/api/v1/publish", process.event(TENANT, id_))
        except aiohttp.ClientError:
            refused.append(id_)
            return
        if status == 503:
            refused.append(id_)
            return
        assert 202 == status
        acknowledged.append(id_)


async def test_asked_to_stop_under_load_it_drains_in_time_and_loses_and_doubles_nothing(
    redis70: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver, counts: counting.Counts
):
    receiver.always(receivers.after(0.05, receivers.answer()))
    acknowledged: list[str] = []
    refused: list[str] = []
    async with Outpost(redis70, postgres_url, tmp_path, changes=PATIENT, DELIVERY_MAX_CONCURRENCY="32") as server:
        await server.tenant(TENANT)
        await server.webhook(TENANT, receiver.url())
        load = [asyncio.create_task(publish_until_refused(server, who, acknowledged, refused)) for who in range(8)]
        await eventually(lambda: len(acknowledged) > 300)
        assert 0 == await server.stop()
        await asyncio.gather(*load)
        [stopped] = [line for line in server.lines() if line["event"] == "service_stopped"]
        assert ("all", True) == (stopped["service"], stopped["in_time"])
    async with Outpost(redis70, postgres_url, tmp_path) as after:
        for id_ in refused:
            await after.publish(TENANT, id_)
        await counts.rest()
        await counts.assert_exact([*acknowledged, *refused], receiver.requests)
        assert {} == counting.doubles(receiver.requests)
        for service in ("api", "delivery", "log"):
            async with Outpost(redis70, postgres_url, tmp_path, service, changes=PATIENT) as role:
                assert 0 == await role.stop(), service
                [stopped] = [line for line in role.lines() if line["event"] == "service_stopped"]
                assert stopped["in_time"], service


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
async def test_asked_twice_it_ends_at_once(
    numbers: tuple[signal.Signals, signal.Signals],
    redis70: RedisServer,
    postgres_url: str,
    tmp_path: Path,
    receiver: receivers.Receiver,
):
    receiver.always([receivers.Do.HANG])
    async with Outpost(redis70, postgres_url, tmp_path, DELIVERY_TIMEOUT_SECONDS=HUNG_S) as server:
        await server.tenant(TENANT)
        await server.webhook(TENANT, receiver.url())
        await server.publish(TENANT, "e1")
        await eventually(lambda: receiver.requests)
        server.signal(numbers[0])
        await eventually(lambda: any(line["event"] == "service_stopping" for line in server.lines()))
        server.signal(numbers[1])
        assert 130 == await server.exit_code()
        assert "service_stopped" not in {line["event"] for line in server.lines()}


async def test_asked_to_stop_while_redis_does_not_answer_it_ends_in_time(
    own_redis: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    async with Outpost(own_redis, postgres_url, tmp_path) as server:
        await server.tenant(TENANT)
        await server.webhook(TENANT, receiver.url())
        await server.publish(TENANT, "e1")
        await eventually(lambda: receiver.requests)
        own_redis.pause()
        server.signal(signal.SIGTERM)
        await server.exit_code()
        own_redis.resume()


@pytest.mark.parametrize("missing", ["redis", "schema"])
async def test_asked_to_stop_while_it_waits_for_a_store_it_ends_at_once(
    missing: str, own_redis: RedisServer, postgres_url: str, tmp_path: Path
):
    if missing == "redis":
        own_redis.kill9()
    server = Outpost(own_redis, postgres_url, tmp_path, "api")
    server.spawn()
    try:
        await eventually(lambda: any(line["event"] == "store_awaited" for line in server.lines()))
        server.signal(signal.SIGTERM)
        assert 1 == await server.exit_code()
        assert "stopped before everything had started" in server.stderr
    finally:
        await server.end()
