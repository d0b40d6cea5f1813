"""A running process keeps to the log that it started with: another one, or none, is refused on every way to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from outpost import errors
from outpost.log.delivery import tasks
from outpost.log.redis import boot_checks, client, guard
from outpost.settings import Settings
from tests.contract import worlds
from tests.harness.servers import REDIS_KINDS, RedisServer, free_port

MANY = 100  # calls at the same time

both = pytest.mark.parametrize("own_redis", REDIS_KINDS, indirect=True)


@pytest.fixture
async def own_log(own_redis: RedisServer) -> AsyncIterator[client.Log]:
    """A log that a process has started on."""
    opened = worlds.open_log(own_redis)
    await boot_checks.check(opened, Settings())
    yield opened
    await opened.close()


def _ways(log: client.Log) -> list[asyncio.Task[object]]:
    calls = (log.command("PING"), log.wait("PING"), log.pipeline([("PING",)]), tasks.claim_due(log, 1, 1))
    return [asyncio.ensure_future(call) for call in calls]


@both
async def test_a_server_with_another_log_or_none_is_refused_on_every_way_until_ours_is_back(
    own_redis: RedisServer, own_log: client.Log
) -> None:
    watch = guard.Guard(own_log)
    await watch.look()
    redis, meta = own_redis.client(), own_log.keys.meta
    ours = await redis.hgetall(meta)
    for another in ({}, {"namespace_id": "another"}):
        await redis.flushall()
        if another:
            await redis.hset(meta, mapping=another)
        with pytest.raises(errors.LogReplaced):
            await watch.look()
        for way in _ways(own_log):
            with pytest.raises(errors.LogReplaced, match="does not hold the log"):
                await way
        await redis.hset(meta, mapping=ours)
        await watch.look()
        await asyncio.gather(*_ways(own_log))


@both
async def test_a_primary_that_became_a_replica_is_told_and_left(
    own_redis: RedisServer, own_log: client.Log
) -> None:
    watch = guard.Guard(own_log)
    await asyncio.gather(*_ways(own_log))
    before = {each["id"] for each in await own_redis.client().client_list()}
    await own_redis.client().execute_command("REPLICAOF", "127.0.0.1", free_port())
    with pytest.raises(errors.StoreUnavailable, match="it is a replica"):
        await watch.look()
    await own_redis.client().execute_command("REPLICAOF", "NO", "ONE")
    await asyncio.gather(*_ways(own_log), watch.look())
    after = {each["id"] for each in await own_redis.client().client_list() if each["cmd"] != "client|list"}
    assert 3 <= len(after - before)


@both
async def test_a_write_to_a_replica_drops_every_connection(own_redis: RedisServer, own_log: client.Log) -> None:
    await tasks.claim_due(own_log, 1, 1)
    await worlds.make_due(own_log, a1=1)
    await own_redis.client().execute_command("REPLICAOF", "127.0.0.1", free_port())
    first = own_log._wire._connection
    with pytest.raises(errors.StoreUnavailable):
        await tasks.claim_due(own_log, 1, 1)
    assert first is not None
    assert first.closed


async def test_failed_snapshots_are_not_judged_where_config_is_denied(own_redis: RedisServer) -> None:
    redis = own_redis.client()
    await redis.execute_command("ACL SETUSER", "app", "on", ">x", "~*", "+@all", "-config")
    log = client.open_log(client.RedisAddress(own_redis.host, own_redis.port, username="app", password="x"))
    assert not await guard.cannot_write(log, {"rdb_last_bgsave_status": "err"})
    assert await guard.cannot_write(log, {"aof_last_write_status": "err"})
    await log.close()


async def test_a_server_that_takes_connections_and_answers_nobody_holds_up_nobody_longer_than_the_others(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "COMMAND_TIMEOUT_S", 0.5)
    log = worlds.open_log(own_redis)
    await boot_checks.check(log, Settings())
    await log.disconnect()
    own_redis.pause()
    began = time.monotonic()
    found = await asyncio.gather(*(tasks.claim_due(log, 1, 1) for _ in range(MANY)), return_exceptions=True)
    assert [errors.StoreUnavailable] * MANY == [type(each) for each in found]
    assert time.monotonic() - began < MANY * client.COMMAND_TIMEOUT_S / 2, "one waited for the other"
    own_redis.resume()
    await tasks.claim_due(log, 1, 1)
    await log.close()
