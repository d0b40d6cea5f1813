"""Deliveries over HTTP leave nothing to the cyclic collector: requests, answers and their buffers are freed by
counting, however a delivery ends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
import trustme
import uvloop

from outpost import settings as settings_
from outpost.adapters import base
from outpost.adapters.egress import guard as egress
from outpost.adapters.egress import names
from outpost.adapters.hookdeck import type as hookdeck_type
from outpost.adapters.http import protocol_client
from outpost.adapters.shared import resources as shared_
from outpost.adapters.webhook import type as webhook_type
from outpost.domain import delivery
from tests.harness import cycles
from tests.harness import receiver as receivers
from tests.harness.receiver import Do, Receiver, WaitFor, answer, chunked, head

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture is deprecated")

DATA = b'{"payload": "' + b"x" * 50_000 + b'"}'
MAX_BODY_BYTES = 100_000
SHORT_S = 0.1  # until a deadline that is meant to be reached
LONG_S = 60.0


@pytest.fixture
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """That of the server. The transports of asyncio itself are cycles."""
    return uvloop.EventLoopPolicy()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


class Sender:
    """One type with its client, and a publisher for each receiver."""

    def __init__(self, type_: str, authority: trustme.CA) -> None:
        self._type = type_
        self._trust = ssl.create_default_context()
        authority.configure_trust(self._trust)
        self._events = 0

    async def publisher(self, url: str, lookup: names.Lookup = lambda _: ["127.0.0.1"]) -> base.Publisher:
        settings = settings_.Settings(hookdeck_events_url=url.rstrip("/"))
        shared = shared_.Shared(settings)
        shared.guard = egress.Guard(["127.0.0.0/8"])
        shared.names = names.Names(shared.guard, lookup)
        shared.http = protocol_client.ProtocolClient(
            shared.guard, shared.names, max_body_bytes=MAX_BODY_BYTES, connections=10, trust=self._trust
        )
        self.shared = shared
        adapter: base.Adapter = (
            webhook_type.build(shared) if self._type == "webhook" else hookdeck_type.build(shared)
        )
        config = {"url": url}
        credentials = {"secret": "s" * 20, "token": base64.b64encode(b"source:key").decode()}
        return await adapter.connect(base.OpenDestination("t", "d", self._type, config, credentials, {}, ("*",)))

    def event(self) -> base.Delivery:
        self._events += 1
        return base.Delivery(f"evt-{self._events}", "topic", "2026-01-02T03:04:05.678Z", {}, bytes(DATA), 1)

    async def send(self, publisher: base.Publisher, within: float = LONG_S) -> delivery.Outcome:
        [outcome] = await publisher.send([self.event()], asyncio.get_running_loop().time() + within)
        return outcome


@pytest.fixture(params=["webhook", "hookdeck"])
async def sender(request: pytest.FixtureRequest, authority: trustme.CA) -> AsyncIterator[Sender]:
    made = Sender(request.param, authority)
    yield made
    await made.shared.close()


def nothing(left: cycles.Left) -> None:
    assert ({}, 0) == (dict(left.types), left.payload_bytes), left


CLOSING = "Connection: close"
SCRIPTS: dict[str, tuple[receivers.Script, str]] = {
    "success on a kept connection": (answer(200, b"x" * 10_000), "200"),
    "success on new connections": (answer(200, b"x" * 10_000, CLOSING), "200"),
    "chunked": (chunked(200, [b"x" * 1_000] * 20), "200"),
    "failure": (answer(500, b"no" * 1_000, "Retry-After: 5"), "500"),
    "gone": (answer(410, b""), "410"),
    "too large an answer": (answer(200, b"x" * (MAX_BODY_BYTES + 1)), "200"),
    "until close": ([head(200) + b"until the end", Do.CLOSE], "200"),
    "broken body": ([head(200, "Content-Length: 10") + b"x", Do.CLOSE], "200"),
    "nonsense": ([b"SSH-2.0-OpenSSH_9.2\r\n", Do.HANG], "network_error"),
    "interim answers without end": ([head(100) * 30, Do.HANG], "network_error"),
    "more than was announced": ([answer(200)[0] + b"surplus", Do.HANG], "200"),
    "hang-up": ([Do.CLOSE], "connection_reset"),
    "reset": ([Do.RESET], "connection_reset"),
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_delivery_leaves_no_cycle_whatever_the_answer(sender: Sender, name: str) -> None:
    script, code = SCRIPTS[name]
    async with Receiver() as receiver:
        receiver.always(script)
        publisher = await sender.publisher(receiver.url())

        async def deliver() -> None:
            outcome = await sender.send(publisher)
            assert outcome.code in (code, "ERROR")
            receiver.requests.clear()

        nothing(await cycles.left_behind(deliver))


async def test_nor_does_one_that_is_refused(sender: Sender) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    publisher = await sender.publisher(f"http://127.0.0.1:{port}/")

    async def deliver() -> None:
        assert (await sender.send(publisher)).code in ("connection_refused", "ERROR")

    nothing(await cycles.left_behind(deliver))


@pytest.mark.parametrize("found", [[], ["127.0.0.2", "127.0.0.1"], ["10.0.0.1"]], ids=["none", "two", "blocked"])
async def test_nor_does_one_whose_name_has_no_two_or_a_blocked_address(
    sender: Sender, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "KEEP_SECONDS", 0.0)
    monkeypatch.setattr(names, "KEEP_FAILURE_SECONDS", 0.0)
    monkeypatch.setattr(names, "KEEP_FAILURE_FACTOR", 0)
    async with Receiver() as receiver:
        receiver.always(answer(200, b"", CLOSING))
        publisher = await sender.publisher(receiver.url(host="name.test"), lambda _: found)

        async def deliver() -> None:
            outcome = await sender.send(publisher)
            assert outcome.code in ("200", "dns_error", "blocked_address", "ERROR")
            receiver.requests.clear()

        nothing(await cycles.left_behind(deliver))


@pytest.mark.parametrize("script", [[Do.HANG], [head(200, "Content-Length: 10") + b"x", Do.HANG]])
async def test_nor_does_one_that_times_out(sender: Sender, script: receivers.Script) -> None:
    async with Receiver() as receiver:
        receiver.always(script)
        publisher = await sender.publisher(receiver.url())

        async def deliver() -> None:
            await sender.send(publisher, SHORT_S)
            receiver.requests.clear()

        nothing(await cycles.left_behind(deliver, rounds=3, warm_up=2))


async def test_nor_does_one_that_times_out_while_it_connects(sender: Sender) -> None:
    """The backlog is full, so that the connection is never taken."""
    with socket.socket() as server, contextlib.ExitStack() as held:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        publisher = await sender.publisher(f"http://127.0.0.1:{server.getsockname()[1]}/")

        async def deliver() -> None:
            assert (await sender.send(publisher, SHORT_S)).code in ("timeout", "ERROR")

        nothing(await cycles.left_behind(deliver, rounds=3, warm_up=2))


async def test_nor_does_one_that_is_cancelled(sender: Sender) -> None:
    never = asyncio.Event()
    async with Receiver() as receiver:
        publisher = await sender.publisher(receiver.url())

        async def deliver() -> None:
            arrived = asyncio.Event()

            def script(_: receivers.Request) -> receivers.Script:
                arrived.set()
                return [WaitFor(never)]

            receiver.always(script)
            task = asyncio.ensure_future(sender.send(publisher))
            await arrived.wait()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            receiver.requests.clear()
            receiver.always(answer())

        nothing(await cycles.left_behind(deliver))


@pytest.mark.parametrize("script", [answer(200, b"ok"), answer(200, b"ok", CLOSING)], ids=["kept", "new"])
async def test_nor_does_one_over_tls(sender: Sender, authority: trustme.CA, script: receivers.Script) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("receiver.test").configure_cert(context)
    async with Receiver(tls=context) as receiver:
        receiver.always(script)
        publisher = await sender.publisher(receiver.url(host="receiver.test"))

        async def deliver() -> None:
            assert "200" == (await sender.send(publisher)).code
            receiver.requests.clear()

        nothing(await cycles.left_behind(deliver))


async def test_nor_does_one_whose_certificate_is_for_another_name(sender: Sender, authority: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.test").configure_cert(context)
    async with Receiver(tls=context) as receiver:
        publisher = await sender.publisher(receiver.url(host="receiver.test"))

        async def deliver() -> None:
            assert (await sender.send(publisher)).code in ("tls_error", "ERROR")

        nothing(await cycles.left_behind(deliver))


async def test_nor_does_a_publisher_that_was_used_and_closed(sender: Sender) -> None:
    async with Receiver() as receiver:
        await sender.publisher(receiver.url())

        async def use() -> None:
            await sender.shared.close()
            publisher = await sender.publisher(receiver.url())
            await sender.send(publisher)
            await publisher.close()
            receiver.requests.clear()

        nothing(await cycles.left_behind(use))
