"""What only a RabbitMQ can do to a delivery: no route, a channel or a connection that it closes, an alarm, TLS."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from outpost import settings as settings_
from outpost.adapters import base
from outpost.adapters.egress import addresses
from outpost.adapters.egress import guard as egress
from outpost.adapters.rabbitmq import type as rabbitmq
from outpost.adapters.shared import resources as shared_
from outpost.domain import delivery
from tests.harness import servers
from tests.harness.destinations import rabbitmq as service
from tests.harness.destinations import world as worlds

LIMIT_S = 60.0  # only what fails waits so long
LATE_S = 0.5
OTHER_NAME = "other.test"
pytestmark = pytest.mark.behaviour(134)


@pytest.fixture(scope="module")
def broker() -> Iterator[None]:
    if missing := service.World.missing():
        servers.leave_out(missing)
    yield
    service.World.end_session()


@pytest.fixture
async def world(broker: None) -> AsyncIterator[service.World]:
    async with service.World() as started:
        yield started


class Sender:
    """The type over loopback, with names of its own."""

    def __init__(self) -> None:
        self._shared = shared_.Shared(settings_.Settings(destinations_allowed_cidrs=("127.0.0.0/8",)))
        names = {service.TLS_NAME: ["127.0.0.1"], OTHER_NAME: ["127.0.0.1"]}
        guard = egress.Guard(("127.0.0.0/8",))
        self._shared.addresses = addresses.Addresses(guard, lookup=lambda name: names.get(name, []))
        self._publishers: list[base.Publisher] = []
        self._events = 0

    async def connect(
        self, target: worlds.Target, metadata: dict[str, str] | None = None, **config: str
    ) -> base.Publisher:
        adapter = rabbitmq.RabbitMQ(self._shared, context=getattr(service.World, "trust", None))
        opened = base.OpenDestination(
            "t", "d", "rabbitmq", {**target.config, **config}, target.credentials, metadata or {}
        )
        publisher = await adapter.connect(opened)
        self._publishers.append(publisher)
        return publisher

    def event(self, data: bytes = b"{}", *, id_: str = "", topic: str = "order.created") -> base.Delivery:
        self._events += 1
        return base.Delivery(id_ or f"evt-{self._events}", topic, "2026-01-02T03:04:05Z", {}, data, 1)

    async def send(
        self, publisher: base.Publisher, *events: base.Delivery, limit_s: float = LIMIT_S
    ) -> list[delivery.Outcome]:
        deadline = asyncio.get_running_loop().time() + limit_s
        return await publisher.send(events or [self.event()], deadline)

    async def close(self) -> None:
        for publisher in self._publishers:
            await publisher.close()
        await self._shared.close()


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    made = Sender()
    yield made
    await made.close()


def codes(outcomes: list[delivery.Outcome]) -> list[str]:
    return [outcome.code for outcome in outcomes]


def error(outcome: delivery.Outcome) -> str:
    assert isinstance(outcome, delivery.Failed)
    return str((outcome.response or {}).get("error", ""))


async def test_a_message_is_persistent_json_under_its_topic_with_the_id_of_its_event(
    world: service.World, sender: Sender
):
    target = await world.target()
    await sender.send(await sender.connect(target), sender.event(id_="evt-7", topic="order.paid"))
    [message] = await world.arrived(target, 1)
    expected = {"routing_key": "order.paid", "content_type": "application/json", "message_id": "evt-7"}
    assert {**expected, "delivery_mode": 2} == message.extra


@pytest.mark.case(39)
async def test_a_password_of_any_characters_is_sent_as_it_is(world: service.World, sender: Sender):
    target = await world.target()
    assert {"@", ":", "/", "%"} <= {*target.credentials["password"]}
    assert ["OK"] == codes(await sender.send(await sender.connect(target)))


async def test_without_an_exchange_the_topic_is_the_name_of_a_queue(world: service.World, sender: Sender):
    target = await world.target()
    publisher = await sender.connect(target, exchange="")
    [found, lost] = await sender.send(publisher, sender.event(topic=target.key), sender.event())
    assert ["OK", "unroutable"] == codes([found, lost])
    assert 1 == len(await world.arrived(target, 1))


async def test_what_no_queue_takes_fails_alone(world: service.World, sender: Sender):
    target = await world.target()
    publisher = await sender.connect(target)
    outcomes = await sender.send(publisher, sender.event(), sender.event(topic="user.left"), sender.event())
    assert ["OK", "unroutable", "OK"] == codes(outcomes)
    assert "NO_ROUTE: no queue for 'user.left'" == error(outcomes[1])
    assert 1 == world.proxy.accepted


async def test_two_messages_of_one_event_that_nobody_takes_are_both_unroutable(
    world: service.World, sender: Sender
):
    publisher = await sender.connect(await world.target())
    twins = [sender.event(id_="evt-1", topic="user.left") for _ in range(2)]
    assert ["unroutable", "unroutable"] == codes(await sender.send(publisher, *twins))


async def test_a_virtual_host_of_any_name_is_found_under_its_encoded_name(world: service.World, sender: Sender):
    target = await world.target()
    await world.put("vhosts/team%2Fa%25", {})
    try:
        user = await world.user(vhost="team%2Fa%25")
        target = worlds.Target(target.config, {**target.credentials, "username": user}, target.key)
        server = f"{target.config['server_url']}/team%2Fa%25"
        publisher = await sender.connect(target, server_url=server, exchange="amq.topic")
        assert ["unroutable"] == codes(await sender.send(publisher))
    finally:
        await world.remove("vhosts/team%2Fa%25")


async def test_a_virtual_host_that_is_not_there_is_refused_in_the_words_of_the_broker(
    world: service.World, sender: Sender
):
    target = await world.target()
    publisher = await sender.connect(target, server_url=f"{target.config['server_url']}/nowhere")
    [outcome] = await sender.send(publisher)
    assert "access_denied" == outcome.code
    assert "NOT_ALLOWED - vhost nowhere not found" == error(outcome)


async def test_a_channel_that_the_broker_closes_is_opened_again_on_the_same_connection(
    world: service.World, sender: Sender
):
    publisher = await sender.connect(await world.missing_target(await world.target()))
    for _ in range(3):
        outcomes = await sender.send(publisher, sender.event(), sender.event())
        assert ["exchange_not_found", "exchange_not_found"] == codes(outcomes)
        assert "NOT_FOUND - no exchange 'nowhere' in vhost '/'" == error(outcomes[0])
    assert 1 == world.proxy.accepted


async def test_a_message_that_is_too_large_is_refused_alone(world: service.World, sender: Sender):
    """190 beside 10 over `max_message_size`, of sizes that grow and shrink: each closes a channel, and is charged
    with it alone."""
    target = await world.target()
    publisher = await sender.connect(target)
    large = await world.too_large(target)
    events = [sender.event(b'{"n":%d,"text":"%s"}' % (n, b"x" * (n * 7919 % 997))) for n in range(190)]
    good = {event.event_id: event.data for event in events}
    for place in range(10):
        events.insert(place * 20, sender.event(large[:-1] + b"x" * (place % 3) + b'"'))
    sends = [events[at : at + 20] for at in range(0, 200, 20)]
    told = await asyncio.gather(*(sender.send(publisher, *batch, limit_s=30.0) for batch in sends))
    for event, outcome in zip(events, (outcome for batch in told for outcome in batch), strict=True):
        assert ("OK" if event.event_id in good else "message_too_large") == outcome.code
        assert isinstance(outcome, delivery.Delivered) or not outcome.retryable
    arrived = await world.arrived(target, 190)
    assert sorted(good.values()) == sorted(message.body for message in arrived)
    assert 1 == world.proxy.accepted


async def test_a_permission_that_is_taken_away_is_charged_to_its_topic(world: service.World, sender: Sender):
    """The broker closes the channel that all share. What it had not confirmed goes again, and may arrive twice. A
    channel of RabbitMQ remembers twelve topics that were permitted, so there are more."""
    target = await world.target()
    publisher = await sender.connect(target)
    good = [f"order.{n}" for n in range(20)]
    first = [sender.event(topic=topic) for topic in [*good, "user.left"]]
    assert [*["OK"] * 20, "unroutable"] == codes(await sender.send(publisher, *first))
    rights = {"exchange": target.key, "write": "^order[.]", "read": ""}
    await world.put(f"topic-permissions/%2F/{target.credentials['username']}", rights)
    events = [sender.event(topic=topic) for topic in [*good, *good, "user.left", *good, "user.left", *good]]
    outcomes = await sender.send(publisher, *events, limit_s=30.0)
    expected = ["access_denied" if event.topic == "user.left" else "OK" for event in events]
    assert expected == codes(outcomes)
    assert {event.event_id for event in [*first, *events] if event.topic != "user.left"} == {
        message.extra["message_id"] for message in await world.arrived(target, 100)
    }
    assert 1 == world.proxy.accepted


async def test_metadata_beyond_a_frame_is_too_large_and_ends_no_connection(world: service.World, sender: Sender):
    target = await world.target()
    large = await sender.connect(target, {"k": "v" * 131_072})
    assert ["message_too_large"] == codes(await sender.send(large))
    fitting = await sender.connect(target, {"k": "v" * 129_000})
    assert ["OK"] == codes(await sender.send(fitting))
    assert 2 == world.proxy.accepted


@pytest.mark.parametrize("metadata", [{"k" * 129: "v"}, {}])
async def test_a_name_that_amqp_has_no_room_for_fails_alone(
    world: service.World, sender: Sender, metadata: dict[str, str]
):
    publisher = await sender.connect(await world.target(), metadata)
    topic = "order.created" if metadata else "order." + "t" * 250
    assert ["could not format event for delivery"] == [
        error(outcome) for outcome in await sender.send(publisher, sender.event(topic=topic))
    ]


async def test_an_event_whose_id_is_too_long_for_amqp_arrives_all_the_same(world: service.World, sender: Sender):
    target = await world.target()
    assert ["OK"] == codes(await sender.send(await sender.connect(target), sender.event(id_="é" * 128)))
    [message] = await world.arrived(target, 1)
    assert "é" * 128 == message.metadata["event-id"]


async def test_a_connection_that_an_operator_closes_is_forced_and_opened_again(
    world: service.World, sender: Sender
):
    target = await world.target()
    publisher = await sender.connect(target)
    await sender.send(publisher)
    world.proxy.stall()  # what is sent now waits in front of the broker
    sending = asyncio.create_task(sender.send(publisher))

    await servers.eventually(world.force)
    world.proxy.heal()
    assert ["connection_forced"] == codes(await sending)
    assert ["OK"] == codes(await sender.send(publisher))


async def test_who_gives_up_leaves_the_connection_to_those_that_still_wait(world: service.World, sender: Sender):
    target = await world.target()
    publisher = await sender.connect(target)
    await sender.send(publisher)
    world.proxy.stall()
    patient = asyncio.create_task(sender.send(publisher, sender.event(b'{"n":1}')))
    assert ["timeout"] == codes(await sender.send(publisher, limit_s=LATE_S))
    world.proxy.heal()
    assert ["OK"] == codes(await patient)
    assert ["OK"] == codes(await sender.send(publisher))
    assert 2 == world.proxy.accepted


async def test_while_a_broker_is_blocked_nothing_is_sent_and_nothing_arrives_twice(
    world: service.World, sender: Sender
):
    """Each event is tried until it is delivered, as the schedule of retries does: before the alarm, while it holds
    and when it is over. What was under way when the broker blocked is not sent again."""
    target = await world.target()
    publisher = await sender.connect(target)
    assert ["OK"] == codes(await sender.send(publisher))
    await world.alarm(on=True)
    events = [sender.event(json.dumps({"n": n}).encode()) for n in range(60)]
    try:
        early = events[:30]
        assert {"throttled"} == {*codes(await sender.send(publisher, *early, limit_s=LATE_S))}
        for again in range(3):
            sends = (sender.send(publisher, event, limit_s=LATE_S) for event in events)
            outcomes = [outcome for [outcome] in await asyncio.gather(*sends)]
            assert {"throttled"} == {*codes(outcomes)}, again
        assert "the broker takes no messages for now (connection.blocked)" in error(outcomes[0])
    finally:
        await world.alarm(on=False)
    waiting = list(events)

    async def all_delivered() -> bool:
        outcomes = await sender.send(publisher, *waiting)
        waiting[:] = [event for event, told in zip(waiting, outcomes, strict=True) if told.code != "OK"]
        return not waiting

    await servers.eventually(all_delivered)
    arrived = await world.arrived(target, 61)
    assert sorted([b"{}", *(event.data for event in events)]) == sorted(message.body for message in arrived)
    assert 1 == world.proxy.accepted


async def test_a_new_connection_to_a_blocked_broker_makes_no_copies(world: service.World, sender: Sender):
    target = await world.target()
    publisher = await sender.connect(target)
    events = [sender.event(json.dumps({"n": n}).encode()) for n in range(20)]
    await world.alarm(on=True)
    try:
        for _ in range(2):
            assert {"throttled"} == {*codes(await sender.send(publisher, *events, limit_s=1.0))}
    finally:
        await world.alarm(on=False)
    waiting = list(events)

    async def all_delivered() -> bool:
        outcomes = await sender.send(publisher, *waiting)
        waiting[:] = [event for event, told in zip(waiting, outcomes, strict=True) if told.code != "OK"]
        return not waiting

    await servers.eventually(all_delivered)
    arrived = await world.arrived(target, len(events))
    assert sorted(event.data for event in events) == sorted(message.body for message in arrived)


async def test_tls_checks_the_name_as_it_was_entered(world: service.World, sender: Sender):
    target = await world.target()
    server = f"{service.TLS_NAME}:{world.tls_port}"
    assert ["OK"] == codes(await sender.send(await sender.connect(target, server_url=server, tls="true")))
    wrong = f"{OTHER_NAME}:{world.tls_port}"
    [outcome] = await sender.send(await sender.connect(target, server_url=wrong, tls="true"))
    assert "tls_error" == outcome.code
    assert "is for another name" in error(outcome)


async def test_a_port_without_tls_is_a_failure_of_tls(world: service.World, sender: Sender):
    target = await world.target()
    assert ["tls_error"] == codes(await sender.send(await sender.connect(target, tls="true")))


@pytest.mark.parametrize(
    ("server_url", "code"), [("nowhere.test:5672", "dns_error"), ("127.0.0.1:1", "connection_refused")]
)
async def test_a_broker_that_cannot_be_reached_has_the_published_code(sender: Sender, server_url: str, code: str):
    target = worlds.Target({"server_url": server_url, "exchange": "e"}, {"username": "u", "password": "p"})
    assert [code] == codes(await sender.send(await sender.connect(target)))


async def test_no_log_line_of_the_library_repeats_a_failure(
    world: service.World, sender: Sender, caplog: pytest.LogCaptureFixture
):
    target = await world.target()
    with caplog.at_level(logging.DEBUG, "root"):
        await sender.send(await sender.connect(target), sender.event(json.dumps("secret").encode()))
        await sender.send(await sender.connect(await world.wrong_credentials(target)))
        await sender.send(await sender.connect(target, server_url="127.0.0.1:1"))
    told: list[Any] = [record for record in caplog.records if record.name.startswith(("aiormq", "pamqp"))]
    assert [] == told
