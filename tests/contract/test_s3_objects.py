"""What an S3 that checks signatures holds, beside what the suite of all types asks."""

from __future__ import annotations

import asyncio
import base64
import email.header
import hashlib
import json
from collections.abc import AsyncIterator, Iterator

import pytest

from outpost import settings
from outpost.adapters import base, registry
from outpost.domain import delivery
from tests.harness import receiver, servers
from tests.harness.destinations import s3

DATA = b'{"a":  1}'
TIME = "2026-01-02T03:04:05.678Z"


@pytest.fixture(scope="module", autouse=True)
def rclone() -> Iterator[None]:
    if missing := s3.World.missing():
        servers.leave_out(missing)
    yield
    s3.World.end_session()


@pytest.fixture
async def world() -> AsyncIterator[s3.World]:
    async with s3.World() as started:
        yield started


@pytest.fixture
async def adapter() -> AsyncIterator[base.Adapter]:
    types = registry.build(settings.Settings(destinations_allowed_cidrs=("127.0.0.0/8",)))
    found = types.get("aws_s3")
    assert found is not None
    yield found
    await types.close()


async def send(
    adapter: base.Adapter, config: dict[str, str], credentials: dict[str, str], *events: base.Delivery
) -> list[delivery.Outcome]:
    opened = base.OpenDestination("t", "d", "aws_s3", config, credentials, {})
    publisher = await adapter.connect(opened)
    try:
        return [(await publisher.send([event], asyncio.get_running_loop().time() + 5.0))[0] for event in events]
    finally:
        await publisher.close()


async def test_no_metadata_breaks_the_signature_of_a_request(world: s3.World, adapter: base.Adapter):
    target = await world.target()
    odd = {
        "Zoë": "blü",
        "two words": "a  b",
        "lines": "1\r\nx-amz-acl: public-read",
        "tab": "\t",
        "cjk": "日本語" * 40,
        "marked": "=?UTF-8?B?eA==?=",
        "quoted": "\"',;:/?@%",
    }
    event = base.Delivery("evt_1", "t", TIME, odd, DATA, 1)
    [outcome] = await send(adapter, target.config, target.credentials, event)
    assert "OK" == outcome.code
    [arrived] = await world.arrived(target, 1)
    assert DATA == arrived.body
    told = {
        name: str(email.header.make_header(email.header.decode_header(value)))
        for name, value in arrived.metadata.items()
        if name not in ("timestamp", "event-id", "topic")
    }
    names = {"zo%c3%ab": odd["Zoë"], "two%20words": odd["two words"]}
    assert {**names, **{name: odd[name] for name in ("lines", "tab", "cjk", "marked", "quoted")}} == told


@pytest.mark.behaviour(133)
async def test_an_event_that_is_sent_again_overwrites_its_object(world: s3.World, adapter: base.Adapter):
    target = await world.target()
    config = {**target.config, "key_template": "join('/', [metadata.topic, metadata.timestamp, time.unix])"}
    attempts = [base.Delivery("evt_1", "orders ü", TIME, {}, DATA, attempt) for attempt in (1, 2)]
    first, second = await send(adapter, config, target.credentials, *attempts)
    expected = "orders ü/2026-01-02T03:04:05Z/1767323045"
    assert delivery.Delivered("OK", {"bucket": target.key, "key": expected}) == first
    assert first == second
    [arrived] = await world.arrived(target, 1)
    assert expected == arrived.extra["key"]
    assert "application/json" == arrived.extra["content_type"]


@pytest.mark.case(37)
@pytest.mark.parametrize("data", [b"{}", DATA, '"Zo\u00eb"'.encode(), b'"%b"' % (b"x" * 300_000)])
async def test_a_store_of_somebody_elses_gets_no_checksum_header(adapter: base.Adapter, data: bytes):
    credentials = {"key": "AKIDEXAMPLE", "secret": "a-secret-of-nobody"}
    async with receiver.Receiver() as store:
        store.always(receiver.answer(200, b"", 'ETag: "1"'))
        config = {"bucket": "b", "region": "us-east-1", "endpoint": f"http://127.0.0.1:{store.port}"}
        [outcome] = await send(adapter, config, credentials, base.Delivery("evt_1", "t", TIME, {}, data, 1))
        assert "OK" == outcome.code
        [request] = store.requests
    checksums = ("x-amz-checksum", "x-amz-sdk-checksum", "x-amz-trailer", "content-encoding", "transfer-encoding")
    assert [] == [name for name in request.headers if name.startswith(checksums)]
    # What protects the bytes on their way: the signature, and the header that every service knows.
    assert data == request.body
    assert hashlib.sha256(data).hexdigest() == request.headers["x-amz-content-sha256"]
    assert base64.b64encode(hashlib.md5(data).digest()).decode() == request.headers["content-md5"]


@pytest.mark.case(37)
async def test_an_object_arrives_where_nothing_but_its_signature_is_checked(
    world: s3.World, adapter: base.Adapter
):
    target = await world.target()
    [outcome] = await send(
        adapter, target.config, target.credentials, base.Delivery("evt_1", "t", TIME, {}, DATA, 1)
    )
    assert "OK" == outcome.code
    assert [DATA] == [arrived.body for arrived in await world.arrived(target, 1)]


async def test_a_key_that_is_too_long_fails_once_and_others_arrive(world: s3.World, adapter: base.Adapter):
    target = await world.target()
    config = {**target.config, "key_template": "data.name"}
    bodies = [json.dumps({"name": "\u00e9" * count}, ensure_ascii=False).encode() for count in (2, 513)]
    events = [base.Delivery(f"evt_{len(body)}", "t", TIME, {}, body, 1) for body in bodies]
    good, bad = await send(adapter, config, target.credentials, *events)
    assert "OK" == good.code
    assert isinstance(bad, delivery.Failed)
    assert ("message_refused", False) == (bad.code, bad.retryable)


async def test_an_object_arrives_without_metadata_that_it_cannot_carry(world: s3.World, adapter: base.Adapter):
    target = await world.target()
    told = {"small": "1", "token": "x" * 2_100, "trace": "y" * 500, "more": "z" * 1_900}
    event = base.Delivery("evt_1", "t", TIME, told, DATA, 1)
    [outcome] = await send(adapter, target.config, target.credentials, event)
    assert outcome.response is not None
    assert ("OK", ["token", "more"]) == (outcome.code, outcome.response["metadata_left_out"])
    [arrived] = await world.arrived(target, 1)
    assert DATA == arrived.body
    assert {"timestamp", "event-id", "topic", "small", "trace"} == arrived.metadata.keys()
