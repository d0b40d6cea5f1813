"""Pub/Sub beyond the suite that all types share: the emulator, what gRPC must not look at, and divided batches."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc.aio
import pytest
from google.pubsub_v1 import PublisherAsyncClient, types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport

from outpost import settings as settings_
from outpost.adapters import base
from outpost.adapters.egress import addresses
from outpost.adapters.egress import guard as egress
from outpost.adapters.gcp import calls as gcp_calls
from outpost.adapters.gcp import publisher as gcp_publisher
from outpost.adapters.gcp import type as gcp_pubsub
from outpost.adapters.shared import resources as shared_
from outpost.domain import delivery
from tests.harness import toxic
from tests.harness.destinations import pubsub, pubsub_server
from tests.harness.polling import free_port

LIMIT_S = 60.0  # only what fails waits so long
LOOPBACK = "127.0.0.0/8"
NAME = "pubsub.test"
PATH = "projects/project-1/topics/events"
CONFIG = {"project_id": "project-1", "topic": "events"}

Publish = Callable[..., Awaitable[list[delivery.Outcome]]]


@pytest.fixture(scope="module")
def account() -> pubsub_server.Account:
    return pubsub_server.Account("publisher")


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def emulator(stack: AsyncExitStack) -> pubsub_server.Server:
    return await started(stack, pubsub_server.Server())


@pytest.fixture
async def google(stack: AsyncExitStack, account: pubsub_server.Account) -> pubsub_server.Server:
    return await started(stack, pubsub_server.Server(tls=pubsub.certificate(NAME)), account)


async def started(
    stack: AsyncExitStack, server: pubsub_server.Server, account: pubsub_server.Account | None = None
) -> pubsub_server.Server:
    await stack.enter_async_context(server)
    server.accounts = [account] if account else []
    server.topics[PATH] = pubsub_server.Topic({account.email} if account else set())
    return server


async def publisher(
    stack: AsyncExitStack,
    config: dict[str, str],
    credentials: str = "{}",
    *,
    at: gcp_calls.Service = gcp_pubsub.GOOGLE,
    found: list[str] | None = None,
) -> Publish:
    """Sends to the destination; `found` are the addresses that any name has."""
    shared = shared_.Shared(settings_.Settings(destinations_allowed_cidrs=(LOOPBACK, "::1/128")))
    shared.addresses = addresses.Addresses(shared.guard, lookup=lambda _: found or [])
    stack.push_async_callback(shared.close)
    stored = base.OpenDestination(
        "t", "d", gcp_pubsub.TYPE, config, {"service_account_json": credentials}, {"team": "blue"}
    )
    opened = await gcp_pubsub.PubSub(shared, at).connect(stored)
    stack.push_async_callback(opened.close)

    async def publish(*events: base.Delivery) -> list[delivery.Outcome]:
        return await opened.send(events or [event()], asyncio.get_running_loop().time() + LIMIT_S)

    return publish


def event(data: bytes = b'{"n":1}', **metadata: str) -> base.Delivery:
    return base.Delivery("evt-1", "order.created", "2026-01-02T03:04:05Z", metadata, data, 1)


def at(server: pubsub_server.Server, host: str = NAME) -> gcp_calls.Service:
    return gcp_calls.Service(host, server.port, roots=pubsub.authority().cert_pem.bytes())


def emulated(server: pubsub_server.Server) -> dict[str, str]:
    return CONFIG | {"endpoint": f"127.0.0.1:{server.port}"}


def bodies(server: pubsub_server.Server) -> list[bytes]:
    return [message.data for message in server.topics[PATH].messages]


def words(outcomes: list[delivery.Outcome]) -> list[str]:
    return [outcome.code for outcome in outcomes]


@pytest.mark.behaviour(136)
async def test_an_emulator_gets_the_message_without_tls_and_without_a_token(
    stack: AsyncExitStack, emulator: pubsub_server.Server
):
    publish = await publisher(stack, emulated(emulator), "not looked at")
    answer = {"message_id": "1", "topic": "events", "project": "project-1"}
    assert [delivery.Delivered("OK", answer)] == await publish(event(trace="t-1"))
    [message] = emulator.topics[PATH].messages
    attributes = dict(message.attributes)
    del attributes["timestamp"]
    assert {"event-id": "evt-1", "topic": "order.created", "team": "blue", "trace": "t-1"} == attributes
    assert (b'{"n":1}', "") == (message.data, message.ordering_key)


async def test_a_request_is_what_googles_own_client_sends(stack: AsyncExitStack, emulator: pubsub_server.Server):
    odd = CONFIG | {"topic": "a+b~c%"}
    path = "projects/project-1/topics/a+b~c%"
    emulator.topics[path] = pubsub_server.Topic(set())
    publish = await publisher(stack, emulated(emulator) | odd)
    [outcome] = await publish(event())
    [message] = emulator.topics[path].messages
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{emulator.port}")
    genuine = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=channel))
    again = types.PubsubMessage(data=message.data, attributes=message.attributes)
    await genuine.publish(topic=path, messages=[again])
    await channel.close()
    (ours, sent), (theirs, would_send) = emulator.requests
    assert "OK" == outcome.code
    assert types.PublishRequest.deserialize(would_send) == types.PublishRequest.deserialize(sent)
    assert len(would_send) == len(sent)
    assert theirs["x-goog-request-params"] == ours["x-goog-request-params"]


@pytest.mark.parametrize("found", [["127.0.0.1"], ["::1", "127.0.0.1"], ["127.0.0.2", "127.0.0.1"]])
async def test_tls_checks_the_name_while_the_connection_goes_to_the_addresses_that_were_judged(
    stack: AsyncExitStack, google: pubsub_server.Server, account: pubsub_server.Account, found: list[str]
):
    publish = await publisher(stack, CONFIG, pubsub.key_file(account), at=at(google), found=found)
    assert ["OK"] == words(await publish())


async def test_a_certificate_for_another_name_ends_it_before_a_token_is_sent(
    stack: AsyncExitStack, account: pubsub_server.Account
):
    server = await started(stack, pubsub_server.Server(tls=pubsub.certificate("another.test")), account)
    publish = await publisher(stack, CONFIG, pubsub.key_file(account), at=at(server), found=["127.0.0.1"])
    assert ["tls_error"] == words(await publish())
    assert [] == server.requests


async def test_an_unknown_authority_ends_it_before_a_token_is_sent(
    stack: AsyncExitStack, google: pubsub_server.Server, account: pubsub_server.Account
):
    """The roots are then those that come with gRPC."""
    bundled = gcp_calls.Service(NAME, google.port)
    publish = await publisher(stack, CONFIG, pubsub.key_file(account), at=bundled, found=["127.0.0.1"])
    assert ["tls_error"] == words(await publish())
    assert [] == google.requests


@pytest.mark.parametrize(
    ("found", "code"),
    [(["10.0.0.1"], "blocked_address"), (["127.0.0.1", "169.254.169.254"], "blocked_address"), ([], "dns_error")],
)
async def test_a_name_is_judged_by_all_its_addresses(stack: AsyncExitStack, found: list[str], code: str):
    for service, config in (
        (gcp_pubsub.GOOGLE, CONFIG),
        (gcp_pubsub.GOOGLE, CONFIG | {"endpoint": "emulator.test:80"}),
    ):
        text = pubsub_key() if "endpoint" not in config else "{}"
        publish = await publisher(stack, config, text, at=service, found=found)
        [outcome] = await publish()
        assert code == outcome.code
        assert isinstance(outcome, delivery.Failed)
        assert outcome.retryable  # a name may have another address later


def pubsub_key() -> str:
    return pubsub.key_file(_STRANGER)


_STRANGER = pubsub_server.Account("stranger")


async def test_nobody_listening_is_told_as_such(stack: AsyncExitStack):
    publish = await publisher(stack, CONFIG | {"endpoint": f"127.0.0.1:{free_port()}"})
    assert ["connection_refused"] == words(await publish())


async def test_what_is_too_large_by_itself_fails_alone_and_is_not_sent(
    stack: AsyncExitStack, emulator: pubsub_server.Server
):
    publish = await publisher(stack, emulated(emulator))
    outcomes = await publish(event(b"1"), event(b"2" * 10_000_000), event(b"3"))
    assert ["OK", "message_too_large", "OK"] == words(outcomes)
    assert [True, False] == [isinstance(o, delivery.Delivered) or o.retryable for o in outcomes[:2]]
    assert [b"1", b"3"] == bodies(emulator)
    assert 1 == len(emulator.requests)


async def test_a_batch_is_split_by_bytes_and_the_largest_message_still_goes(
    stack: AsyncExitStack, emulator: pubsub_server.Server
):
    publish = await publisher(stack, emulated(emulator))
    sent = [b"1" * 6_000_000, b"2" * 3_900_000, b"3" * 9_999_000, b"4" * 9_900_000, b"5"]
    assert ["OK", "OK", "message_too_large", "OK", "OK"] == words(
        await publish(*(event(body, pad="x" * 1_000) for body in sent))
    )
    assert sorted([*sent[:2], *sent[3:]]) == sorted(bodies(emulator))
    assert 2 == len(emulator.requests)


async def test_a_message_that_the_service_does_not_want_fails_alone(
    stack: AsyncExitStack, emulator: pubsub_server.Server
):
    """Pub/Sub takes a request as a whole or not at all, and one message can be against a topic's schema. One whose
    attribute the emulator would refuse as well arrives without it."""
    publish = await publisher(stack, emulated(emulator))
    emulator.refused = b"5"
    events = [event(str(n).encode(), **({"long": "x" * 2_000} if n == 3 else {})) for n in range(8)]
    outcomes = await publish(*events)
    assert [n for n, outcome in enumerate(outcomes) if outcome.code != "OK"] == [5]
    assert ["long"] == outcomes[3].response["metadata_left_out"]
    assert {"error": "Invalid data in message: Message failed schema validation."} == outcomes[5].response
    assert [b"0", b"1", b"2", b"3", b"4", b"6", b"7"] == sorted(bodies(emulator))


async def test_a_batch_of_which_nothing_is_wanted_is_not_divided_for_ever(
    stack: AsyncExitStack, emulator: pubsub_server.Server
):
    publish = await publisher(stack, emulated(emulator))
    emulator.answer = ("INVALID_ARGUMENT", "Invalid resource name given.")
    outcomes = await publish(*(event() for _ in range(1_000)))
    assert ["ERR"] * 1_000 == words(outcomes)
    assert 1 + 2 * gcp_publisher.MOST_DIVISIONS == len(emulator.requests)


async def test_a_request_that_is_too_large_for_the_service_is_divided_before_anybody_is_given_up(
    stack: AsyncExitStack, emulator: pubsub_server.Server
):
    publish = await publisher(stack, emulated(emulator))
    emulator.most_bytes = 1_000
    outcomes = await publish(*(event(str(n).encode() * 600) for n in range(4)), event(b"x" * 1_000))
    assert ["OK", "OK", "OK", "OK", "message_too_large"] == words(outcomes)


async def test_metadata_that_utf8_does_not_have_fails_alone(stack: AsyncExitStack, emulator: pubsub_server.Server):
    publish = await publisher(stack, emulated(emulator))
    bad, good = await publish(event(odd="\ud800"), event())
    assert (delivery.Failed("ERR", {"error": "could not format event for delivery"}), "OK") == (bad, good.code)


async def test_the_text_of_the_service_is_kept_without_the_token(
    stack: AsyncExitStack, google: pubsub_server.Server, account: pubsub_server.Account
):
    google.answer = ("FAILED_PRECONDITION", "no: {authorization}\nand so on")
    publish = await publisher(stack, CONFIG, pubsub.key_file(account), at=at(google), found=["127.0.0.1"])
    assert [delivery.Failed("ERR", {"error": "no: Bearer *** and so on"})] == await publish()


async def test_one_that_times_out_takes_no_other_send_with_it(
    stack: AsyncExitStack, emulator: pubsub_server.Server
):
    """Its channel is closed for new sends; those under way end on it."""
    proxy = await stack.enter_async_context(toxic.Toxic("127.0.0.1", emulator.port))
    shared = shared_.Shared(settings_.Settings(destinations_allowed_cidrs=(LOOPBACK,)))
    stack.push_async_callback(shared.close)
    config = CONFIG | {"endpoint": f"127.0.0.1:{proxy.port}"}
    opened = await gcp_pubsub.build(shared).connect(
        base.OpenDestination("t", "d", gcp_pubsub.TYPE, config, {"service_account_json": "{}"}, {})
    )
    stack.push_async_callback(opened.close)
    loop = asyncio.get_running_loop()
    assert ["OK"] == words(await opened.send([event()], loop.time() + LIMIT_S))
    proxy.stall()
    patient = asyncio.create_task(opened.send([event()], loop.time() + LIMIT_S))
    assert ["timeout"] == words(await opened.send([event()], loop.time() + 0.2))
    proxy.flow()
    assert ["OK"] == words(await patient)
    assert 1 == proxy.accepted
    assert ["OK"] == words(await opened.send([event()], loop.time() + LIMIT_S))
    assert 2 == proxy.accepted


async def test_a_debug_log_holds_neither_payloads_nor_tokens(
    stack: AsyncExitStack,
    google: pubsub_server.Server,
    account: pubsub_server.Account,
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.DEBUG)
    publish = await publisher(stack, CONFIG, pubsub.key_file(account), at=at(google), found=["127.0.0.1"])
    assert ["OK"] == words(await publish(event(b"a payload")))
    [(metadata, _)] = google.requests
    assert "a payload" not in caplog.text
    assert metadata["authorization"].removeprefix("Bearer ") not in caplog.text


SENDER = """
import asyncio, json, sys
import uvloop
from outpost import settings
from outpost.adapters import base
from outpost.adapters.gcp import calls as gcp_calls
from outpost.adapters.gcp import publisher as gcp_publisher
from outpost.adapters.gcp import type as gcp_pubsub
from outpost.adapters.shared import resources as shared

async def main():
    port, roots, key = json.load(sys.stdin)
    made = shared.Shared(settings.Settings(destinations_allowed_cidrs=("127.0.0.0/8",)))
    told = []
    for known in (roots.encode(), None):
        type_ = gcp_pubsub.PubSub(made, gcp_calls.Service("127.0.0.1", port, roots=known))
        config = {"project_id": "project-1", "topic": "events"}
        opened = await type_.connect(
            base.OpenDestination("t", "d", "gcp_pubsub", config, {"service_account_json": key}, {})
        )
        event = base.Delivery("evt-1", "order.created", "2026-01-02T03:04:05Z", {}, b"1", 1)
        [outcome] = await opened.send([event], asyncio.get_running_loop().time() + 5)
        told.append([outcome.code, outcome.response])
        await opened.close()
    await made.close()
    print(json.dumps(told))

uvloop.run(main())
"""


async def test_nothing_of_our_environment_is_used(
    stack: AsyncExitStack, account: pubsub_server.Account, tmp_path: Any
):
    """Neither a proxy, nor credentials, nor a metadata service, nor another authority than was named."""
    asked: list[bytes] = []

    async def trap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(100))
        writer.close()

    trapped = await stack.enter_async_context(await asyncio.start_server(trap, "127.0.0.1", 0))
    place = f"127.0.0.1:{trapped.sockets[0].getsockname()[1]}"
    server = await started(stack, pubsub_server.Server(tls=pubsub.certificate("127.0.0.1")), account)
    ours, theirs = tmp_path / "ours.json", tmp_path / "roots.pem"
    ours.write_text(pubsub.key_file(_STRANGER))
    theirs.write_bytes(pubsub.authority().cert_pem.bytes())
    hostile = {
        **dict.fromkeys(("grpc_proxy", "http_proxy", "https_proxy", "all_proxy"), f"http://{place}"),
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), f"http://{place}"),
        "GRPC_ADDRESS_HTTP_PROXY": place,
        "GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES": LOOPBACK,
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(theirs),
        "PUBSUB_EMULATOR_HOST": place,
        "PUBSUB_PROJECT_ID": "ours",
        "GCE_METADATA_HOST": place,
        "GCE_METADATA_IP": place,
        "GCE_METADATA_ROOT": place,
        "GOOGLE_APPLICATION_CREDENTIALS": str(ours),
        "GOOGLE_CLOUD_PROJECT": "ours",
        "GOOGLE_CLOUD_UNIVERSE_DOMAIN": "ours.example",
        "GOOGLE_CLOUD_QUOTA_PROJECT": "ours",
        "GOOGLE_API_USE_CLIENT_CERTIFICATE": "true",
        "GOOGLE_API_USE_MTLS_ENDPOINT": "always",
        "GOOGLE_SDK_PYTHON_LOGGING_SCOPE": "google",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SENDER),
        env=os.environ | hostile,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    asks = json.dumps([server.port, pubsub.authority().cert_pem.bytes().decode(), pubsub.key_file(account)])
    told, complaints = await process.communicate(asks.encode())
    assert 0 == process.returncode, complaints
    delivered, untrusted = json.loads(told)
    assert ["OK", {"message_id": "1", "topic": "events", "project": "project-1"}] == delivered
    assert "tls_error" == untrusted[0]
    assert [] == asked
    [(metadata, _)] = server.requests
    assert {"x-goog-request-params", "authorization", "user-agent"} == metadata.keys()
    assert b"authorization" not in complaints
    assert b"eyJ" not in complaints


def test_the_guard_judges_googles_own_name_as_well():
    assert egress.Name("pubsub.googleapis.com") == egress.Guard().host(gcp_pubsub.GOOGLE.host)


@pytest.mark.case(40)
@pytest.mark.parametrize("endpoint", ["127.0.0.1:{}", "http://127.0.0.1:{}/"])
async def test_an_emulator_is_named_with_or_without_its_scheme_and_needs_no_key(
    stack: AsyncExitStack, emulator: pubsub_server.Server, endpoint: str
):
    publish = await publisher(stack, CONFIG | {"endpoint": endpoint.format(emulator.port)}, "")
    assert ["OK"] == words(await publish())


@pytest.mark.case(40)
async def test_ordering_keys_come_from_the_template_or_are_the_tenant(
    stack: AsyncExitStack, emulator: pubsub_server.Server
):
    publish = await publisher(stack, emulated(emulator) | {"ordering_key_template": "data.customer"})
    bodies = [
        b'{"customer":"c-1"}',
        b'{"customer":7}',
        b"{}",
        b'{"customer":""}',
        b'{"customer":"%b"}' % (b"x" * 1_025),
    ]
    *sent, refused = await publish(*(event(body) for body in bodies))
    assert ["OK"] * 4 == words(sent)
    assert isinstance(refused, delivery.Failed)
    assert ("message_refused", False) == (refused.code, refused.retryable)
    found = {message.data: message.ordering_key for message in emulator.topics[PATH].messages}
    assert dict(zip(bodies, ["c-1", "7", "t", "t"], strict=False)) == found


async def test_a_bad_message_among_those_of_a_key_leaves_the_order_of_the_others(
    stack: AsyncExitStack, emulator: pubsub_server.Server
):
    publish = await publisher(stack, emulated(emulator) | {"ordering_key_template": "'all'"})
    emulator.uneven = True
    emulator.refused = b"5"
    outcomes = await publish(*(event(str(n).encode()) for n in range(12)))
    assert ["OK"] * 5 + ["ERR"] + ["OK"] * 6 == words(outcomes)
    assert [str(n).encode() for n in range(12) if n != 5] == bodies(emulator)


@pytest.mark.case(40)
async def test_an_attribute_that_the_service_never_takes_fails_once(
    stack: AsyncExitStack, emulator: pubsub_server.Server
):
    emulator.answer = ("INVALID_ARGUMENT", "The request contains an attribute key that is not valid.")
    publish = await publisher(stack, emulated(emulator))
    [refused] = await publish()
    assert isinstance(refused, delivery.Failed)
    assert ("message_refused", False) == (refused.code, refused.retryable)
