"""Webhooks whose names take long to fail hold up nobody else's deliveries."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from outpost import settings as settings_
from outpost.adapters import base, registry
from outpost.adapters.egress import lookup_turns
from tests.harness import slow_names
from tests.harness.polling import eventually
from tests.harness.receiver import Receiver

SLOW_WEBHOOKS = 100
HEALTHY_ATTEMPTS = 280
WITHIN_S = 60.0


@pytest.fixture
async def types(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[registry.Registry]:
    """With the resolver of `slow_names`, whose slow names fail when the test is over."""
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", slow_names.resolver(lambda _: over.wait(WITHIN_S)))
    made = registry.build(settings_.Settings(destinations_allowed_cidrs=("127.0.0.0/8",)))
    yield made
    over.set()
    await made.close()


async def webhook(types: registry.Registry, tenant: str, url: str) -> base.Publisher:
    adapter = types.get("webhook")
    assert adapter is not None
    return await adapter.connect(
        base.OpenDestination(tenant, "d", "webhook", {"url": url}, {"secret": "s" * 20}, {}, ("*",))
    )


def event(number: int) -> base.Delivery:
    return base.Delivery(f"evt-{number}", "topic", "2026-01-02T03:04:05.678Z", {}, b"{}", 1)


@pytest.mark.parametrize("hostile_tenants", [1, 5, 100])
async def test_names_that_fail_slowly_let_no_attempt_of_another_tenant_time_out(
    types: registry.Registry, hostile_tenants: int
) -> None:
    """With 16 threads and one queue for all, 70 of 280 attempts timed out."""
    until = asyncio.get_running_loop().time() + WITHIN_S
    slow = [
        await webhook(types, f"hostile-{n % hostile_tenants}", f"http://n{n}{slow_names.SLOW}/")
        for n in range(SLOW_WEBHOOKS)
    ]
    attacks = [asyncio.create_task(each.send([event(0)], until)) for each in slow]
    await eventually(lambda: len(_resolving()) >= min(lookup_turns.TENANT_THREADS, SLOW_WEBHOOKS))
    async with Receiver() as receiver:
        healthy = [
            await webhook(types, "healthy", receiver.url(host=f"h{n}{slow_names.GOOD}"))
            for n in range(HEALTHY_ATTEMPTS)
        ]
        sent = [each.send([event(n)], until) for n, each in enumerate(healthy)]
        outcomes = [outcome for [outcome] in await asyncio.gather(*sent)]
    assert {"200": HEALTHY_ATTEMPTS} == Counter(outcome.code for outcome in outcomes)
    assert len(_resolving()) <= lookup_turns.THREADS
    for task in attacks:
        task.cancel()
    await asyncio.gather(*attacks, return_exceptions=True)


def _resolving() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "outpost-dns"]
