"""What a Kinesis with policies does with batches, beside what the suite of all types asks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import pytest

from outpost import settings
from outpost.adapters import base, registry
from tests.harness.destinations import kinesis

COUNT = 8
ONE_BY_ONE = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "kinesis:PutRecord", "Resource": "*"}],
    }
)


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    yield
    kinesis.World.end_session()


@pytest.fixture
async def world() -> AsyncIterator[kinesis.World]:
    async with kinesis.World() as started:
        yield started


async def test_a_policy_as_published_is_enough_though_it_allows_no_batches(world: kinesis.World):
    target = await world.target()
    keys = await asyncio.to_thread(world.moto.user, ONE_BY_ONE)
    types = registry.build(
        settings.Settings(destinations_allowed_cidrs=("127.0.0.0/8",), delivery_timeout_ms=30_000)
    )
    adapter = types.get("aws_kinesis")
    assert adapter is not None
    config = {**target.config, "partition_key_template": "data.customer"}
    publisher = await adapter.connect(
        base.OpenDestination("t", "d", "aws_kinesis", config, keys.credentials(), {})
    )
    bodies = [json.dumps({"customer": n % 3, "n": n}).encode() for n in range(COUNT)]
    batch = [
        base.Delivery(f"evt_{n}", "t", "2026-01-02T03:04:05.678Z", {}, body, 1) for n, body in enumerate(bodies)
    ]
    outcomes = await publisher.send(batch, asyncio.get_running_loop().time() + 30.0)
    assert ["OK"] * COUNT == [outcome.code for outcome in outcomes]
    assert 1 == publisher.max_batch
    operations = [asked.target.partition(".")[2] for asked, _ in world.front.seen]
    assert ["PutRecords", *["PutRecord"] * COUNT] == operations
    arrived = await world.arrived(target, COUNT)
    assert sorted(bodies) == sorted(message.body for message in arrived)
    assert all(str(json.loads(each.body)["customer"]) == each.extra["partition_key"] for each in arrived)
    await publisher.close()
    await types.close()
