"""Processes are restarted one after the other while events come in: nobody waits for a watchdog.

Watchdog, leases and sweeps take ten minutes: what is left to one of them comes after every test has given up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import pytest

from tests.harness import counting, process
from tests.harness import receiver as receivers
from tests.harness.polling import LIMIT_S, eventually
from tests.harness.process import Outpost
from tests.harness.servers import RedisServer

TENANTS = [f"tenant-{n}" for n in range(8)]
RATE = 200  # events a second
PUBLISHERS = 8
PATIENT = {"DELIVERY_WATCHDOG_MS": "600000", "DELIVERY_LEASE_MARGIN_MS": "5000", "DELIVERY_TIMEOUT_SECONDS": "60"}
SLOW = (
    "outpost.dispatch.dispatcher:SWEEP_EVERY_S=600.0",
    "outpost.dispatch.dispatcher:SWEEP_IDLE_MS=600000",
    "outpost.log.delivery.consumers:LEASE_MS=600000",
    "outpost.process.supervise:STOP_S=60.0",
)


@pytest.fixture
async def receiver() -> AsyncIterator[receivers.Receiver]:
    async with receivers.Receiver() as running:
        yield running


class Load:
    """Publishes at a steady rate to whichever server answers, the same id again where one did not."""

    def __init__(self, servers: Sequence[Outpost], receiver: receivers.Receiver) -> None:
        self.began: dict[str, float] = {}
        self.arrived: dict[str, float] = {}
        self._servers = servers
        self._stop = asyncio.Event()
        receiver.always(self._arrive)

    def _arrive(self, request: receivers.Request) -> receivers.Script:
        self.arrived.setdefault(request.headers["x-outpost-event-id"], time.monotonic())
        return receivers.after(0.03, receivers.answer())

    async def run(self) -> None:
        await asyncio.gather(*(self._publish(who) for who in range(PUBLISHERS)))

    def stop(self) -> None:
        self._stop.set()

    async def _publish(self, who: int) -> None:
        at, n = time.monotonic() + who / RATE, 0
        while not self._stop.is_set():
            at, n = at + PUBLISHERS / RATE, n + 1
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            tenant = TENANTS[n % len(TENANTS)]
            id_ = f"{tenant}.{who}.{n}"
            self.began[id_] = time.monotonic()
            usual = self._servers if n % 2 else self._servers[::-1]
            await eventually(lambda tenant=tenant, id_=id_, usual=usual: self._accepted(tenant, id_, usual))

    async def _accepted(self, tenant: str, id_: str, usual: Sequence[Outpost]) -> bool:
        for server in usual:
            try:
                status, _, _ = await server.request("POST", "/api/v1/publish", process.event(tenant, id_), limit=5)
            except (aiohttp.ClientError, TimeoutError):
                continue
            if status == 202:
                return True
        return False

    def latest_s(self) -> float:
        return max(self.arrived[id_] - began for id_, began in self.began.items())


async def test_a_rolling_restart_under_load_delays_no_delivery_and_loses_and_doubles_none(
    redis70: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    slots = PATIENT | {"DELIVERY_MAX_CONCURRENCY": "32"}
    async with (
        counting.Counts(redis70, postgres_url) as counts,
        Outpost(redis70, postgres_url, tmp_path, changes=SLOW, **slots) as one,
        Outpost(redis70, postgres_url, tmp_path, changes=SLOW, **slots) as two,
    ):
        for tenant in TENANTS:
            await one.tenant(tenant)
            await one.webhook(tenant, receiver.url())
        load = Load([one, two], receiver)
        publishing = asyncio.create_task(load.run())
        for server in (one, two, one):
            seen = len(load.arrived)
            await eventually(lambda seen=seen: len(load.arrived) > seen + RATE)
            assert 0 == await server.stop()
            [stopped] = [line for line in server.lines() if line["event"] == "service_stopped"]
            assert stopped["in_time"]
            await server.start()
        load.stop()
        await publishing
        await counts.rest()
        await counts.assert_exact(load.began, receiver.requests)
        assert {} == counting.doubles(receiver.requests)
        assert load.latest_s() < LIMIT_S


async def test_what_waits_in_a_process_that_stops_is_sent_by_another_at_once(
    redis70: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    answering = asyncio.Event()
    receiver.always([receivers.WaitFor(answering), *receivers.answer()])
    slots = PATIENT | {"DELIVERY_MAX_CONCURRENCY": "4"}
    async with (
        counting.Counts(redis70, postgres_url) as counts,
        Outpost(redis70, postgres_url, tmp_path, "log"),
        Outpost(redis70, postgres_url, tmp_path, "api") as api,
        Outpost(redis70, postgres_url, tmp_path, "delivery", changes=SLOW, **slots) as one,
        Outpost(redis70, postgres_url, tmp_path, "delivery", changes=SLOW, **slots),
    ):
        for tenant in TENANTS:
            await api.tenant(tenant)
            await api.webhook(tenant, receiver.url())
        ids = [f"{tenant}.{n}" for n in range(10) for tenant in TENANTS]
        await asyncio.gather(*(api.publish(id_.split(".")[0], id_) for id_ in ids))
        await eventually(lambda: len(receiver.requests) >= 4)
        stopping = asyncio.create_task(one.stop())
        await eventually(lambda: any(line["event"] == "service_stopping" for line in one.lines()))
        answering.set()
        await eventually(lambda: {*ids} == {r.headers["x-outpost-event-id"] for r in receiver.requests})
        assert 0 == await stopping
        await counts.rest()
        await counts.assert_exact(ids, receiver.requests)
        assert {} == counting.doubles(receiver.requests)
