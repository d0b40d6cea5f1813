"""The servers that the other tests rely on do what their fixtures say."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
import redis.exceptions

from tests.harness.servers import (
    POSTGRES_KINDS,
    REDIS_KINDS,
    PostgresServer,
    RedisServer,
    eventually,
    wait_for_port,
)


async def test_any_redis_is_empty_and_durable(any_redis: RedisServer) -> None:
    client = any_redis.client()
    assert await client.dbsize() == 0
    await client.set("left", "over")
    assert await client.config_get("appendfsync") == {"appendfsync": "always"}


@pytest.mark.parametrize("own_redis", REDIS_KINDS, indirect=True)
async def test_a_killed_redis_keeps_acknowledged_writes_on_the_same_port(own_redis: RedisServer) -> None:
    client = own_redis.client()
    for number in range(200):
        await client.xadd("stream", {"n": number})
    own_redis.kill9()
    with pytest.raises(redis.exceptions.ConnectionError):
        await client.ping()
    port = own_redis.port
    own_redis.restart()
    assert port == own_redis.port
    assert await own_redis.client().xlen("stream") == 200


async def test_a_paused_redis_answers_after_it_is_resumed(own_redis: RedisServer) -> None:
    client = own_redis.client()
    await client.ping()
    own_redis.pause()
    answer = asyncio.ensure_future(client.ping())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(answer), 0.2)
    own_redis.resume()
    assert await asyncio.wait_for(answer, 60)


async def test_every_test_gets_an_empty_database(any_postgres_url: str) -> None:
    connection = await asyncpg.connect(any_postgres_url)
    assert await connection.fetchval("select count(*) from pg_tables where schemaname = 'public'") == 0
    await connection.execute("create table left_over (i int)")
    await connection.close()


@pytest.mark.parametrize("own_postgres", POSTGRES_KINDS, indirect=True)
async def test_a_killed_postgres_keeps_committed_rows_on_the_same_port(own_postgres: PostgresServer) -> None:
    connection = await asyncpg.connect(own_postgres.url)
    await connection.execute("create table kept (i int); insert into kept select generate_series(1, 500)")
    own_postgres.kill9()
    await eventually(connection.is_closed)
    with pytest.raises(OSError):
        await asyncpg.connect(own_postgres.url)
    port = own_postgres.port
    own_postgres.restart()
    await wait_for_port(port)
    connection = await asyncpg.connect(own_postgres.url)
    assert await connection.fetchval("select count(*) from kept") == 500
    await connection.close()


async def test_a_paused_postgres_answers_after_it_is_resumed(own_postgres: PostgresServer) -> None:
    connection = await asyncpg.connect(own_postgres.url)
    own_postgres.pause()
    answer = asyncio.ensure_future(connection.fetchval("select 1"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(answer), 0.2)
    own_postgres.resume()
    assert await asyncio.wait_for(answer, 60) == 1
    await connection.close()
