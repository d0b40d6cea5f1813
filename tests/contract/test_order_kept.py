"""Types that promise an order keep it: sixty events of one group, published one after the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from outpost import settings
from outpost.adapters import base, registry
from tests.harness import servers
from tests.harness.destinations import moto, servicebus, world, world_of

COUNT = 60
LIMIT_S = 60.0  # only what fails waits so long
# What makes a group of the events of one customer.
GROUPED: dict[str, dict[str, str]] = {
    "aws_sqs": {"message_group_id_template": "data.customer"},
    "aws_kinesis": {"partition_key_template": "data.customer"},
    "gcp_pubsub": {"ordering_key_template": "data.customer"},
    "azure_servicebus": {"session_id_template": "data.customer"},
}


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    yield
    moto.AwsWorld.end_session()
    servicebus.World.end_session()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.mark.case(40)
@pytest.mark.parametrize("type_", GROUPED)
async def test_sixty_events_of_a_group_arrive_in_order_beside_those_of_another(
    stack: AsyncExitStack, type_: str
) -> None:
    kind = world_of(type_)
    if missing := kind.missing():
        servers.leave_out(missing)
    started: Any = await stack.enter_async_context(kind())
    target = await _ordered(started)
    types = registry.build(settings.Settings(destinations_allowed_cidrs=("127.0.0.0/8",)))
    stack.push_async_callback(types.close)
    adapter = types.get(type_)
    assert adapter is not None
    config = {**target.config, **GROUPED[type_]}
    publisher = await adapter.connect(base.OpenDestination("t", "d", type_, config, target.credentials, {}))
    stack.push_async_callback(publisher.close)
    bodies = [json.dumps({"customer": f"c{n % 2}", "n": n}).encode() for n in range(2 * COUNT)]
    events = [base.Delivery(f"evt_{n}", "t", "2026-01-02T03:04:05Z", {}, body, 1) for n, body in enumerate(bodies)]
    deadline = asyncio.get_running_loop().time() + LIMIT_S
    sends = [asyncio.create_task(publisher.send([event], deadline)) for event in events]
    assert {"OK"} == {outcome.code for outcomes in await asyncio.gather(*sends) for outcome in outcomes}
    arrived = [message.body for message in await started.arrived(target, 2 * COUNT, LIMIT_S)]
    assert sorted(bodies) == sorted(arrived)
    for first in (0, 1):
        assert bodies[first::2] == [body for body in arrived if json.loads(body)["customer"] == f"c{first}"]


async def _ordered(started: Any) -> world.Target:
    """A queue that keeps the order, where those of the type that do are made differently."""
    if started.type == "aws_sqs":
        made: world.Target = await started.queue(f"{started.fresh('queue')}.fifo", FifoQueue="true")
        return made
    if started.type == "gcp_pubsub":
        started._server.uneven = True
    found: world.Target = await started.target()
    if started.type == "azure_servicebus":
        await started.told(do="queue", name=found.key, largest=servicebus.LARGEST, sessions=True)
    return found


async def test_a_queue_that_demands_sessions_gets_the_tenant_as_one(stack: AsyncExitStack) -> None:
    if missing := servicebus.World.missing():
        servers.leave_out(missing)
    started = await stack.enter_async_context(servicebus.World())
    target = await _ordered(started)
    types = registry.build(settings.Settings(destinations_allowed_cidrs=("127.0.0.0/8",)))
    stack.push_async_callback(types.close)
    adapter = types.get(started.type)
    assert adapter is not None
    opened = base.OpenDestination("tenant-1", "d", started.type, target.config, target.credentials, {})
    publisher = await adapter.connect(opened)
    stack.push_async_callback(publisher.close)
    events = [base.Delivery(f"evt_{n}", "t", "2026-01-02T03:04:05Z", {}, b"%d" % n, 1) for n in range(9)]
    for batch in (events[:5], events[5:]):
        outcomes = await publisher.send(batch, asyncio.get_running_loop().time() + LIMIT_S)
        assert ["OK"] * len(batch) == [outcome.code for outcome in outcomes]
    arrived = await started.arrived(target, len(events), LIMIT_S)
    assert [event.data for event in events] == [message.body for message in arrived]
    assert {"tenant-1"} == {message.extra["session"] for message in arrived}
