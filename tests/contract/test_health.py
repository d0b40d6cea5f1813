"""Boot checks: what the log cannot stand on is refused, each with what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from outpost import errors
from outpost.log.redis import boot_checks, client
from outpost.settings import Settings
from tests.contract import worlds
from tests.harness.servers import REDIS_KINDS, RedisServer, free_port

both = pytest.mark.parametrize("own_redis", REDIS_KINDS, indirect=True)
SETTINGS = Settings()


@pytest.fixture
async def own_log(own_redis: RedisServer) -> AsyncIterator[client.Log]:
    opened = worlds.open_log(own_redis)
    yield opened
    await opened.close()


async def _refusal(log: client.Log, durability: str = "always") -> str:
    with pytest.raises(errors.StartRefused) as caught:
        await boot_checks.check(log, Settings(redis_durability=durability))
    return str(caught.value)


async def test_a_new_log_on_a_fitting_server_is_marked_as_ours(log: client.Log) -> None:
    assert [] == await boot_checks.problems(log, SETTINGS)
    assert 0 == await log.command("DBSIZE")
    made = await boot_checks.check(log, SETTINGS)
    meta = {k.decode(): v.decode() for k, v in (await log.command("HGETALL", log.keys.meta)).items()}
    expected = {
        "partitions": "16",
        "format_version": "1",
        "read_model_version": "1",
        "marks": "1",
        "namespace_id": made.namespace_id,
    }
    assert expected == meta
    assert made == await boot_checks.check(log, SETTINGS)


async def test_of_many_first_starts_one_names_the_log(log: client.Log) -> None:
    made = await asyncio.gather(*(boot_checks.check(log, SETTINGS) for _ in range(10)))
    assert 1 == len({meta.namespace_id for meta in made})


async def test_each_deployment_has_a_log_of_its_own(any_redis: RedisServer, log: client.Log) -> None:
    other = worlds.open_log(any_redis, "blue")
    assert await boot_checks.check(log, SETTINGS) != await boot_checks.check(other, SETTINGS)
    await other.close()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("partitions", "32", "made with partitions 32, this version has 16"),
        ("format_version", "2", "made with format version 2, this version has 1"),
        ("read_model_version", "7", "made with read model version 7, this version has 1"),
    ],
)
async def test_a_log_of_another_make_is_refused_and_left_as_it_is(
    log: client.Log, field: str, value: str, words: str
) -> None:
    await log.command("HSET", log.keys.meta, field, value)
    assert words in await _refusal(log)
    assert {field.encode(): value.encode()} == await log.command("HGETALL", log.keys.meta)
    with pytest.raises(errors.StartRefused):
        await boot_checks.prepare(log)


@both
async def test_a_server_that_evicts_is_refused_whatever_loss_is_accepted(own_log: client.Log) -> None:
    await own_log.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    for durability in ("always", "always-by-provider", "accept-loss"):
        assert "set maxmemory-policy to noeviction" in await _refusal(own_log, durability)


@both
@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("appendfsync", "everysec", "appendfsync is everysec"),
        ("appendfsync", "no", "appendfsync is no"),
        ("appendonly", "no", "set appendonly to yes"),
    ],
)
async def test_a_server_that_could_lose_a_write_is_refused_unless_that_is_said_to_be_all_right(
    own_log: client.Log, option: str, value: str, words: str
) -> None:
    await own_log.command("CONFIG", "SET", option, value)
    refusal = await _refusal(own_log)
    assert all(part in refusal for part in (words, "REDIS_DURABILITY=accept-loss"))
    for durability in ("always-by-provider", "accept-loss"):
        assert [] == await boot_checks.problems(own_log, Settings(redis_durability=durability))


@both
async def test_a_server_that_denies_config_is_refused_unless_the_provider_is_trusted(
    own_redis: RedisServer, own_log: client.Log
) -> None:
    await own_log.command("ACL", "SETUSER", "app", "on", ">hunter2", "~*", "+@all", "-config")
    address = client.RedisAddress(own_redis.host, own_redis.port, username="app", password="hunter2")
    log = client.open_log(address)
    refusal = await _refusal(log)
    assert all(part in refusal for part in ("CONFIG is denied", "always-by-provider"))
    assert "hunter2" not in refusal
    await boot_checks.check(log, Settings(redis_durability="always-by-provider"))
    await log.close()


@both
async def test_every_problem_is_told_at_once_one_a_line(own_log: client.Log) -> None:
    await own_log.command("CONFIG", "SET", "maxmemory-policy", "volatile-ttl", "appendfsync", "everysec")
    await own_log.command("HSET", own_log.keys.meta, "partitions", "8", "format_version", "3")
    assert 4 == len((await _refusal(own_log)).splitlines())


@both
async def test_a_replica_is_refused(own_log: client.Log) -> None:
    await own_log.command("REPLICAOF", "127.0.0.1", free_port())
    assert "point REDIS_HOST at the primary" in await _refusal(own_log)


@pytest.mark.parametrize(
    ("version", "refused"), [("6.2.14", True), ("7.0.0", False), ("7.2.4", False), ("10.1", False), ("", True)]
)
def test_servers_before_7_0_are_refused(version: str, refused: bool) -> None:
    info = {"redis_version": version, "role": "master", "maxmemory_policy": "noeviction"}
    assert refused == bool(boot_checks._server_problems(info))


async def test_a_server_that_is_away_is_no_refusal() -> None:
    log = client.open_log(client.RedisAddress("127.0.0.1", free_port()))
    with pytest.raises(errors.StoreUnavailable):
        await boot_checks.check(log, SETTINGS)
    await log.close()
