"""Two delivery processes share every partition; one dies and the other finishes its work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import counting
from tests.harness import receiver as receivers
from tests.harness.polling import eventually
from tests.harness.process import Crash, Outpost
from tests.harness.servers import RedisServer

TENANTS = [f"tenant-{n}" for n in range(8)]
EACH = 25
SLOTS = 8


@pytest.fixture
async def receiver() -> AsyncIterator[receivers.Receiver]:
    async with receivers.Receiver() as running:
        running.always(receivers.after(0.05, receivers.answer()))
        yield running


@pytest.mark.invariant("D1", "D2", "D7", "D9")
async def test_what_a_killed_process_held_is_delivered_by_the_other_and_only_its_sends_twice(
    any_redis: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    """D1, D2, D9: sent twice at most what was on its way, recorded once all the same."""
    async with (
        counting.Counts(any_redis, postgres_url) as counts,
        Outpost(any_redis, postgres_url, tmp_path, "log"),
        Outpost(any_redis, postgres_url, tmp_path, "api") as api,
        Outpost(any_redis, postgres_url, tmp_path, "delivery", DELIVERY_MAX_CONCURRENCY=str(SLOTS)) as one,
        Outpost(any_redis, postgres_url, tmp_path, "delivery", DELIVERY_MAX_CONCURRENCY=str(SLOTS)) as two,
    ):
        for tenant in TENANTS:
            await api.tenant(tenant)
            await api.webhook(tenant, receiver.url())
        ids = [f"{tenant}.{n}" for n in range(EACH) for tenant in TENANTS]
        publishing = asyncio.gather(*(api.publish(id_.split(".")[0], id_) for id_ in ids))
        await eventually(lambda: len(receiver.requests) > len(ids) // 4)
        await one.kill()
        await publishing
        await counts.rest()
        await counts.assert_exact(ids, receiver.requests)
        assert len(ids) == await counts.deliveries("success")
        assert len(counting.doubles(receiver.requests)) <= SLOTS
        assert not two.ended


async def test_what_it_had_read_and_not_opened_is_taken_over_when_the_lease_of_its_name_ends(
    redis70: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    """Long before the sweep for what lies pending; the name is then gone from the group."""
    lease = ("outpost.log.delivery.consumers:LEASE_MS=2000", "outpost.log.delivery.consumers:RENEW_MS=500")
    crash = Crash("outpost.log.delivery.tasks:open_entries")
    async with (
        counting.Counts(redis70, postgres_url) as counts,
        Outpost(redis70, postgres_url, tmp_path, "log"),
        Outpost(redis70, postgres_url, tmp_path, "api") as api,
        Outpost(redis70, postgres_url, tmp_path, "delivery", crash=crash, changes=lease) as one,
    ):
        await api.tenant(TENANTS[0])
        await api.webhook(TENANTS[0], receiver.url())
        async with Outpost(redis70, postgres_url, tmp_path, "delivery", changes=lease):
            ids = []
            while not one.ended:  # until it is the one that reads
                ids.append(f"e{len(ids)}")
                await api.publish(TENANTS[0], ids[-1])
            await one.crashed()
            began = time.monotonic()
            await eventually(lambda: len(ids) == len(receiver.requests))
            assert 0.5 < time.monotonic() - began
            names = counts.log.keys.slots
            await eventually(lambda: _only(counts, names))
            await counts.rest()
            await counts.assert_exact(ids, receiver.requests)
            assert {} == counting.doubles(receiver.requests)


async def _only(counts: counting.Counts, names: str) -> bool:
    return 1 == await counts.log.command("HLEN", names)
