"""Deliveries to brokers leave nothing of ours to the cyclic collector, however they end.

The services are false ones, so that every ending comes at once; those of RabbitMQ and Service Bus that take
messages are a broker, and a stand-in on Proton. What botocore, aiormq and azure-servicebus leave of themselves
when a client is closed is theirs; it drives collections (`outpost.collecting`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator

import pytest
import uvloop

from outpost import collecting
from outpost import settings as settings_
from outpost.adapters import base, registry
from tests.harness import cycles, destinations, servers
from tests.harness.destinations import world as worlds
from tests.hostile.attackers import brokers, brokers_kafka, brokers_pubsub

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture is deprecated")

DATA = b'{"payload": "' + b"x" * 50_000 + b'"}'
LONG_S, SHORT_S = 60.0, 0.2
SETTINGS = settings_.Settings(
    destinations_allowed_cidrs=("127.0.0.0/8",), delivery_timeout_ms=round(LONG_S * 1000)
)
CLOSED_PORT = 1
BOTO_OBJECTS = 3  # small ones that botocore leaves of each call: a parser of events, and what it points to


def _json(answer: object, head: bytes = b"") -> brokers.Behaviour:
    """A service of AWS that answers every request with this."""
    body = json.dumps(answer).encode() if answer else b""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked = (await reader.readuntil(b"\r\n\r\n")).lower()
            [length] = [line[15:] for line in asked.split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(length))
            writer.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
            await writer.drain()

    return behave


GOOD = {
    "aws_sqs": _json({"Successful": [{"Id": "0", "MessageId": "m"}]}),
    "aws_kinesis": _json({"ShardId": "s", "SequenceNumber": "1"}),
    "aws_eventbridge": _json({"Entries": [{"EventId": "1"}]}),
    "aws_s3": _json(None, b'ETag: "x"\r\n'),
    "kafka": brokers_kafka.broker(),
    "gcp_pubsub": brokers_pubsub.answering(brokers_pubsub.IDS),
}
OF_ONE_REQUEST = {"gcp_pubsub"}  # false services that answer once on a connection
# aiormq's own, in all but a few methods.
THEIRS = {f"outpost.adapters.rabbitmq.wire.{name}" for name in ("_Connection", "_Channel")}
REAL = ["azure_servicebus", "rabbitmq"]
ALL = [*GOOD, *REAL]


@pytest.fixture
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """That of the server. The transports of asyncio itself are cycles."""
    return uvloop.EventLoopPolicy()


class Sender:
    """The types with one registry. `closed` are the destinations' publishers as the dispatcher closes them."""

    def __init__(self) -> None:
        self._registry = registry.build(SETTINGS)
        self._events = 0

    async def connect(self, type_: str, place: brokers.Place) -> base.Publisher:
        config, credentials = place
        adapter = self._registry.get(type_)
        assert adapter is not None
        prepared = adapter.prepare(base.Save(config, credentials, None, credentials, True, 0))
        assert [] == prepared.problems
        opened = base.OpenDestination("t", "d", type_, prepared.config, prepared.credentials, {}, ("*",))
        return await adapter.connect(opened)

    async def send(self, publisher: base.Publisher, code: str, within: float = LONG_S) -> None:
        """Sends an event of its own and sees it end with `code`."""
        self._events += 1
        event = base.Delivery(f"evt-{self._events}", "order.created", "2026-01-02T03:04:05Z", {}, bytes(DATA), 1)
        [outcome] = await publisher.send([event], asyncio.get_running_loop().time() + within)
        assert code == outcome.code

    @contextlib.asynccontextmanager
    async def connected(self, type_: str, place: brokers.Place) -> AsyncIterator[base.Publisher]:
        publisher = await self.connect(type_, place)
        try:
            yield publisher
        finally:
            await publisher.close()

    async def close(self) -> None:
        await self._registry.close()


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    made = Sender()
    yield made
    await made.close()


@pytest.fixture(params=REAL, scope="module")
def real(request: pytest.FixtureRequest) -> Iterator[type[worlds.World]]:
    """A broker that takes messages."""
    found = destinations.world_of(request.param)
    if missing := found.missing():
        servers.leave_out(missing)
    yield found
    found.end_session()


def ours(left: cycles.Left) -> dict[str, int]:
    """The objects of ours that were left."""
    return {name: count for name, count in left.types.items() if name.startswith("outpost.")}


@pytest.mark.parametrize("type_", sorted(GOOD.keys() - OF_ONE_REQUEST))
async def test_deliveries_over_an_open_connection_leave_nothing(type_: str, sender: Sender):
    service = brokers.FalseService(type_, "good", "OK", GOOD[type_])
    async with service.opened() as (place, _), sender.connected(type_, place) as publisher:
        left = await cycles.left_behind(lambda: sender.send(publisher, "OK"), rounds=5)
    assert ({}, 0) == (ours(left), left.payload_bytes)
    assert sum(left.types.values()) <= (5 * BOTO_OBJECTS if type_.startswith("aws_") else 0)


@pytest.mark.parametrize("type_", sorted(GOOD))
async def test_a_closed_publisher_leaves_nothing_of_ours(type_: str, sender: Sender):
    async def delivered() -> None:
        async with sender.connected(type_, place) as publisher:
            await sender.send(publisher, "OK")

    service = brokers.FalseService(type_, "good", "OK", GOOD[type_])
    async with service.opened() as (place, _):
        assert {} == ours(await cycles.left_behind(delivered))


async def test_deliveries_to_a_broker_leave_nothing_of_ours(real: type[worlds.World], sender: Sender):
    async with real() as world:
        target = await world.target()
        async with sender.connected(real.type, (target.config, target.credentials)) as publisher:
            left = await cycles.left_behind(lambda: sender.send(publisher, "OK"))
    assert ({}, True) == (ours(left), left.payload_bytes < len(DATA))


async def test_the_end_of_a_connection_to_a_broker_leaves_nothing_of_ours_and_counts_what_the_library_holds(
    real: type[worlds.World], sender: Sender, monkeypatch: pytest.MonkeyPatch
):
    async def delivered() -> None:
        async with sender.connected(real.type, (target.config, target.credentials)) as publisher:
            await sender.send(publisher, "OK")

    monkeypatch.setattr(collecting, "_counted", 0)
    async with real() as world:
        target = await world.target()
        left = await cycles.left_behind(delivered, warm_up=3, rounds=5)
    assert {} == {name: count for name, count in ours(left).items() if name not in THEIRS}
    assert left.payload_bytes * 8 <= collecting._counted * 5


@pytest.mark.parametrize("type_", ALL)
async def test_a_connection_that_is_refused_leaves_nothing_of_ours(type_: str, sender: Sender):
    async def refused() -> None:
        async with sender.connected(type_, brokers.place(type_, CLOSED_PORT)) as publisher:
            await sender.send(publisher, "connection_refused")

    assert {} == ours(await cycles.left_behind(refused))


@pytest.mark.parametrize("type_", sorted({*ALL} - {"rabbitmq"}))
async def test_a_service_that_says_nothing_leaves_nothing_of_ours(type_: str, sender: Sender):
    async def silent() -> None:
        async with sender.connected(type_, place) as publisher:
            await sender.send(publisher, "timeout", SHORT_S)

    service = brokers.FalseService(type_, "silent", "timeout", brokers.says())
    async with service.opened() as (place, _):
        assert {} == ours(await cycles.left_behind(silent))
