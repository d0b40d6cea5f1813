"""Service Bus beyond the suite that all types share: messages, TLS by name, batches by size, links that end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import hashlib
import hmac
import os
import ssl
import time
import urllib.parse
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
import trustme

from outpost import settings as settings_
from outpost.adapters import base
from outpost.adapters.azure import type as azure_servicebus
from outpost.adapters.egress import addresses
from outpost.adapters.shared import resources as shared_
from outpost.domain import delivery
from tests.harness import servers
from tests.harness.destinations import servicebus
from tests.harness.destinations import world as worlds

NAME = "orders.servicebus.test"
LIMIT_S = 60.0  # only what fails waits so long
LARGE = 100_000  # two fit into a batch of 256 KiB, three do not


@pytest.fixture(scope="module")
def kind() -> Iterator[type[servicebus.World]]:
    if missing := servicebus.World.missing():
        servers.leave_out(missing)
    yield servicebus.World
    servicebus.World.end_session()


@pytest.fixture
async def world(kind: type[servicebus.World]) -> AsyncIterator[servicebus.World]:
    async with kind() as started:
        yield started


class Sender:
    """The type, where every name resolves to loopback."""

    def __init__(self, trust: ssl.SSLContext | None = None) -> None:
        self.shared = shared_.Shared(settings_.Settings(destinations_allowed_cidrs=("127.0.0.0/8",)))
        self.shared.addresses = addresses.Addresses(self.shared.guard, lambda _: ["127.0.0.1"])
        self.adapter = azure_servicebus.AzureServiceBus(self.shared, "", trust)
        self._opened: list[base.Publisher] = []

    async def connect(self, target: worlds.Target, text: str = "") -> base.Publisher:
        credentials = {"connection_string": text} if text else target.credentials
        destination = base.OpenDestination("t", "d", "azure_servicebus", target.config, credentials, {})
        self._opened.append(await self.adapter.connect(destination))
        return self._opened[-1]

    async def close(self) -> None:
        for publisher in self._opened:
            await publisher.close()
        await self.shared.close()


@pytest.fixture
async def sender(world: servicebus.World) -> AsyncIterator[Sender]:
    made = Sender()
    yield made
    await made.close()


def event(name: str = "evt-1", data: bytes = b"{}") -> base.Delivery:
    return base.Delivery(name, "order.created", "2026-01-02T03:04:05Z", {}, data, 1)


async def send(
    publisher: base.Publisher, *events: base.Delivery, limit_s: float = LIMIT_S
) -> list[delivery.Outcome]:
    return await publisher.send(events or [event()], asyncio.get_running_loop().time() + limit_s)


async def codes(publisher: base.Publisher, *events: base.Delivery, limit_s: float = LIMIT_S) -> list[str]:
    return [outcome.code for outcome in await send(publisher, *events, limit_s=limit_s)]


@pytest.mark.behaviour(136)
async def test_a_message_has_the_events_id_and_its_type(world: servicebus.World, sender: Sender):
    target = await world.target()
    publisher = await sender.connect(target)
    long = "e" * 129
    assert [delivery.Delivered("OK", {})] == await send(publisher, event("evt-1"))
    assert ["OK", "OK"] == await codes(publisher, event("evt-2"), event(long))
    arrived = await world.arrived(target, 3)
    ids = {message.metadata["event-id"]: message.extra["id"] for message in arrived}
    assert {"evt-1": "evt-1", "evt-2": "evt-2", long: hashlib.sha256(long.encode()).hexdigest()} == ids
    assert {"application/json"} == {message.extra["content_type"] for message in arrived}


async def test_a_shared_access_signature_takes_the_place_of_a_key(world: servicebus.World, sender: Sender):
    target = await world.target()
    text = target.credentials["connection_string"]
    parts = dict(part.split("=", 1) for part in text.split(";"))
    audience, end = urllib.parse.quote_plus("sb://127.0.0.1"), int(time.time()) + 60
    digest = hmac.new(parts["SharedAccessKey"].encode(), f"{audience}\n{end}".encode(), hashlib.sha256).digest()
    signature = urllib.parse.quote_plus(base64.b64encode(digest))
    signed = f"SharedAccessSignature sr={audience}&sig={signature}&se={end}&skn={parts['SharedAccessKeyName']}"
    text = f"Endpoint={parts['Endpoint']};SharedAccessSignature={signed};UseDevelopmentEmulator=true"
    publisher = await sender.connect(target, text)
    assert ["OK"] == await codes(publisher)
    other = await sender.connect(target, text.replace(f"&se={end}", f"&se={end + 1}"))
    [outcome] = await send(other)
    assert "invalid_credentials" == outcome.code
    assert signature not in str(outcome.response)


@contextlib.asynccontextmanager
async def tls_front(upstream: int, names: list[str], authority: trustme.CA) -> AsyncIterator[int]:
    """Takes TLS off the way to `upstream`, with a certificate for `names`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65_536):
                writer.write(piece)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", upstream)
        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(("names", "code"), [([NAME], "OK"), (["127.0.0.1", "other.test"], "tls_error")])
async def test_tls_checks_the_name_though_the_library_gets_the_judged_address(
    world: servicebus.World, names: list[str], code: str
):
    authority = trustme.CA()
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    sender = Sender(trust)
    target = await world.target()
    async with tls_front(world.port, names, authority) as port:
        text = target.credentials["connection_string"].replace(";UseDevelopmentEmulator=true", "")
        place, _, rest = text.partition("/;")
        text = f"Endpoint=sb://{NAME}:{port}/;{rest}"
        assert place not in text
        assert [code] == await codes(await sender.connect(target, text))
        await sender.close()


async def test_a_batch_is_divided_by_bytes_and_what_fits_no_message_fails_alone(
    world: servicebus.World, sender: Sender
):
    target = await world.target()
    publisher = await sender.connect(target)
    sizes = [LARGE, LARGE, LARGE, servicebus.LARGEST, 10, LARGE]
    events = [event(f"e{n}", b'"%s"' % (b"x" * size)) for n, size in enumerate(sizes)]
    assert ["OK", "OK", "OK", "message_too_large", "OK", "OK"] == await codes(publisher, *events)
    arrived = await world.arrived(target, 5)
    assert {"e0", "e1", "e2", "e4", "e5"} == {message.metadata["event-id"] for message in arrived}
    assert 1 == world.connections()


async def test_a_thousand_single_sends_share_one_connection_and_go_in_batches(
    world: servicebus.World, sender: Sender
):
    target = await world.target()
    publisher = await sender.connect(target)
    await send(publisher)
    outcomes = await asyncio.gather(*(codes(publisher, event(f"e{n}"), limit_s=30.0) for n in range(1_000)))
    assert [["OK"]] * 1_000 == outcomes
    assert 1_001 == len(await world.arrived(target, 1_001))
    assert 1 == world.connections()


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("amqp:not-found", "target_not_found"),
        ("com.microsoft:server-busy", "throttled"),
        ("amqp:unauthorized-access", "access_denied"),
        ("com.microsoft:entity-disabled", "ERR"),
    ],
)
async def test_a_link_that_the_service_closes_while_sending_says_why_and_is_opened_again(
    world: servicebus.World, sender: Sender, condition: str, code: str
):
    target = await world.target()
    publisher = await sender.connect(target)
    await send(publisher)
    await world.told(do="fault", queue=target.key, condition=condition, detach=True)
    assert [code, code] == await codes(publisher, event("a"), event("b"))
    await world.told(do="fault", queue=target.key, condition="")
    assert ["OK"] == await codes(publisher)


async def test_a_connection_that_ended_while_nobody_sent_costs_no_attempt(world: servicebus.World, sender: Sender):
    target = await world.target()
    publisher = await sender.connect(target)
    await send(publisher)
    await world.restart(target)
    await servers.eventually(lambda: world.connections() == 0)
    await asyncio.sleep(0)  # the end of the stream is read by the loop
    assert ["OK"] == await codes(publisher)


def _past_the_proxy(world: servicebus.World, text: str) -> str:
    """The proxy has tasks of its own."""
    before, _, rest = text.partition(f"{NAME}:")
    return f"{before}{NAME}:{world.port}/{rest.partition('/')[2]}"


async def test_nothing_of_the_library_outlives_a_publisher(world: servicebus.World, sender: Sender):
    target = await world.target()
    before = asyncio.all_tasks()
    text = target.credentials["connection_string"].replace("Endpoint=sb://127.0.0.1:", f"Endpoint=sb://{NAME}:")
    publisher = await sender.connect(target, _past_the_proxy(world, text))
    await send(publisher)
    await servers.eventually(lambda: before == asyncio.all_tasks())
    await publisher.close()
    assert before == asyncio.all_tasks()


async def test_openings_that_are_cut_off_leave_no_connection(world: servicebus.World, sender: Sender):
    target = await world.target()
    await world.stall(target)
    before = len(os.listdir("/proc/self/fd"))
    publishers = [await sender.connect(target) for _ in range(10)]
    timeouts = await asyncio.gather(*(codes(publisher, limit_s=0.3) for publisher in publishers))
    assert [["timeout"]] * 10 == timeouts
    for publisher in publishers:
        await publisher.close()
    gc.collect()  # an unclosed transport would warn
    await world.heal()
    await servers.eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def test_no_setting_of_the_library_comes_from_our_environment(
    world: servicebus.World, sender: Sender, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("AZURE_SDK_TRACING_IMPLEMENTATION", "no-such-thing")  # who reads it, warns
    target = await world.target()
    publisher = await sender.connect(target)
    assert ["OK"] == await codes(publisher)
    [message] = await world.arrived(target, 1)
    assert {"timestamp", "event-id", "topic"} == message.metadata.keys()
    assert [] == [record.msg for record in caplog.records if "racing" in record.msg]


async def test_every_address_of_a_name_is_tried(world: servicebus.World):
    sender = Sender()
    nobody = servers.free_port()
    sender.shared.addresses = addresses.Addresses(sender.shared.guard, lambda _: ["127.0.0.2", "127.0.0.1"])
    target = await world.target()
    text = target.credentials["connection_string"].replace("127.0.0.1", NAME)
    assert ["OK"] == await codes(await sender.connect(target, text))
    closed = msgspec.structs.replace(target, credentials=world.string(nobody, "name", "key"))
    assert ["connection_refused"] == await codes(await sender.connect(closed))
    await sender.close()
