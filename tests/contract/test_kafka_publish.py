"""Kafka beyond the conformance suite: logins and TLS, advertised brokers, leaders that move, requests that are
shared, batches that are repaired, and brokers that mean harm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trustme

from outpost import settings as settings_
from outpost.adapters import base
from outpost.adapters.egress import addresses
from outpost.adapters.egress import guard as egress
from outpost.adapters.kafka import type as kafka
from outpost.adapters.shared import resources as shared_
from outpost.domain import delivery
from tests.harness import servers
from tests.harness.destinations import kafka as worlds
from tests.harness.destinations import kafka_front, kafka_mock
from tests.harness.toxic import Toxic

USER, PASSWORD = "outpost", "secret-of-kafka"
LOOPBACK = ("127.0.0.0/8",)
TOPIC = "orders"
HANGS_MS = 60_000


class Opened:
    """The type with what its tests turn: `hosts` are names and the addresses that they have."""

    def __init__(self, hosts: dict[str, str], trust: ssl.SSLContext | None = None) -> None:
        self.shared = shared_.Shared(settings_.Settings(destinations_allowed_cidrs=LOOPBACK))
        self.shared.addresses = addresses.Addresses(egress.Guard(LOOPBACK), lambda name: _found(hosts, name))
        self.adapter = kafka.build(self.shared)
        if trust is not None:
            self.adapter.trust = lambda: trust
        self.publishers: list[base.Publisher] = []
        self._events = 0

    async def connect(self, brokers: str | int, topic: str = TOPIC, **config: str) -> base.Publisher:
        brokers = f"127.0.0.1:{brokers}" if isinstance(brokers, int) else brokers
        config = {"brokers": brokers, "topic": topic, "sasl_mechanism": "none", **config}
        credentials = {"username": USER, "password": PASSWORD}
        publisher = await self.adapter.connect(base.OpenDestination("t", "d", "kafka", config, credentials, {}))
        self.publishers.append(publisher)
        return publisher

    def event(self, data: bytes = b"{}", metadata: dict[str, str] | None = None) -> base.Delivery:
        self._events += 1
        return base.Delivery(f"e{self._events}", "order.created", "2026-01-02T03:04:05Z", metadata or {}, data, 1)

    async def send(
        self, publisher: base.Publisher, *events: base.Delivery, limit_s: float = 5.0
    ) -> list[delivery.Outcome]:
        deadline = asyncio.get_running_loop().time() + limit_s
        return await publisher.send(events or [self.event()], deadline)

    async def code(self, publisher: base.Publisher, **limits: float) -> str:
        [outcome] = await self.send(publisher, **limits)
        return outcome.code

    async def close(self) -> None:
        for publisher in self.publishers:
            await publisher.close()
        await self.shared.close()


def _found(hosts: dict[str, str], name: str) -> list[str]:
    if name not in hosts:
        raise OSError
    return [hosts[name]]


@pytest.fixture
def hosts() -> dict[str, str]:
    return {"broker.test": "127.0.0.1"}


@pytest.fixture
async def opened(hosts: dict[str, str]) -> AsyncIterator[Opened]:
    made = Opened(hosts)
    yield made
    await made.close()


@pytest.fixture(scope="module")
def tansu_port() -> Iterator[int]:
    if missing := worlds.World.missing():
        servers.leave_out(missing)
    yield worlds.World.broker().port
    worlds.World.end_session()


@pytest.fixture
async def front(tansu_port: int) -> AsyncIterator[kafka_front.Front]:
    """In front of Tansu, for anybody, with an empty topic of one partition."""
    front = kafka_front.Front(tansu_port)
    front.topic = f"topic-{next(worlds.World._numbers)}"
    await worlds.create_topic(tansu_port, front.topic, 1)
    async with front:
        yield front


@pytest.fixture(scope="module")
def cluster() -> Iterator[kafka_mock.Mock]:
    if missing := kafka_mock.Mock.missing():
        servers.leave_out(missing)
    with kafka_mock.Mock(2) as cluster:
        yield cluster


@pytest.fixture
def mock(cluster: kafka_mock.Mock) -> kafka_mock.Mock:
    """A cluster of two with the topic `name` of one partition, which the first leads."""
    cluster.forgive(kafka_mock.PRODUCE)
    cluster.name = f"orders-{next(worlds.World._numbers)}"
    cluster.topic(cluster.name)
    cluster.lead(cluster.name, 0, 1)
    return cluster


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def serving(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.mark.parametrize("tls", ["true", "false"])
@pytest.mark.parametrize("mechanism", ["none", "plain", "scram-sha-256", "scram-sha-512"])
async def test_every_mechanism_logs_in_with_and_without_tls(
    front: kafka_front.Front,
    tansu_port: int,
    authority: trustme.CA,
    hosts: dict[str, str],
    mechanism: str,
    tls: str,
):
    users = None if mechanism == "none" else {USER: PASSWORD}
    context = serving(authority, "broker.test") if tls == "true" else None
    opened = Opened(hosts, trusting(authority))
    async with kafka_front.Front(tansu_port, users, context) as own:
        own.advertised = ("broker.test", own.port)
        publisher = await opened.connect(f"broker.test:{own.port}", front.topic, sasl_mechanism=mechanism, tls=tls)
        assert "OK" == await opened.code(publisher)
        if users is not None:
            users[USER] = "another-one"
            refused = await opened.connect(
                f"broker.test:{own.port}", front.topic, sasl_mechanism=mechanism, tls=tls
            )
            assert "auth_failed" == await opened.code(refused)
        await opened.close()


async def test_tls_checks_the_name_that_is_advertised(
    tansu_port: int, authority: trustme.CA, hosts: dict[str, str]
):
    """The advertised name resolves, but the certificate is for another."""
    hosts["other.test"] = "127.0.0.1"
    opened = Opened(hosts, trusting(authority))
    async with kafka_front.Front(tansu_port, None, serving(authority, "broker.test")) as own:
        own.advertised = ("other.test", own.port)
        topic = f"topic-{next(worlds.World._numbers)}"
        await worlds.create_topic(tansu_port, topic, 1)
        publisher = await opened.connect(f"broker.test:{own.port}", topic, tls="true")
        assert "tls_error" == await opened.code(publisher)
        await opened.close()


async def test_tls_and_plain_text_do_not_meet(tansu_port: int, authority: trustme.CA, opened: Opened):
    async with kafka_front.Front(tansu_port) as plain:
        assert "tls_error" == await opened.code(await opened.connect(plain.port, tls="true"))
    async with kafka_front.Front(tansu_port, None, serving(authority, "broker.test")) as secure:
        untrusted = await opened.connect(f"broker.test:{secure.port}", tls="true")
        assert "tls_error" == await opened.code(untrusted)


@pytest.fixture
async def dialled(monkeypatch: pytest.MonkeyPatch, tansu_port: int) -> list[tuple[str, int]]:
    """Every address that is connected to, but for the front's own way to the broker behind it."""
    loop = asyncio.get_running_loop()
    real, found = loop.create_connection, []

    async def recorded(factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        if port != tansu_port:
            found.append((host, port))
        return await real(factory, host, port, **options)

    monkeypatch.setattr(loop, "create_connection", recorded)
    return found


@pytest.mark.parametrize("advertised", ["169.254.169.254", "10.1.2.3", "2852039166", "metadata.test", "::1"])
async def test_a_broker_that_is_advertised_at_a_refused_address_is_never_connected_to(
    front: kafka_front.Front,
    opened: Opened,
    hosts: dict[str, str],
    dialled: list[tuple[str, int]],
    advertised: str,
):
    hosts["metadata.test"] = "169.254.169.254"
    front.advertised = (advertised, 9092)
    publisher = await opened.connect(front.port, front.topic)
    [outcome] = await opened.send(publisher)
    assert isinstance(outcome, delivery.Failed)
    assert ("blocked_address", True) == (outcome.code, outcome.retryable)  # it may advertise another one later
    assert {("127.0.0.1", front.port)} == set(dialled)  # the broker that the tenant named, which is allowed here
    assert [] == front.produced


async def test_where_the_brokers_are_is_told(opened: Opened, front: kafka_front.Front):
    closed = servers.free_port()
    told = {
        "connection_refused": await opened.connect(closed),
        "dns_error": await opened.connect("nowhere.test"),
        "blocked_address": await opened.connect("169.254.169.254"),
        "topic_not_found": await opened.connect(front.port, "nobody-made-it"),
    }
    for code, publisher in told.items():
        [outcome] = await opened.send(publisher)
        assert isinstance(outcome, delivery.Failed)
        assert code == outcome.code
        assert outcome.response is not None
        assert "nobody-made-it" != outcome.response["error"] != ""
    several = await opened.connect(f"127.0.0.1:{closed},nowhere.test,127.0.0.1:{front.port}", front.topic)
    assert "OK" == await opened.code(several)


async def test_a_login_that_fails_is_told_before_a_broker_that_is_down(tansu_port: int, opened: Opened):
    async with kafka_front.Front(tansu_port, {USER: "another"}) as own:
        brokers = f"127.0.0.1:{servers.free_port()},127.0.0.1:{own.port}"
        publisher = await opened.connect(brokers, sasl_mechanism="scram-sha-512")
        assert "auth_failed" == await opened.code(publisher)


@pytest.mark.behaviour(135)
async def test_keys_headers_and_partitions_are_as_published(tansu_port: int, opened: Opened):
    topic = f"topic-{next(worlds.World._numbers)}"
    await worlds.create_topic(tansu_port, topic, 3)
    publisher = await opened.connect(
        tansu_port, topic, partition_key_template="data.customer || metadata.customer"
    )
    events = [
        opened.event(b'{"customer":"blah"}'),
        opened.event(b'{"customer":7}'),
        opened.event(b"{}", {"customer": "boop"}),
        opened.event(b'{"customer":null}'),
    ]
    assert ["OK"] * 4 == [outcome.code for outcome in await opened.send(publisher, *events)]
    arrived = {message.extra["key"]: message for message in await worlds.read(tansu_port, topic, 4)}
    assert {"blah", "7", "boop", events[3].event_id} == arrived.keys()
    assert (1, 2) == (arrived["blah"].extra["partition"], arrived["boop"].extra["partition"])
    assert {"application/json"} == {message.extra["content_type"] for message in arrived.values()}
    assert "boop" == arrived["boop"].metadata["customer"]


@pytest.mark.case(38)
@pytest.mark.parametrize(("named", "partitions"), [("fnv1a", [1, 2]), ("murmur2", [0, 1]), ("", [1, 2])])
async def test_the_partitioner_of_the_destination_places_the_keys(
    tansu_port: int, opened: Opened, named: str, partitions: list[int]
):
    """`murmur2` as kafka-clients 4.1.0 places these keys among three partitions."""
    topic = f"topic-{next(worlds.World._numbers)}"
    await worlds.create_topic(tansu_port, topic, 3)
    publisher = await opened.connect(tansu_port, topic, partition_key_template="data.k", partitioner=named)
    await opened.send(publisher, opened.event(b'{"k":"blah"}'), opened.event(b'{"k":"boop"}'))
    arrived = {message.extra["key"]: message for message in await worlds.read(tansu_port, topic, 2)}
    assert partitions == [arrived[key].extra["partition"] for key in ("blah", "boop")]


async def test_what_waits_for_a_broker_shares_its_requests(front: kafka_front.Front, opened: Opened):
    async with Toxic(front.host, front.port) as proxy:
        front.advertised = (proxy.host, proxy.port)
        publisher = await opened.connect(proxy.port, front.topic)
        assert "OK" == await opened.code(publisher)
        proxy.latency_s = 0.02
        bodies = [json.dumps({"n": number}).encode() for number in range(300)]
        sends = (opened.send(publisher, opened.event(body)) for body in bodies)
        assert {"OK"} == {outcome.code for [outcome] in await asyncio.gather(*sends)}
    assert 301 == sum(count for request in front.produced for count in request)
    assert len(front.produced) <= 5


async def test_one_record_that_a_topic_does_not_take_spoils_no_other(
    front: kafka_front.Front, opened: Opened, tansu_port: int
):
    front.invalid.add(b'{"n":7}')
    publisher = await opened.connect(front.port, front.topic)
    events = [opened.event(json.dumps({"n": n}, separators=(",", ":")).encode()) for n in range(20)]
    outcomes = await opened.send(publisher, *events)
    assert ["OK"] * 7 + ["kafka_error"] + ["OK"] * 12 == [outcome.code for outcome in outcomes]
    assert [[20], *[[1]] * 20] == front.produced
    bodies = {event.data for event in events} - {b'{"n":7}'}
    assert bodies == {message.body for message in await worlds.read(tansu_port, front.topic, 19)}


async def test_events_that_fill_more_than_a_batch_go_in_several(front: kafka_front.Front, opened: Opened):
    publisher = await opened.connect(front.port, front.topic)
    events = [opened.event(json.dumps({"n": "x" * 100_000}).encode()) for _ in range(7)]
    assert {"OK"} == {outcome.code for outcome in await opened.send(publisher, *events)}
    assert [[2], [2], [2], [1]] == front.produced


async def test_who_gives_up_does_not_take_another_with_him(front: kafka_front.Front, opened: Opened):
    """Two sends in one request, one with a short deadline: the answer comes between the two."""
    async with Toxic(front.host, front.port) as proxy:
        front.advertised = (proxy.host, proxy.port)
        publisher = await opened.connect(proxy.port, front.topic)
        assert "OK" == await opened.code(publisher)
        proxy.stall()
        hurried = asyncio.create_task(opened.code(publisher, limit_s=0.2))
        patient = asyncio.create_task(opened.code(publisher, limit_s=5.0))
        assert "timeout" == await hurried
        proxy.flow()
        assert "OK" == await patient
        assert 2 == proxy.accepted  # one to ask about the topic, one to send


async def test_the_answer_that_there_are_no_producer_numbers_is_remembered(
    front: kafka_front.Front, opened: Opened
):
    asked: list[int] = []
    front.answers.append(lambda api, _: asked.append(api))
    async with Toxic(front.host, front.port) as proxy:
        front.advertised = (proxy.host, proxy.port)
        publisher = await opened.connect(proxy.port, front.topic)
        assert "OK" == await opened.code(publisher)
        proxy.reset()

        async def sent() -> bool:
            return await opened.code(publisher) == "OK"

        await servers.eventually(sent)
    assert 1 == asked.count(kafka_front.INIT_PRODUCER)


def producer_of(body: bytes) -> tuple[int, int, int]:
    """Producer number, epoch and first sequence of the one batch in a produce request."""
    [(_, [(_, batch)])] = kafka_front.produce.ProduceRequest_v7.decode(body).topics
    return struct.unpack(">qhi", batch[43:57])


@contextlib.asynccontextmanager
async def recorded(mock: kafka_mock.Mock) -> AsyncIterator[tuple[Toxic, list[bytes]]]:
    """The mock cluster through a proxy, and the produce requests that arrive there."""
    requests: list[bytes] = []

    def keep(api: int, body: bytes) -> None:
        if api == kafka_front.PRODUCE:
            requests.append(body)

    async with kafka_front.Front(mock.port) as front, Toxic(front.host, front.port) as proxy:
        front.answers.append(keep)
        front.advertised = (proxy.host, proxy.port)
        yield proxy, requests


async def test_a_batch_that_may_have_been_written_goes_again_unchanged_where_the_broker_knows_us(
    mock: kafka_mock.Mock, opened: Opened
):
    async with recorded(mock) as (proxy, requests):
        publisher = await opened.connect(proxy.port, mock.name)
        assert "OK" == await opened.code(publisher)
        proxy.cut_after(6)
        assert "OK" == await opened.code(publisher)
        assert "OK" == await opened.code(publisher)
    first, cut, again, last = requests
    assert records_of(cut) == records_of(again)
    number, epoch, sequence = producer_of(cut)
    assert (number, epoch, sequence) == (producer_of(first)[0], 0, 1)
    assert (number, epoch, 2) == producer_of(last)  # the cut costs no number


def records_of(body: bytes) -> bytes:
    """The one batch in a produce request."""
    [(_, [(_, batch)])] = kafka_front.produce.ProduceRequest_v7.decode(body).topics
    return bytes(batch)


async def test_a_cut_in_a_send_that_cannot_be_repaired_is_told(mock: kafka_mock.Mock, opened: Opened):
    async with recorded(mock) as (proxy, _):
        publisher = await opened.connect(proxy.port, mock.name)
        assert "OK" == await opened.code(publisher)
        proxy.stall()
        sending = asyncio.create_task(opened.code(publisher))
        await asyncio.sleep(0)
        await proxy.refuse()
        assert "connection_refused" == await sending  # as everybody who was asked who leads now


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ([7], "OK"),  # REQUEST_TIMED_OUT: once more, with the same number
        ([7, 7, 7], "OK"),
        ([7, 6], "OK"),  # it may be there: whoever leads now is sent the same
        ([7, 29], "access_denied"),
        ([20], "OK"),  # NOT_ENOUGH_REPLICAS_AFTER_APPEND
        ([45], "OK"),  # OUT_OF_ORDER_SEQUENCE_NUMBER: under another producer number
        ([6, 6], "OK"),  # NOT_LEADER
        ([6] * 4, "OK"),  # as long as the deadline lets it
        ([3] * 4, "OK"),  # UNKNOWN_TOPIC_OR_PARTITION of a leader that does not know yet
        ([45] * 4, "kafka_error"),
        ([10], "message_too_large"),
        ([29], "access_denied"),
        ([89], "throttled"),
        ([19, 19], "OK"),  # NOT_ENOUGH_REPLICAS
        ([-1], "kafka_error"),
    ],
)
async def test_each_answer_has_its_consequence(
    mock: kafka_mock.Mock, opened: Opened, numbers: list[int], code: str
):
    publisher = await opened.connect(mock.port, mock.name)
    assert "OK" == await opened.code(publisher)
    mock.fail(kafka_mock.PRODUCE, *numbers)
    [outcome] = await opened.send(publisher)
    assert code == outcome.code
    assert isinstance(outcome, delivery.Delivered) or (code != "message_too_large") == outcome.retryable
    assert ["OK", "OK"] == [await opened.code(publisher) for _ in range(2)]


@pytest.mark.parametrize(("number", "code"), [(29, "access_denied"), (17, "topic_not_found"), (5, "kafka_error")])
async def test_a_topic_that_may_not_be_seen_has_a_code_too(
    mock: kafka_mock.Mock, opened: Opened, number: int, code: str
):
    mock.topic_error(mock.name, number)
    assert code == await opened.code(await opened.connect(mock.port, mock.name))
    mock.topic_error(mock.name, 0)
    assert "OK" == await opened.code(await opened.connect(mock.port, mock.name))


async def test_events_follow_a_partition_to_its_new_leader(mock: kafka_mock.Mock, opened: Opened):
    publisher = await opened.connect(mock.port, mock.name)
    assert "OK" == await opened.code(publisher)
    mock.lead(mock.name, 0, 2)
    assert {"OK"} == {
        outcome.code for outcome in await opened.send(publisher, *(opened.event() for _ in range(9)))
    }
    mock.lead(mock.name, 0, -1)
    [outcome] = await opened.send(publisher)
    assert ("kafka_error", {"error": "LEADER_NOT_AVAILABLE (5)"}) == (outcome.code, outcome.response)
    mock.lead(mock.name, 0, 1)
    assert "OK" == await opened.code(publisher)


async def bodies(mock: kafka_mock.Mock, count: int) -> list[bytes]:
    """What the topic holds, in its order. A batch that comes again with the same number is kept twice by the mock,
    and once by a real broker (see test_kafka_cluster), so it counts once here."""
    return list(dict.fromkeys(message.body for message in await worlds.read(mock.port, mock.name, count)))


async def test_a_leader_that_hangs_is_followed_to_the_next_one_within_the_deadline(
    mock: kafka_mock.Mock, opened: Opened
):
    """It goes on to write what it was sent, and answers nothing: the next leader is sent the same, and tells it
    from a new one."""
    publisher = await opened.connect(mock.bootstrap, mock.name)
    events = [opened.event(b'{"n":%d}' % n) for n in range(8)]
    assert ["OK"] == [outcome.code for outcome in await opened.send(publisher, events[0])]
    mock.delay(1, HANGS_MS)
    try:
        sending = asyncio.create_task(opened.send(publisher, *events[1:5], limit_s=30.0))
        await asyncio.sleep(0)
        mock.lead(mock.name, 0, 2)
        later = asyncio.create_task(opened.send(publisher, *events[5:], limit_s=30.0))
        assert ["OK"] * 4 == [outcome.code for outcome in await sending]
        assert ["OK"] * 3 == [outcome.code for outcome in await later]
    finally:
        mock.delay(1, 0)
    assert [event.data for event in events] == await bodies(mock, len(events))


async def test_an_attempt_after_a_timeout_carries_the_same_sequence(mock: kafka_mock.Mock, opened: Opened):
    """Whether the broker has written what was cut off is not known; the next attempts of these events, and the
    events that come between, make no copy and lose nothing."""
    async with recorded(mock) as (proxy, requests):
        publisher = await opened.connect(proxy.port, mock.name)
        assert "OK" == await opened.code(publisher)
        events = [opened.event(b'{"n":%d}' % n) for n in range(4)]
        proxy.stall()
        for _ in range(2):
            told = await opened.send(publisher, *events[:3], limit_s=1.0)
            assert {"timeout"} == {outcome.code for outcome in told}
        proxy.heal()

        async def sent() -> bool:
            return [outcome.code for outcome in await opened.send(publisher, *events[3:])] == ["OK"]

        await servers.eventually(sent)
        assert ["OK"] * 3 == [outcome.code for outcome in await opened.send(publisher, *events[:3])]
    assert 1 == len({records_of(body) for body in requests if producer_of(body)[2] == 1})
    assert 1 == len({producer_of(body)[0] for body in requests})
    assert [b"{}", *(event.data for event in events)] == await bodies(mock, 5)


async def test_the_events_of_a_key_keep_their_order_while_its_partition_moves(
    mock: kafka_mock.Mock, opened: Opened
):
    publisher = await opened.connect(mock.bootstrap, mock.name)
    events = [opened.event(b'{"n":%d}' % n) for n in range(120)]
    sends = []
    for at, event in enumerate(events):
        if at % 20 == 10:
            mock.lead(mock.name, 0, 1 + (at // 20) % 2)
        sends.append(asyncio.create_task(opened.send(publisher, event, limit_s=30.0)))
        if at % 7 == 0:
            await asyncio.sleep(0.02)
    assert {"OK"} == {outcome.code for [outcome] in await asyncio.gather(*sends)}
    assert [event.data for event in events] == await bodies(mock, len(events))


async def test_a_closed_publisher_leaves_nothing_behind(front: kafka_front.Front, opened: Opened):
    publisher = await opened.connect(front.port, front.topic)
    before = asyncio.all_tasks()
    assert "OK" == await opened.code(publisher)
    assert any(task not in before for task in asyncio.all_tasks())  # aiokafka reads
    await publisher.close()

    def ended() -> bool:
        return not [task for task in asyncio.all_tasks() - before if "_on_connection" not in str(task)]

    await servers.eventually(ended)
    assert "connection_reset" == await opened.code(publisher)


async def test_neither_passwords_nor_payloads_are_logged(
    tansu_port: int, opened: Opened, front: kafka_front.Front, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    async with kafka_front.Front(tansu_port, {USER: PASSWORD}) as own:
        publisher = await opened.connect(own.port, front.topic, sasl_mechanism="plain")
        await opened.send(publisher, opened.event(b'{"payload":"of-a-customer"}'))
        refused = await opened.connect(own.port, "nobody-made-it", sasl_mechanism="plain")
        await opened.send(refused)
    assert [] == [text for text in (PASSWORD, "of-a-customer", USER) if text in caplog.text]


async def test_a_login_that_would_cost_too_much_is_refused(tansu_port: int, opened: Opened):
    async with kafka_front.Front(tansu_port, {USER: PASSWORD}) as own:
        own.iterations = 100_001
        publisher = await opened.connect(own.port, sasl_mechanism="scram-sha-256")
        assert "auth_failed" == await opened.code(publisher)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"\x7f\xff\xff\xff" + b"x" * 100_000, "kafka_error"),  # an answer of 2 GB begins
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "kafka_error"),
        (b"\0\0\0\4\0\0\0\1", "kafka_error"),  # our first request, without what was asked for
        (b"\x15\x03\x01\0\2\2\x28", "tls_error"),  # the alert of one that only speaks TLS
        (b"", "connection_reset"),
    ],
)
async def test_what_is_no_broker_is_told_soon(opened: Opened, said: bytes, code: str):
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(said)
        with contextlib.suppress(OSError):
            if said:
                await reader.read()  # until the other side is gone
        writer.transport.abort()
        ended.set()

    ended = asyncio.Event()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        publisher = await opened.connect(server.sockets[0].getsockname()[1])
        assert code == await opened.code(publisher, limit_s=1.0)
        await ended.wait()


async def test_a_topic_of_too_many_leaders_is_not_followed(front: kafka_front.Front, opened: Opened):
    def many(api: int, body: bytes) -> bytes | None:
        if api != kafka_front.METADATA:
            return None
        nodes = range(300)
        brokers = [(node, "127.0.0.1", 1 + node, None) for node in nodes]
        partitions = [(0, node, node, [node], [node], []) for node in nodes]
        kind = kafka_front.metadata.MetadataResponse_v5
        topics = [(0, front.topic, False, partitions)]
        told = kind(throttle_time_ms=0, brokers=brokers, cluster_id="c", controller_id=0, topics=topics)
        return bytes(told.encode())

    front.answers.append(many)
    [outcome] = await opened.send(await opened.connect(front.port, front.topic))
    assert ("kafka_error", {"error": "the topic has more than 256 leaders"}) == (outcome.code, outcome.response)
