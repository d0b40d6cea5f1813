"""`serve --workers N`: processes on one port that work as one, are replaced when they die, and end together."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from outpost.cli.demo import spawned
from outpost.embedded import look
from tests.harness import counting
from tests.harness import node as nodes
from tests.harness import receiver as receivers
from tests.harness.polling import eventually
from tests.harness.process import QUICK, Crash, Outpost
from tests.harness.servers import RedisServer

TENANT = "acme"
HUNG_S = "300"  # longer than a test waits for the end of a process


@pytest.fixture
async def receiver() -> AsyncIterator[receivers.Receiver]:
    async with receivers.Receiver() as running:
        yield running


def children(pid: int) -> list[int]:
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return sorted(each for each in numbers if look.parent_of(each) == pid)


def started(server: Outpost) -> list[int]:
    return sorted(line["worker"] for line in server.lines() if line["event"] == "service_started")


def gone(pids: list[int]) -> bool:
    return not any(look.command_line(pid) for pid in pids)


@pytest.mark.case(32)
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_they_listen_on_both_families(
    redis70: RedisServer, postgres_url: str, tmp_path: Path, workers: str
) -> None:
    async with Outpost(redis70, postgres_url, tmp_path, WORKERS=workers, API_HOST="::") as server:
        port = server.url.rpartition(":")[2]
        async with httpx.AsyncClient(timeout=30) as client:
            for host in ("127.0.0.1", "[::1]"):
                assert 200 == (await client.get(f"http://{host}:{port}/healthz")).status_code


async def test_settings_without_an_effect_yet_are_named_once_for_all_of_them(
    redis70: RedisServer, postgres_url: str, tmp_path: Path
) -> None:
    async with Outpost(
        redis70,
        postgres_url,
        tmp_path,
        WORKERS="2",
        ALERT_CONSECUTIVE_FAILURE_COUNT="7",
        ALERT_AUTO_DISABLE_DESTINATION="true",
        PORTAL_LOGO="hunter2",
    ) as server:
        await eventually(lambda: [1, 2] == started(server))
        warned = [line["reason"] for line in server.lines() if line["event"] == "setting_warned"]
    alerts = "ALERT_CONSECUTIVE_FAILURE_COUNT, ALERT_AUTO_DISABLE_DESTINATION"
    assert warned == [
        "the portal is not built yet, so these have no effect: PORTAL_LOGO",
        f"alerts are not built yet, so these have no effect: {alerts}",
    ]


async def test_all_of_them_deliver_and_one_that_is_killed_is_replaced(
    redis70: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    receiver.always(receivers.after(0.02, receivers.answer()))
    async with (
        counting.Counts(redis70, postgres_url) as counts,
        Outpost(redis70, postgres_url, tmp_path, WORKERS="2") as server,
    ):
        await eventually(lambda: [1, 2] == started(server))
        await server.tenant(TENANT)
        await server.webhook(TENANT, receiver.url())
        ids = [f"e{n}" for n in range(300)]
        for at in range(0, 200, 20):
            await asyncio.gather(*(server.publish(TENANT, id_) for id_ in ids[at : at + 20]))
        await counts.rest()
        assert {} == counting.doubles(receiver.requests)
        assert 2 == len({entry.by for entry in await nodes.attempts(counts.log)})
        before = children(server.pid)
        assert 2 == len(before)
        os.kill(before[0], signal.SIGKILL)
        await eventually(lambda: 3 == len(started(server)))
        after = children(server.pid)
        assert (2, 1) == (len(after), len({*before} & {*after}))
        for at in range(200, 300, 20):
            await asyncio.gather(*(server.publish(TENANT, id_) for id_ in ids[at : at + 20]))
        await counts.rest()
        await counts.assert_exact(ids, receiver.requests)
        [ended] = [line for line in server.lines() if line["event"] == "worker_ended"]
        assert ("signal 9", 1) == (ended["reason"], ended["failures"])
        assert 0 == await server.stop()
        assert gone(after)
        assert [1, 2] == sorted(line["worker"] for line in server.lines() if line["event"] == "service_stopped")


async def test_they_die_with_their_parent(redis70: RedisServer, postgres_url: str, tmp_path: Path):
    async with Outpost(redis70, postgres_url, tmp_path, WORKERS="2") as server:
        await eventually(lambda: [1, 2] == started(server))
        pids = children(server.pid)
        await server.kill()
        await eventually(lambda: gone(pids))


async def test_asked_twice_they_end_at_once(
    redis70: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    receiver.always([receivers.Do.HANG])
    async with Outpost(redis70, postgres_url, tmp_path, WORKERS="2", DELIVERY_TIMEOUT_SECONDS=HUNG_S) as server:
        await eventually(lambda: [1, 2] == started(server))
        await server.tenant(TENANT)
        await server.webhook(TENANT, receiver.url())
        await server.publish(TENANT, "e1")
        await eventually(lambda: receiver.requests)
        pids = children(server.pid)
        server.signal(signal.SIGTERM)
        await eventually(lambda: any(line["event"] == "service_stopping" for line in server.lines()))
        server.signal(signal.SIGINT)
        assert 130 == await server.exit_code()
        await eventually(lambda: gone(pids))


async def test_what_keeps_the_first_from_starting_is_said_once_and_ends_all(
    own_redis: RedisServer, postgres_url: str, tmp_path: Path
):
    await own_redis.client().config_set("maxmemory-policy", "allkeys-lru")
    server = Outpost(own_redis, postgres_url, tmp_path, WORKERS="3")
    server.spawn()
    try:
        assert 1 == await server.exit_code()
        assert 1 == server.stderr.count("noeviction")
        assert ["exit code 1"] == [line["reason"] for line in server.lines() if line["event"] == "workers_gave_up"]
    finally:
        await server.end()


async def test_when_they_keep_dying_all_stop_with_an_error(
    redis70: RedisServer, postgres_url: str, tmp_path: Path
):
    crash = Crash("outpost.dispatch.scheduler:Scheduler.step", nth=3)  # half a second or so after they are up
    changes = (*QUICK, "outpost.process.prefork:MOST_FAILURES=2")
    server = Outpost(redis70, postgres_url, tmp_path, crash=crash, changes=changes, WORKERS="2")
    server.spawn()
    try:
        assert 1 == await server.exit_code()
        [last] = [line for line in server.lines() if line["event"] == "workers_gave_up"]
        assert ("signal 9", 2) == (last["reason"], last["failures"])
        assert [1] == list({line["failures"] for line in server.lines() if line["event"] == "worker_ended"})
    finally:
        await server.end()


async def test_with_embedded_stores_the_parent_holds_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORKERS", "2")
    async with spawned.spawned("workers") as server:
        pids = children(server.pid)
        commands = [look.command_line(pid) for pid in pids]
        assert 1 == sum("valkey" in command for command in commands)
        assert 1 == sum("bin/postgres " in command for command in commands)
        assert 2 == sum("outpost serve" in command for command in commands)
    assert gone(pids)
    assert not server.folder.exists()
