"""Each client that asks for much work, alone against a server: what it costs there, and what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest

from tests.harness import cost, process, watched_entry
from tests.harness.polling import eventually
from tests.harness.servers import RedisServer
from tests.hostile import together
from tests.hostile.attack import Target
from tests.hostile.attackers import work

ATTACK_S = 5.0  # `make hostile` goes on for ten minutes
PAGE_BYTES = 8 * 1024 * 1024
# A body of 1 MB is decoded, checked and written: as much as to read it so often.
MAX_HELD_UNITS = 20


class Served(NamedTuple):
    server: process.Outpost
    report: Path
    target: Target
    client: httpx.AsyncClient
    began: float
    unit_s: float

    def longest(self) -> watched_entry.Held | None:
        """The callback that computed for longest on the loop since the start."""
        lines = watched_entry.read(self.report)
        held = [one for one in lines if isinstance(one, watched_entry.Held) and one.at > self.began]
        return max(held, key=lambda one: one.cpu_s, default=None)


@pytest.fixture
async def served(own_redis: RedisServer, postgres_url: str, tmp_path: Path) -> AsyncIterator[Served]:
    report = tmp_path / "loop.jsonl"
    server = process.Outpost(own_redis, postgres_url, tmp_path, changes=(), report=report, **together.SETTINGS)
    async with server:
        target = Target("127.0.0.1", int(server.url.rsplit(":", 1)[1]), process.KEY)
        async with work._client(target) as client:
            yield Served(server, report, target, client, time.monotonic(), cost.unit_s())


def holds_short(served: Served) -> None:
    longest, unit_s = served.longest(), max(served.unit_s, cost.unit_s())
    print(longest, unit_s)
    assert longest is None or longest.cpu_s < MAX_HELD_UNITS * unit_s, longest


@pytest.mark.parametrize("body", work.COSTLY_BODIES.values(), ids=work.COSTLY_BODIES)
def test_a_costly_body_is_one_that_the_server_takes_in(body: object) -> None:
    assert callable(body)
    assert 500_000 < len(body()) <= 1_048_576


async def test_costly_bodies_hold_the_loop_for_a_moment_only(served: Served) -> None:
    statuses = {}
    for name, make in work.COSTLY_BODIES.items():
        statuses[name] = await work._ask(served.client, "POST", work.PUBLISH, content=make(), headers=work.JSON)
    refused = ("quotes that open nothing", "wrong metadata", "open arrays")
    assert {name: 422 if name in refused else 202 for name in statuses} == statuses
    holds_short(served)


async def test_costly_filters_leave_the_loop_to_others(served: Served) -> None:
    attack = work.CostlyFilters()
    await attack.set_up(served.client)
    answer = await served.client.post(work.PUBLISH, content=attack.event(), headers=work.JSON)
    assert 422 == answer.status_code
    assert "the filters of the tenant need more than 250000 steps over this event" == answer.json()["message"]
    await attack.run(served.target, ATTACK_S)
    assert 200 == (await served.client.get("/healthz")).status_code
    holds_short(served)


async def test_large_pages_take_the_memory_of_a_few(served: Served) -> None:
    attack = work.LargePages()
    await attack.publish(served.client)

    async def page(**params: str) -> dict[str, object]:
        answer = await served.client.get("/api/v1/events", params={"limit": "1000", **params})
        assert 200 == answer.status_code
        assert len(answer.content) < PAGE_BYTES + 1_100_000
        return json.loads(answer.content)

    async def logged() -> int:
        found, following = 0, {}
        while True:
            read = await page(**following)
            found += len(read["models"])
            if read["pagination"]["next"] is None:
                return found
            following = {"next": read["pagination"]["next"]}

    async with asyncio.timeout(120):
        while await logged() < attack.events:
            await asyncio.sleep(0.2)
    watched, samples = psutil.Process(served.server.pid), []
    attacking = asyncio.create_task(attack.run(served.target, ATTACK_S))
    try:
        while not attacking.done():
            samples.append(watched.memory_info().rss / 1e6)
            await asyncio.sleep(together.SAMPLE_S)
    finally:
        attacking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await attacking
    print(max(samples))
    assert max(samples) < together.MAX_RSS_MB
    await eventually(lambda: watched.num_fds() < 200)
    holds_short(served)
