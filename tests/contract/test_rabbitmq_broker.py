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

LIMIT_S = 5.0
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


async def test_beside_a_message_that_is_too_large_nobody_is_given_up_for_good(
    world: service.World, sender: Sender
):
    target = await world.target()
    publisher = await sender.connect(target)
    events = [sender.event(), sender.event(await world.too_large(target)), sender.event()]
    before, large, after = await sender.send(publisher, *events)
    assert ("message_too_large", False) == (large.code, getattr(large, "retryable", None))
    for outcome in (before, after):
        assert outcome.code in ("OK", "channel_error")
        assert getattr(outcome, "retryable", True)
    assert ["OK"] == codes(await sender.send(publisher))


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


async def test_a_broker_with_an_alarm_is_waited_for_until_the_deadline_over_the_connection_that_is_there(
    world: service.World, sender: Sender
):
    target = await world.target()
    publisher = await sender.connect(target)
    await sender.send(publisher)
    await world.alarm(on=True)
    try:
        for _ in range(3):
            assert ["timeout"] == codes(await sender.send(publisher, limit_s=LATE_S))
    finally:
        await world.alarm(on=False)
    assert ["OK"] == codes(await sender.send(publisher))
    assert 1 == world.proxy.accepted


async def test_tls_checks_the_name_as_it_was_entered(world: service.World, sender: Sender):
    target = await world.target()
    server = f"{service.TLS_NAME}:{world.tls_port}"
    assert ["OK"] == codes(await sender.send(await sender.connect(target, server_url=server, tls="true")))
    wrong = f"{OTHER_NAME}:{world.tls_port}"
    [outcome] = await sender.send(await sender.connect(target, server_url=wrong, tls="true"))
    assert "tls_error" == outcome.code
    assert "Hostname mismatch" in error(outcome)


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
