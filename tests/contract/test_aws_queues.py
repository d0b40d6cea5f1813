"""What SQS and EventBridge have beyond the cases of all types, against moto."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest

from outpost import settings as settings_
from outpost.adapters import base
from outpost.adapters.aws import eventbridge as aws_eventbridge
from outpost.adapters.aws import sqs as aws_sqs
from outpost.adapters.shared import resources as shared_
from outpost.domain import delivery
from tests.harness.destinations import eventbridge, moto, sqs, world


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    yield
    moto.AwsWorld.end_session()


@pytest.fixture
async def queues() -> AsyncIterator[sqs.World]:
    async with sqs.World() as started:
        yield started


@pytest.fixture
async def buses() -> AsyncIterator[eventbridge.World]:
    async with eventbridge.World() as started:
        yield started


@pytest.fixture
async def shared() -> AsyncIterator[shared_.Shared]:
    made = shared_.Shared(settings_.Settings(destinations_allowed_cidrs=("127.0.0.0/8",)))
    yield made
    await made.close()


def _events(*bodies: bytes) -> list[base.Delivery]:
    return [
        base.Delivery(f"evt-{number}", "order.created", "2026-01-02T03:04:05.678Z", {}, body, 1)
        for number, body in enumerate(bodies)
    ]


async def _sent(adapter: Any, target: world.Target, *batches: list[base.Delivery]) -> list[delivery.Outcome]:
    opened = base.OpenDestination("tenant-1", "d", "", target.config, target.credentials, {})
    publisher = await adapter.connect(opened)
    outcomes: list[delivery.Outcome] = []
    for events in batches:
        outcomes += await publisher.send(events, asyncio.get_running_loop().time() + 5.0)
    await publisher.close()
    return outcomes


async def test_a_fifo_queue_keeps_the_order_of_a_batch_and_takes_an_event_once(
    queues: sqs.World, shared: shared_.Shared
):
    target = await queues.queue(queues.fresh("queue") + ".fifo", FifoQueue="true")
    events = _events(b'{"n":0}', b'{"n":1}', b'{"n":2}')
    outcomes = await _sent(aws_sqs.build(shared), target, events, events)
    assert ["OK"] * 6 == [outcome.code for outcome in outcomes]
    arrived = await queues.arrived(target, 3)
    assert [(event.data, event.event_id) for event in events] == [
        (message.body, message.extra["MessageDeduplicationId"]) for message in arrived
    ]
    assert {"tenant-1"} == {message.extra["MessageGroupId"] for message in arrived}


@pytest.mark.case(35)
async def test_an_event_that_somebody_sends_again_arrives_again_within_five_minutes(
    queues: sqs.World, shared: shared_.Shared
):
    target = await queues.queue(queues.fresh("queue") + ".fifo", FifoQueue="true")
    [event] = _events(b"{}")
    manual = msgspec.structs.replace(event, attempt=2, manual=True)
    automatic = msgspec.structs.replace(event, attempt=3)
    sent = [[event], [automatic], [manual], [manual], [msgspec.structs.replace(manual, attempt=4)]]
    outcomes = await _sent(aws_sqs.build(shared), target, *sent)
    assert ["OK"] * 5 == [outcome.code for outcome in outcomes]
    # The event, and once for each manual retry, however often that goes out.
    assert 3 == len(await queues.arrived(target, 3))


async def test_an_event_for_which_a_queue_refuses_the_whole_batch_fails_alone(
    queues: sqs.World, shared: shared_.Shared
):
    target = await queues.queue(queues.fresh("queue"), MaximumMessageSize="1024")
    events = _events(b'{"n":0}', b'"%b"' % (b"x" * 2_000), b'{"n":2}', b'{"n":3}')
    outcomes = await _sent(aws_sqs.build(shared), target, events)
    assert ["OK", "message_too_large", "OK", "OK"] == [outcome.code for outcome in outcomes]
    assert [False] == [outcome.retryable for outcome in outcomes if isinstance(outcome, delivery.Failed)]
    assert {b'{"n":0}', b'{"n":2}', b'{"n":3}'} == {message.body for message in await queues.arrived(target, 3)}


async def test_a_batch_that_is_larger_than_one_call_may_be_goes_in_several(
    queues: sqs.World, shared: shared_.Shared
):
    target = await queues.target()
    bodies = [b'"%b%d"' % (b"x" * 300_000, number) for number in range(6)]
    outcomes = await _sent(aws_sqs.build(shared), target, _events(*bodies))
    assert ["OK"] * 6 == [outcome.code for outcome in outcomes]
    assert [3, 3] == [asked.body.count(b'"MessageBody"') for asked, _ in queues.front.seen]
    assert set(bodies) == {message.body for message in await queues.arrived(target, 6)}


async def test_an_endpoint_of_its_own_is_where_the_messages_of_a_queue_go(
    queues: sqs.World, shared: shared_.Shared
):
    target = await queues.target()
    name = target.config["queue_url"].rpartition("/")[2]
    config = {"queue_url": f"https://sqs.us-east-1.amazonaws.com/{moto.ACCOUNT}/{name}", "endpoint": queues.url}
    elsewhere = world.Target(config, target.credentials)
    assert ["OK"] == [outcome.code for outcome in await _sent(aws_sqs.build(shared), elsewhere, _events(b"{}"))]
    assert [b"{}"] == [message.body for message in await queues.arrived(target, 1)]


@pytest.mark.case(36)
async def test_an_event_without_a_topic_and_one_with_a_long_topic_arrive_beside_a_good_one(
    buses: eventbridge.World, shared: shared_.Shared
):
    async def as_aws(asked: moto.Asked) -> moto.Reply | None:
        types = [entry["DetailType"] for entry in json.loads(asked.body)["Entries"]]
        if all(0 < len(type_) <= 128 for type_ in types):
            return None
        return moto.refusal(asked, "ValidationException", "DetailType must have 1 to 128 characters")

    buses.front.hook = as_aws
    target = await buses.target()
    topics = ["", "t" * 200, "order.created"]
    events = [
        msgspec.structs.replace(event, topic=topic)
        for event, topic in zip(_events(b"{}", b"[]", b"1"), topics, strict=True)
    ]
    outcomes = await _sent(aws_eventbridge.build(shared), target, events)
    assert ["OK"] * 3 == [outcome.code for outcome in outcomes]
    arrived = {message.body: message for message in await buses.arrived(target, 3)}
    assert ["event", "t" * 128, "order.created"] == [arrived[event.data].extra["detail-type"] for event in events]
    assert topics == [arrived[event.data].metadata["topic"] for event in events]


@pytest.mark.parametrize("named", ["", "default"])
async def test_the_default_bus_is_meant_where_no_other_is_named(
    buses: eventbridge.World, shared: shared_.Shared, named: str
):
    target = await buses.bus("default")
    unnamed = world.Target({**target.config, "event_bus_name": named}, target.credentials, target.key)
    outcomes = await _sent(aws_eventbridge.build(shared), unnamed, _events(b'{"n":0}'))
    assert ["OK"] == [outcome.code for outcome in outcomes]
    [arrived] = await buses.arrived(unnamed, 1)
    assert b'{"n":0}' == arrived.body
    # The time is the event's own, in seconds.
    assert {"source": "outpost", "detail-type": "order.created", "time": "2026-01-02T03:04:05Z"} == arrived.extra


async def test_a_bus_may_be_named_by_its_arn(buses: eventbridge.World, shared: shared_.Shared):
    target = await buses.target()
    arn = f"arn:aws:events:{moto.REGION}:{moto.ACCOUNT}:event-bus/{target.config['event_bus_name']}"
    named = world.Target({**target.config, "event_bus_name": arn}, target.credentials, target.key)
    assert ["OK"] == [o.code for o in await _sent(aws_eventbridge.build(shared), named, _events(b"{}"))]
    assert 1 == len(await buses.arrived(named, 1))


async def test_the_operators_source_is_that_of_every_event(buses: eventbridge.World):
    shared = shared_.Shared(
        settings_.Settings(destinations_allowed_cidrs=("127.0.0.0/8",), eventbridge_source="shop")
    )
    await _sent(aws_eventbridge.build(shared), await buses.target(), _events(b"{}"))
    [(asked, _)] = buses.front.seen
    assert b'"Source": "shop"' in asked.body
    await shared.close()
