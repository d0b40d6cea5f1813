"""A store goes away under running processes and comes back: what goes on, what is refused; nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import counting, process
from tests.harness import receiver as receivers
from tests.harness.polling import eventually
from tests.harness.process import Outpost
from tests.harness.servers import PostgresServer, RedisServer

TENANT = "acme"


@pytest.fixture
async def receiver() -> AsyncIterator[receivers.Receiver]:
    async with receivers.Receiver() as running:
        yield running


async def test_without_postgres_publishing_and_delivery_go_on_and_the_log_catches_up(
    redis70: RedisServer, own_postgres: PostgresServer, tmp_path: Path, receiver: receivers.Receiver
):
    async with (
        counting.Counts(redis70, own_postgres.url) as counts,
        Outpost(redis70, own_postgres.url, tmp_path) as server,
    ):
        await server.tenant(TENANT)
        await server.webhook(TENANT, receiver.url("/good"))
        await server.publish(TENANT, "before")
        await counts.rest()
        own_postgres.kill9()
        receiver.then(receivers.answer(500))
        for n in range(30):
            assert 1 == len((await server.publish(TENANT, f"e{n}"))["destination_ids"])
        await eventually(lambda: 32 == len(receiver.requests))
        for path in ("/events", "/attempts", "/events/e1"):
            status, said, headers = await server.request("GET", f"/api/v1{path}")
            assert (503, "1") == (status, headers.get("Retry-After")), said
        assert 200 == (await server.request("GET", "/healthz"))[0]
        assert "degraded" == (await server.request("GET", "/readyz"))[1]["status"]
        await server.webhook(TENANT, receiver.url("/more"))
        own_postgres.start()
        await counts.rest()
        await counts.assert_exact(["before", *(f"e{n}" for n in range(30))], receiver.requests)
        await eventually(lambda: _lists(server, 31))
        assert 0 == await server.stop()


async def _lists(server: Outpost, events: int) -> bool:
    status, said, _ = await server.request("GET", "/api/v1/events?limit=100")
    return status == 200 and events == len(said["models"])


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_without_redis_publishing_is_refused_and_no_event_is_half_written(
    how: str, own_redis: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    async with (
        counting.Counts(own_redis, postgres_url) as counts,
        Outpost(own_redis, postgres_url, tmp_path) as server,
    ):
        await server.tenant(TENANT)
        await server.webhook(TENANT, receiver.url())
        await server.publish(TENANT, "before")
        await counts.rest()
        own_redis.kill9() if how == "killed" else own_redis.pause()
        ids = [f"e{n}" for n in range(10)]
        answers = await asyncio.gather(
            *(server.request("POST", "/api/v1/publish", process.event(TENANT, id_)) for id_ in ids)
        )
        assert [(503, "1")] * 10 == [(status, headers.get("Retry-After")) for status, _, headers in answers]
        status, said, _ = await server.request("PUT", "/api/v1/tenants/other", {})
        assert 503 == status, said
        assert 503 == (await server.request("GET", "/readyz"))[0]
        own_redis.start() if how == "killed" else own_redis.resume()
        await eventually(lambda: _publishes(server, "probe"))
        for id_ in ids:
            await server.publish(TENANT, id_)
        await counts.rest()
        await counts.assert_exact(["before", "probe", *ids], receiver.requests)
        assert {} == counting.doubles(receiver.requests)
        assert 12 == (await counts.added())["evt"]
        await eventually(lambda: _ready(server))
        assert 0 == await server.stop()


async def _publishes(server: Outpost, id_: str) -> bool:
    return 202 == (await server.request("POST", "/api/v1/publish", process.event(TENANT, id_)))[0]


async def _ready(server: Outpost) -> bool:
    return 200 == (await server.request("GET", "/readyz"))[0]
