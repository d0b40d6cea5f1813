"""Whatever a tenant's service says, the attempt ends in time with a code, and what it said is not kept."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from outpost import settings as settings_
from outpost.adapters import base, registry
from outpost.domain import delivery
from tests.hostile.attackers import brokers, false_services

LIMIT_S = 30.0  # for what ends by itself
SHORT_S = 1.0  # for what never does
CLOSED_S = 60.0
MOST_TRACED_BYTES = 24_000_000  # with the false service's own buffers; each tries for hundreds of megabytes
CLOSED_PORT = 1


class Sender:
    """The types as a dispatcher uses them."""

    def __init__(self) -> None:
        self._registry = registry.build(settings_.Settings(destinations_allowed_cidrs=("127.0.0.0/8",)))

    async def send(self, type_: str, place: brokers.Place, limit_s: float) -> delivery.Outcome:
        """The outcome of one event, and nothing left open."""
        config, credentials = place
        adapter = self._registry.get(type_)
        assert adapter is not None
        prepared = adapter.prepare(base.Save(config, credentials, None, credentials, True, 0))
        assert [] == prepared.problems
        opened = base.OpenDestination("t", "d", type_, prepared.config, prepared.credentials, {}, ("*",))
        publisher = await adapter.connect(opened)
        event = base.Delivery("evt-1", "order.created", "2026-01-02T03:04:05.678Z", {}, b'{"n":1}', 1)
        try:
            [outcome] = await publisher.send([event], asyncio.get_running_loop().time() + limit_s)
        finally:
            await publisher.close()
        return outcome

    async def close(self) -> None:
        await self._registry.close()


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    made = Sender()
    yield made
    await made.close()


def _named(service: brokers.FalseService) -> str:
    return f"{service.type}-{service.name}"


@pytest.mark.parametrize("service", false_services.SERVICES, ids=_named)
async def test_a_service_that_says_too_much_costs_an_attempt_and_no_memory(
    service: brokers.FalseService, sender: Sender
):
    warm = await sender.send(service.type, brokers.place(service.type, CLOSED_PORT), LIMIT_S)
    assert "connection_refused" == warm.code  # by now everything is imported that the type needs
    async with service.opened() as (place, ended):
        tracemalloc.start()
        try:
            limit_s = SHORT_S if service.code == "timeout" else LIMIT_S
            outcome = await sender.send(service.type, place, limit_s)
            traced = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert service.code == outcome.code
        async with asyncio.timeout(CLOSED_S):
            await ended.wait()
    assert traced < MOST_TRACED_BYTES


def test_no_two_false_services_have_one_name():
    names = [_named(service) for service in false_services.SERVICES]
    assert len(set(names)) == len(names)
