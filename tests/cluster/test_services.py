"""The three services apart over stores that they share: any of them first, several of each, one for another."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import counting
from tests.harness import node as nodes
from tests.harness import receiver as receivers
from tests.harness.polling import eventually
from tests.harness.process import QUICK, Outpost
from tests.harness.servers import PostgresServer, RedisServer

TENANT = "acme"
# One that is busy does not lose its turn at once.
STEADY = (*QUICK, "outpost.log.upkeep.leadership:TURN_MS=8000")
# What a service waits for, where nothing else runs yet; a delivery process can do without Postgres.
WAITS = {"api": ["redis", "postgres"], "delivery": ["redis"], "log": ["redis", "postgres"]}


@pytest.fixture
async def receiver() -> AsyncIterator[receivers.Receiver]:
    async with receivers.Receiver() as running:
        yield running


def awaited(server: Outpost) -> list[str]:
    return [line["store"] for line in server.lines() if line["event"] == "store_awaited"]


@pytest.mark.parametrize("first", ["api", "delivery", "log"])
async def test_whichever_starts_first_waits_for_what_it_needs_and_says_for_what(
    first: str,
    own_redis: RedisServer,
    own_postgres: PostgresServer,
    tmp_path: Path,
    receiver: receivers.Receiver,
):
    own_redis.kill9()
    own_postgres.kill9()
    services = {name: Outpost(own_redis, own_postgres.url, tmp_path, name) for name in WAITS}
    async with contextlib.AsyncExitStack() as stack:
        for server in services.values():
            stack.push_async_exit(server)
        services[first].spawn()
        await eventually(lambda: ["redis"] == awaited(services[first]))
        own_redis.start()
        await eventually(lambda: WAITS[first] == awaited(services[first]))
        own_postgres.start()
        if first != "api":  # which waits for the schema, too
            await services[first].ready()
        for name in sorted({*services} - {first}):
            services[name].spawn()
        for server in services.values():
            await server.ready()
        counts = await stack.enter_async_context(counting.Counts(own_redis, own_postgres.url))
        await services["api"].tenant(TENANT)
        await services["api"].webhook(TENANT, receiver.url())
        await services["api"].publish(TENANT, "e1")
        await counts.rest()
        await counts.assert_exact(["e1"], receiver.requests)
        for server in services.values():
            assert 0 == await server.stop()


async def test_one_tenant_alone_uses_both_delivery_processes_and_nothing_comes_twice(
    any_redis: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    """Its events lie in one partition, which both read; without a crash nobody sends twice (D9)."""
    receiver.always(receivers.after(0.02, receivers.answer()))
    slots = {"DELIVERY_MAX_CONCURRENCY": "16"}
    async with (
        counting.Counts(any_redis, postgres_url) as counts,
        Outpost(any_redis, postgres_url, tmp_path, "log"),
        Outpost(any_redis, postgres_url, tmp_path, "delivery", **slots),
        Outpost(any_redis, postgres_url, tmp_path, "delivery", **slots),
        Outpost(any_redis, postgres_url, tmp_path, "api") as api,
    ):
        await api.tenant(TENANT)
        await api.webhook(TENANT, receiver.url())
        ids = [f"e{n}" for n in range(400)]
        for at in range(0, len(ids), 10):
            await asyncio.gather(*(api.publish(TENANT, id_) for id_ in ids[at : at + 10]))
        await counts.rest()
        await counts.assert_exact(ids, receiver.requests)
        assert {} == counting.doubles(receiver.requests)
        shares = Counter(entry.by for entry in await nodes.attempts(counts.log))
        assert 2 == len(shares)
        assert min(shares.values()) > len(ids) // 10


async def test_one_log_process_projects_and_another_goes_on_when_it_stops_or_dies(
    redis70: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    async with (
        counting.Counts(redis70, postgres_url) as counts,
        Outpost(redis70, postgres_url, tmp_path, "log", changes=STEADY) as one,
        Outpost(redis70, postgres_url, tmp_path, "log", changes=STEADY) as two,
        Outpost(redis70, postgres_url, tmp_path, "log", changes=STEADY) as three,
        Outpost(redis70, postgres_url, tmp_path, "delivery"),
        Outpost(redis70, postgres_url, tmp_path, "api") as api,
    ):
        await api.tenant(TENANT)
        await api.webhook(TENANT, receiver.url())
        alive, published = [one, two, three], []
        while True:
            for n in range(20):
                published.append(f"{len(alive)}.{n}")
                await api.publish(TENANT, published[-1])
            await counts.rest()
            worked = [each for each in alive if _projected(each)]
            assert 1 == len(worked)
            alive.remove(worked[0])
            if len(alive) == 2:
                assert 0 == await worked[0].stop()
            elif len(alive) == 1:
                await worked[0].kill()
            else:
                break
        await counts.assert_exact(published, receiver.requests)


def _projected(server: Outpost) -> bool:
    return any(line["event"] == "log_projected" for line in server.lines())
