"""Receivers that answer as no service should cost no more bytes and no more time than an answer may have."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import uvloop

from outpost import settings as settings_
from outpost.adapters import base, registry
from outpost.adapters.http import reading
from tests.harness.polling import eventually
from tests.hostile.attackers import receivers

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture is deprecated")

WITHIN_S = 2.0  # the deadline of a delivery
LIMIT_S = 60.0
# What the kernels of both sides may hold beside what the client reads.
BUFFERED_BYTES = 9_000_000


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return request.param()


@pytest.fixture
async def types() -> AsyncIterator[registry.Registry]:
    made = registry.build(settings_.Settings(destinations_allowed_cidrs=("127.0.0.0/8",)))
    yield made
    await made.close()


async def opened(types: registry.Registry, url: str) -> base.Publisher:
    adapter = types.get("webhook")
    assert adapter is not None
    return await adapter.connect(
        base.OpenDestination("t", "d", "webhook", {"url": url}, {"secret": "s" * 20}, {}, ("*",))
    )


@pytest.mark.parametrize("false", receivers.FALSE_RECEIVERS, ids=lambda false: false.name)
async def test_a_false_receiver_costs_no_more_than_an_answer_may(
    types: registry.Registry, false: receivers.FalseReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = _counted_bytes(monkeypatch)
    async with false.opened() as (url, exchanges):
        publisher = await opened(types, url)
        event = base.Delivery("evt", "topic", "2026-01-02T03:04:05.678Z", {}, b"x" * false.event_bytes, 1)
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        async with asyncio.timeout(LIMIT_S):
            [outcome] = await publisher.send([event], loop.time() + WITHIN_S)
        took = time.monotonic() - began
        assert outcome.code in false.codes
        assert took < WITHIN_S + 10  # for a busy machine; what is held here is that there is an end
        if false.pours:
            await eventually(lambda: exchanges[0]._writer.is_closing(), LIMIT_S)
            assert exchanges[0].poured < receivers.MOST_BYTES
            assert exchanges[0].poured < BUFFERED_BYTES
        settings = settings_.Settings()
        cap = settings.webhook_max_response_body_bytes
        most = cap * (1 + reading.FRAMING_PER_BODY_BYTE) + reading.MAX_FRAMING_BYTES
        assert sum(fed) <= most + 262_144  # and one read of the socket
        response = outcome.response or {}
        assert len(str(response)) <= cap + 1_000


def _counted_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each read brought to the reader of an answer."""
    fed: list[int] = []
    feed = reading.Reader.feed

    def counting(self: reading.Reader, data: bytes) -> object:
        fed.append(len(data))
        return feed(self, data)

    monkeypatch.setattr(reading.Reader, "feed", counting)
    return fed


async def test_the_next_delivery_to_a_false_receiver_does_not_hear_of_the_last(types: registry.Registry) -> None:
    [false] = [each for each in receivers.FALSE_RECEIVERS if each.name == "bytes after the answer"]
    async with false.opened() as (url, exchanges):
        publisher = await opened(types, url)
        event = base.Delivery("evt", "topic", "2026-01-02T03:04:05.678Z", {}, b"{}", 1)
        loop = asyncio.get_running_loop()
        for number in range(1, 4):
            [outcome] = await publisher.send([event], loop.time() + LIMIT_S)
            assert "200" == outcome.code
            await eventually(lambda: exchanges[-1]._writer.is_closing(), LIMIT_S)
            assert number == len(exchanges)
