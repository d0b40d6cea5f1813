"""What crash tests share: a client that asks again, two destinations of which one refuses first, and the count."""

from __future__ import annotations

import asyncio

import aiohttp

from tests.harness import counting, process
from tests.harness import receiver as receivers
from tests.harness.process import QUICK, Outpost

TENANT = "acme"
EVENTS = 20
PAUSE_S = 0.05
# What a dead process held comes back as soon as it may, and blocking reads are short, so that stops are too.
CHANGES = (
    *QUICK,
    "outpost.log.redis.client:BLOCK_MS=200",
    "outpost.log.delivery.consumers:LEASE_MS=1000",
    "outpost.log.delivery.consumers:RENEW_MS=300",
    "outpost.log.upkeep.leadership:TURN_MS=1000",
    "outpost.log.upkeep.trim:LEASE_MS=1000",
    "outpost.log.upkeep.leadership:RENEW_S=0.3",
    "outpost.log.upkeep.leadership:LOOK_AGAIN_S=0.2",
    "outpost.dispatch.dispatcher:LOOK_EVERY_S=0.3",
    "outpost.dispatch.dispatcher:ORPHAN_IDLE_MS=300",
    "outpost.dispatch.scheduler:LOOK_EVERY_S=0.1",
)
# On a busy machine attempts may time out, so there are more of them than anything here uses up.
ENVIRONMENT = {
    "DELIVERY_TIMEOUT_SECONDS": "1",
    "DELIVERY_LEASE_MARGIN_MS": "100",
    "DELIVERY_WATCHDOG_MS": "500",
    "RETRY_SCHEDULE": ",".join(["1"] * 30),
}


class Client:
    """Publishes and remembers what was answered and what was not."""

    def __init__(self, events: int = EVENTS) -> None:
        self.wanted = [f"e{n}" for n in range(events)]
        self.answers: dict[str, dict[str, object]] = {}

    @property
    def missing(self) -> list[str]:
        return [id_ for id_ in self.wanted if id_ not in self.answers]

    async def publish(self, server: Outpost, *ids: str) -> None:
        """Publishes `ids` (none named: all that was not answered), one after another, until one gets no answer."""
        for id_ in ids or self.missing:
            try:
                status, said, _ = await server.request("POST", "/api/v1/publish", process.event(TENANT, id_))
            except (aiohttp.ClientError, TimeoutError):
                return
            assert 202 == status, said
            self.answers[id_] = said

    async def insist(self, server: Outpost, limit_s: float = 60.0) -> None:
        """Publishes again and again what was not answered, or answered with 503."""
        async with asyncio.timeout(limit_s):
            while self.missing:
                for id_ in self.missing:
                    status, said, _ = await server.request("POST", "/api/v1/publish", process.event(TENANT, id_))
                    if status == 503:
                        await asyncio.sleep(PAUSE_S)
                        break
                    assert 202 == status, said
                    self.answers[id_] = said


async def prepare(server: Outpost, receiver: receivers.Receiver) -> None:
    await server.tenant(TENANT)
    for path in ("/good", "/flaky"):
        await server.webhook(TENANT, receiver.url(path))


async def count(client: Client, counts: counting.Counts, receiver: receivers.Receiver) -> None:
    """Everything comes to rest and is counted: two deliveries of each event."""
    assert [] == client.missing
    await counts.rest()
    await counts.assert_exact(client.wanted, receiver.requests)
    await counts.assert_trimmed_is_logged()
    assert len(client.wanted) == (await counts.added())["evt"]
    assert 2 * len(client.wanted) == await counts.deliveries("success")


async def finish(client: Client, counts: counting.Counts, receiver: receivers.Receiver, after: Outpost) -> None:
    """The client asks again for what was not answered; everything is counted, and the process stops."""
    await client.publish(after)
    await count(client, counts, receiver)
    assert 0 == await after.stop()
