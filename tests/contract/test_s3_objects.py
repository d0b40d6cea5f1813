"""What an S3 that checks signatures holds, beside what the suite of all types asks."""

from __future__ import annotations

import asyncio
import email.header
from collections.abc import AsyncIterator, Iterator

import pytest

from outpost import settings
from outpost.adapters import base, registry
from outpost.domain import delivery
from tests.harness import servers
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
