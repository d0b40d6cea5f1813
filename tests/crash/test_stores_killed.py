"""Redis and Postgres are killed under load, again and again, and started on what is on their disks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.crash import scene
from tests.harness import counting
from tests.harness import receiver as receivers
from tests.harness.polling import eventually
from tests.harness.process import Outpost
from tests.harness.servers import Controlled, PostgresServer, RedisServer

EVENTS = 300
KILLS = 3
# No process of ours dies here, so nothing waits for the end of a long lease.
ENVIRONMENT = scene.ENVIRONMENT | {"DELIVERY_TIMEOUT_SECONDS": "5"}


async def _load_and_kill(
    server: Outpost, store: Controlled, receiver: receivers.Receiver, counts: counting.Counts
) -> None:
    client = scene.Client(EVENTS)
    await scene.prepare(server, receiver)
    publishing = asyncio.create_task(client.insist(server))
    for kill in range(1, KILLS + 1):
        await eventually(lambda part=kill: len(client.answers) >= EVENTS * part / (KILLS + 1))
        store.kill9()
        store.start()
    await publishing
    await scene.count(client, counts, receiver)
    assert 0 == await server.stop()


@pytest.mark.invariant("L1", "D1")
async def test_a_redis_that_is_killed_keeps_everything_that_was_acknowledged(
    own_redis: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
) -> None:
    async with (
        counting.Counts(own_redis, postgres_url) as counts,
        Outpost(own_redis, postgres_url, tmp_path, changes=scene.CHANGES, **ENVIRONMENT) as server,
    ):
        await _load_and_kill(server, own_redis, receiver, counts)


@pytest.mark.invariant("P3")
async def test_a_postgres_that_is_killed_has_every_row_once_in_the_end(
    redis70: RedisServer, own_postgres: PostgresServer, tmp_path: Path, receiver: receivers.Receiver
) -> None:
    async with (
        counting.Counts(redis70, own_postgres.url) as counts,
        Outpost(redis70, own_postgres.url, tmp_path, changes=scene.CHANGES, **ENVIRONMENT) as server,
    ):
        await _load_and_kill(server, own_postgres, receiver, counts)
