"""One tenant's flood: what it costs the others, and that all of it arrives, once."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from outpost.log import envelope
from outpost.log import partition as partitions
from tests.harness import counting
from tests.harness import node as nodes
from tests.harness import receiver as receivers
from tests.harness.polling import eventually
from tests.harness.process import Outpost
from tests.harness.servers import RedisServer

FLOOD = int(os.environ.get("OUTPOST_FLOOD", "25000"))  # 100,000 by hand
SLOW_WATCHDOG = {"DELIVERY_WATCHDOG_MS": "30000", "DELIVERY_TIMEOUT_SECONDS": "5", "LOG_LEVEL": "info"}
# As if it had been published at full speed: nothing of it is read before all of it stands there.
APPEND = """
for n = 1, tonumber(ARGV[1]) do
  ARGV[tonumber(ARGV[2])] = 'flood-' .. n
  redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3))
end
"""


@pytest.fixture
async def receiver() -> AsyncIterator[receivers.Receiver]:
    async with receivers.Receiver() as running:
        yield running


def tenants_of(partition: int) -> list[str]:
    """Some tenants of a partition, by hash."""
    return [t for t in (f"tenant-{n}" for n in range(200)) if partitions.partition_of(t) == partition]


async def flood(counts: counting.Counts, process: Outpost, tenant: str, many: int) -> None:
    """Appends so many events of the tenant, made after one that is published first, to its partition."""
    await process.publish(tenant, "first")
    [model] = [e for _, e in await nodes.entries(counts.log, "evt") if e.id == "first"]
    fields = envelope.encode_event(msgspec.structs.replace(model, data=b'{"filler":"' + b"x" * 200 + b'"}'))
    key = counts.log.keys.partitions[partitions.partition_of(tenant)].evt
    place = 3 + fields.index("id") + 1
    await counts.log.command("EVAL", APPEND, 1, key, many, place, *fields)


async def test_a_flood_delays_one_event_of_another_tenant_by_its_reading_at_most(
    redis70: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    flooding, same = tenants_of(3)[:2]
    other = tenants_of(8)[0]
    arrived: dict[str, float] = {}

    def note(request: receivers.Request) -> receivers.Script:
        arrived[request.headers["x-outpost-event-id"]] = time.monotonic()
        return receivers.answer()

    receiver.always(note)
    async with (
        counting.Counts(redis70, postgres_url) as counts,
        Outpost(redis70, postgres_url, tmp_path, changes=(), **SLOW_WATCHDOG) as process,
    ):
        for tenant in (flooding, same, other):
            await process.tenant(tenant)
            await process.webhook(tenant, receiver.url())
        for tenant in (same, other):
            await process.publish(tenant, f"warm-{tenant}")
        await eventually(lambda: 2 == len(arrived))
        await flood(counts, process, flooding, FLOOD)
        answered: dict[str, float] = {}
        for tenant in (same, other):
            await process.publish(tenant, f"single-{tenant}")
            answered[tenant] = time.monotonic()
        await eventually(lambda: {f"single-{same}", f"single-{other}"} <= arrived.keys())
        waited = {tenant: arrived[f"single-{tenant}"] - answered[tenant] for tenant in answered}
        print(f"in the same partition {waited[same]:.3f} s, in another {waited[other]:.3f} s")
        assert len(arrived) < FLOOD, "the flood was over before"


async def test_a_flood_beyond_the_bound_of_a_lane_arrives_in_the_end_every_event_once(
    any_redis: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    many = 6_000
    small = (
        "outpost.dispatch.fairness.lane:MOST_WAITING=1000",
        "outpost.dispatch.fairness.lane:LONGEST_DELAY_MS=5000",
    )
    tenant = tenants_of(5)[0]
    async with (
        counting.Counts(any_redis, postgres_url) as counts,
        Outpost(any_redis, postgres_url, tmp_path, changes=small, **SLOW_WATCHDOG) as process,
    ):
        await process.tenant(tenant)
        await process.webhook(tenant, receiver.url())
        await flood(counts, process, tenant, many)
        await counts.rest()
        expected = {"first", *(f"flood-{n}" for n in range(1, many + 1))}
        await counts.assert_exact(expected, receiver.requests)
        assert many + 1 == await counts.deliveries("success")
        assert {} == counting.doubles(receiver.requests)
