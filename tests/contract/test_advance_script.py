"""`advance`: the checkpoint of a generation, moved together with what the entries do."""

from __future__ import annotations

import asyncio

import pytest

from outpost.log import checkpoint
from outpost.log.redis import client
from tests.contract import worlds

Op = checkpoint.Operation


async def _advance(
    log: client.Log, start: str, end: str, *operations: checkpoint.Operation
) -> checkpoint.Moved | checkpoint.Lost:
    return await checkpoint.advance(log, worlds.P, 1, start, end, operations)


async def test_a_generation_that_was_never_advanced_stands_before_everything(log: client.Log) -> None:
    assert "0-0" == await checkpoint.read(log, worlds.P, 1)
    assert checkpoint.Moved() == await _advance(log, "0-0", "5-0")
    assert "5-0" == await checkpoint.read(log, worlds.P, 1)
    assert "0-0" == await checkpoint.read(log, worlds.P, 2)


async def test_the_operations_happen_in_order_with_the_move(log: client.Log) -> None:
    keys = log.keys.partitions[worlds.P]
    tenant, listing = keys.tenant(1, "acme"), keys.tenants(1)
    operations = (
        Op("HSET", tenant, ("version", 1, "tenant", b"\x00{}\r\n")),
        Op("ZADD", listing, (5, "acme")),
        Op("DEL", tenant),
        Op("HSET", tenant, ("version", 2)),
        Op("ZADD", listing, (6, "b c")),
        Op("ZREM", listing, ("acme",)),
    )
    assert checkpoint.Moved() == await _advance(log, "0-0", "5-0", *operations)
    assert {b"version": b"2"} == await log.command("HGETALL", tenant)
    assert [b"b c"] == await log.command("ZRANGE", listing, 0, -1)


async def test_whoever_starts_elsewhere_is_told_where_it_stands_and_changes_nothing(log: client.Log) -> None:
    key = log.keys.partitions[worlds.P].tenant(1, "acme")
    await _advance(log, "0-0", "5-0")
    for start in ("0-0", "4-0", "6-0"):
        assert checkpoint.Lost("5-0") == await _advance(log, start, "9-0", Op("HSET", key, ("version", 9)))
    assert 0 == await log.command("EXISTS", key)


@pytest.mark.invariant("P4")
async def test_of_many_projectors_at_one_checkpoint_one_applies(log: client.Log) -> None:
    """P4."""
    key = log.keys.partitions[worlds.P].tenant(1, "acme")
    done = await asyncio.gather(
        *(_advance(log, "0-0", "5-0", Op("HINCRBY", key, ("times", 1))) for _ in range(10))
    )
    assert 1 == done.count(checkpoint.Moved())
    assert b"1" == await log.command("HGET", key, "times")


async def test_the_active_generation_is_1_until_another_is_pointed_to(log: client.Log) -> None:
    await log.command("SET", log.keys.partitions[3].gen, 7)
    assert [1, 7] == await checkpoint.generations(log, [2, 3])


async def test_a_batch_of_the_largest_size_is_applied_at_once(log: client.Log) -> None:
    keys = log.keys.partitions[worlds.P]
    operations = [Op("HSET", keys.tenant(1, f"t{n}"), ("version", 1, "tenant", "x")) for n in range(2_000)]
    assert checkpoint.Moved() == await _advance(log, "0-0", "5-0", *operations)
    assert 2_001 == await log.command("DBSIZE")
