"""What becomes of Redis and Postgres under running processes: failover, lost data, full disks, half-open sockets.

No restart of ours is needed: publish answers 503 meanwhile, readiness says why, work goes on by itself, and at the
end everything that was acknowledged is delivered, recorded once and in Postgres once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from outpost.log import partition as partitions
from projections.logs import connecting
from tests.harness import counting, process, servers, toxic
from tests.harness import receiver as receivers
from tests.harness.polling import LIMIT_S, eventually, free_port
from tests.harness.process import Outpost
from tests.harness.servers import PostgresServer, RedisServer

TENANTS = [f"tenant-{n}" for n in range(4)]


@pytest.fixture
async def receiver() -> AsyncIterator[receivers.Receiver]:
    async with receivers.Receiver() as running:
        yield running


class Load:
    """Publishes one event after another, each until it is accepted; `accepted` are their ids."""

    def __init__(self, server: Outpost) -> None:
        self.accepted: list[str] = []
        self.refused: set[tuple[int, str]] = set()
        self._server = server
        self._end = asyncio.Event()

    async def set_up(self, receiver: receivers.Receiver) -> None:
        for tenant in TENANTS:
            await self._server.tenant(tenant)
            await self._server.webhook(tenant, receiver.url())

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While the block runs; ends with one that is accepted after it."""
        task = asyncio.create_task(self._run())
        try:
            yield
            await self.more(3)
        finally:
            self._end.set()
            await task

    async def more(self, count: int, limit: float = LIMIT_S) -> None:
        """Waits until `count` more were accepted."""
        wanted = len(self.accepted) + count
        await eventually(lambda: len(self.accepted) >= wanted, limit)

    async def _run(self) -> None:
        number = 0
        while not self._end.is_set():
            tenant = TENANTS[number % len(TENANTS)]
            status, said, _ = await self._server.request(
                "POST", "/api/v1/publish", process.event(tenant, f"{tenant}.{number}")
            )
            if status == 202:
                self.accepted.append(f"{tenant}.{number}")
                number += 1
            else:
                self.refused.add((status, said["message"]))
            await asyncio.sleep(0.005)  # a load, not a wait


async def _not_ready(server: Outpost, words: str, limit: float = LIMIT_S) -> None:
    async def told() -> bool:
        status, said, _ = await server.request("GET", "/readyz")
        return status == 503 and any(words in reason for reason in said["reasons"])

    await eventually(told, limit)


async def _ready(server: Outpost, limit: float = LIMIT_S) -> None:
    async def told() -> bool:
        status, said, _ = await server.request("GET", "/readyz")
        return (200, "ready") == (status, said["status"])

    await eventually(told, limit)


async def _sums_up(
    server: Outpost,
    counts: counting.Counts,
    load: Load,
    receiver: receivers.Receiver,
    limit: float = LIMIT_S,
) -> None:
    await _ready(server, limit)
    await counts.rest()
    await counts.assert_exact(load.accepted, receiver.requests)
    assert not server.ended


async def test_a_primary_that_becomes_a_replica_is_left_and_work_goes_on_when_there_is_one_again(
    own_redis: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    async with (
        counting.Counts(own_redis, postgres_url) as counts,
        Outpost(own_redis, postgres_url, tmp_path) as server,
    ):
        load = Load(server)
        await load.set_up(receiver)
        async with load.running():
            await load.more(20)
            await own_redis.client().execute_command("REPLICAOF", "127.0.0.1", free_port())
            await _not_ready(server, "it is a replica")
            await eventually(lambda: (503, "redis is unavailable") in load.refused)
            await own_redis.client().execute_command("REPLICAOF", "NO", "ONE")
            await load.more(20)
        await _sums_up(server, counts, load, receiver)


@pytest.mark.case(33)
async def test_a_redis_that_is_killed_again_and_again_under_load_loses_nothing(
    own_redis: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    """L1."""
    async with (
        counting.Counts(own_redis, postgres_url) as counts,
        Outpost(own_redis, postgres_url, tmp_path) as server,
    ):
        load = Load(server)
        await load.set_up(receiver)
        async with load.running():
            for _ in range(3):
                await load.more(20)
                own_redis.kill9()
                own_redis.start()
        await _sums_up(server, counts, load, receiver)


async def test_scripts_that_are_flushed_under_load_refuse_nobody(
    redis70: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    async with (
        counting.Counts(redis70, postgres_url) as counts,
        Outpost(redis70, postgres_url, tmp_path) as server,
    ):
        load = Load(server)
        await load.set_up(receiver)
        async with load.running():
            for _ in range(20):
                await load.more(2)
                await redis70.client().script_flush()
        await _sums_up(server, counts, load, receiver)
        assert set() == load.refused


@pytest.mark.case(33)
async def test_a_group_that_is_destroyed_under_load_is_made_again_and_loses_nothing(
    redis70: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    """D3, architecture of the log: the fold repairs the schedule."""
    async with (
        counting.Counts(redis70, postgres_url) as counts,
        Outpost(redis70, postgres_url, tmp_path) as server,
    ):
        load = Load(server)
        await load.set_up(receiver)
        destroyed = 0
        async with load.running():
            for _ in range(4):
                await load.more(20)
                for keys in counts.log.keys.partitions:
                    destroyed += await redis70.client().xgroup_destroy(keys.evt, partitions.GROUP)
        assert destroyed >= 2 * partitions.PARTITIONS
        await _sums_up(server, counts, load, receiver)
        assert set() == load.refused
        marks = await counts.log.pipeline([("EXISTS", keys.mend) for keys in counts.log.keys.partitions])
        assert [0] * partitions.PARTITIONS == marks


@pytest.mark.case(33)
async def test_a_redis_that_comes_back_without_its_data_is_refused_until_it_has_them_again(
    own_redis: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    """L6: nothing is read from it nor written to it, and no new process starts on it."""
    data, kept = own_redis.folder / "valkey", own_redis.folder / "kept"
    async with (
        counting.Counts(own_redis, postgres_url) as counts,
        Outpost(own_redis, postgres_url, tmp_path) as server,
    ):
        load = Load(server)
        await load.set_up(receiver)
        async with load.running():
            await load.more(20)
            own_redis.kill9()
            data.rename(kept)
            own_redis.start()
            await _not_ready(server, "does not hold the log")
            accepted = len(load.accepted)
            late = Outpost(own_redis, postgres_url, tmp_path)
            late.spawn()
            assert 1 == await late.exit_code()
            assert "are of another log than the one in Redis" in late.stderr
            keys = await own_redis.client().keys()
            assert [counts.log.keys.meta.encode()] == keys  # which the new process made
            assert accepted == len(load.accepted)
            own_redis.kill9()
            shutil.rmtree(data)
            kept.rename(data)
            own_redis.start()
        await _sums_up(server, counts, load, receiver)
        assert load.refused <= {(503, "redis is unavailable")}


async def test_a_redis_that_is_emptied_under_its_connections_is_refused(
    own_redis: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    async with Outpost(own_redis, postgres_url, tmp_path) as server:
        await Load(server).set_up(receiver)
        await own_redis.client().flushall()
        await _not_ready(server, "does not hold the log")
        status, said, _ = await server.request("POST", "/api/v1/publish", process.event(TENANTS[0], "e1"))
        assert (503, "redis is unavailable") == (status, said["message"])
        assert 0 == await server.stop()


async def test_a_redis_whose_snapshots_fail_takes_no_events_until_they_succeed(
    own_redis: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    in_the_way = own_redis.folder / "valkey" / "dump.rdb"
    redis = own_redis.client()
    async with (
        counting.Counts(own_redis, postgres_url) as counts,
        Outpost(own_redis, postgres_url, tmp_path) as server,
    ):
        load = Load(server)
        await load.set_up(receiver)
        async with load.running():
            await load.more(20)
            (in_the_way / "x").mkdir(parents=True)
            await redis.config_set("save", "3600 1")
            await redis.bgsave()
            await _not_ready(server, "cannot write to its disk")
            await eventually(lambda: (503, "redis is full") in load.refused)
            shutil.rmtree(in_the_way)
            await redis.bgsave()
        await _sums_up(server, counts, load, receiver)
        assert {(503, "redis is full")} == load.refused


class SmallDisk(RedisServer):
    """A Redis whose data are on a disk of few megabytes."""

    SIZE = "4m"

    def start(self) -> None:
        self.disk = self.folder / "valkey"
        if not self.disk.is_mount():
            self.disk.mkdir(parents=True)
            mount = ["mount", "-t", "tmpfs", "-o", f"size={self.SIZE},mode=700", "tmpfs", str(self.disk)]
            if subprocess.run(mount, capture_output=True, check=False).returncode:
                shutil.rmtree(self.folder)
                pytest.skip("needs the right to mount a tmpfs")
        super().start()

    def fill(self) -> None:
        """Takes all the room that is left."""
        with (self.disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(b"x" * 4096) == 4096:
                pass

    def make_room(self) -> None:
        (self.disk / "filler").unlink()

    def close(self) -> None:
        self.stop()
        subprocess.run(["umount", "-l", str(self.disk)], capture_output=True, check=True)
        super().close()


@pytest.fixture
async def small_disk() -> AsyncIterator[SmallDisk]:
    servers.require(servers.REDIS_70)
    server = SmallDisk(servers.REDIS_70)
    yield server
    await server.close_clients()
    server.close()


async def test_a_full_disk_ends_a_redis_that_keeps_its_word_and_nothing_acknowledged_is_lost(
    small_disk: SmallDisk, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    """With `appendfsync always` Redis ends itself rather than acknowledge what is not on the disk."""
    async with (
        counting.Counts(small_disk, postgres_url) as counts,
        Outpost(small_disk, postgres_url, tmp_path) as server,
    ):
        load = Load(server)
        await load.set_up(receiver)
        async with load.running():
            await load.more(20)
            small_disk.fill()
            await eventually(lambda: not small_disk.running())
            await _not_ready(server, "redis")
            small_disk.make_room()
            small_disk.start()
        await _sums_up(server, counts, load, receiver)
        assert load.refused <= {(503, "redis is unavailable")}


async def test_a_redis_that_cannot_write_to_its_disk_takes_no_events_until_it_can(
    small_disk: SmallDisk, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    await small_disk.client().config_set("appendfsync", "everysec")
    async with (
        counting.Counts(small_disk, postgres_url) as counts,
        Outpost(small_disk, postgres_url, tmp_path, REDIS_DURABILITY="accept-loss") as server,
    ):
        load = Load(server)
        await load.set_up(receiver)
        async with load.running():
            await load.more(20)
            small_disk.fill()
            await _not_ready(server, "cannot write to its disk")
            await eventually(lambda: (503, "redis is full") in load.refused)
            small_disk.make_room()
        await _sums_up(server, counts, load, receiver)
        assert {(503, "redis is full")} == load.refused


async def test_a_postgres_that_takes_no_writes_holds_up_the_log_alone(
    redis70: RedisServer, own_postgres: PostgresServer, tmp_path: Path, receiver: receivers.Receiver
):
    """As after a failover of Postgres, and much as with a full disk, which is an error of every write too."""
    async with (
        counting.Counts(redis70, own_postgres.url) as counts,
        Outpost(redis70, own_postgres.url, tmp_path) as server,
    ):
        load = Load(server)
        await load.set_up(receiver)
        async with load.running():
            await load.more(20)
            await _read_only(own_postgres, "on")

            async def degraded() -> bool:
                status, said, _ = await server.request("GET", "/readyz")
                return status == 200 and any("ReadOnlySQLTransaction" in reason for reason in said["reasons"])

            await eventually(degraded)
            seen = len(receiver.requests)
            await load.more(20)
            await eventually(lambda: len(receiver.requests) >= seen + 20)
            await _read_only(own_postgres, "off")
        await _sums_up(server, counts, load, receiver)
        assert set() == load.refused


async def _read_only(postgres: PostgresServer, value: str) -> None:
    connection = await asyncpg.connect(postgres.url_of("postgres"), timeout=60)
    try:
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        await connection.execute("SELECT pg_reload_conf()")
    finally:
        await connection.close()


class Between(toxic.Toxic):
    """In front of a store; can leave what is open half-open, as a failover that says goodbye to nobody."""

    def forget(self) -> int:
        """What is open stays so and nothing passes on it any more; new connections pass. How many there were."""
        for writer in self._writers:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        return len(self._writers) // 2


@pytest.fixture
async def redis_behind(own_redis: RedisServer) -> AsyncIterator[Between]:
    async with Between(own_redis.host, own_redis.port) as between:
        yield between


@pytest.fixture
async def postgres_behind(own_postgres: PostgresServer) -> AsyncIterator[Between]:
    async with Between(own_postgres.host, own_postgres.port) as between:
        yield between


async def test_half_open_connections_to_redis_are_noticed_and_made_anew(
    redis_behind: Any, own_redis: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    async with (
        counting.Counts(own_redis, postgres_url) as counts,
        Outpost(redis_behind, postgres_url, tmp_path) as server,
    ):
        load = Load(server)
        await load.set_up(receiver)
        async with load.running():
            await load.more(20)
            assert redis_behind.forget() >= 3
            await load.more(1)
        await _sums_up(server, counts, load, receiver)


async def test_half_open_connections_to_postgres_are_noticed_and_made_anew(
    redis70: RedisServer,
    postgres_behind: Any,
    own_postgres: PostgresServer,
    tmp_path: Path,
    receiver: receivers.Receiver,
):
    url = urlsplit(own_postgres.url)
    behind = url._replace(netloc=f"{url.username}:{url.password}@{url.hostname}:{postgres_behind.port}").geturl()
    # One of them may be in the middle of a transaction, whose locks the server then ends.
    settings = json.dumps(connecting.SETTINGS | {"idle_in_transaction_session_timeout": "'2s'"})
    quick = (
        *process.QUICK,
        "projections.logs.store:COMMAND_TIMEOUT_S=2.0",
        f"projections.logs.connecting:SETTINGS={settings}",
    )
    async with (
        counting.Counts(redis70, own_postgres.url) as counts,
        Outpost(redis70, behind, tmp_path, changes=quick) as server,
    ):
        load = Load(server)
        await load.set_up(receiver)
        async with load.running():
            await load.more(20)
            assert postgres_behind.forget() >= 1
            await load.more(20)
        # The pool learns of each of its connections in turn, at the cost of a command time-out each.
        await _sums_up(server, counts, load, receiver, 90.0)
        assert set() == load.refused
