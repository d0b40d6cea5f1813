"""`outpost doctor` on real stores: nothing to say of a healthy deployment, and of each ill one what is wrong."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from outpost.cli import doctor, main
from outpost.cli.doctor import findings as doctor_findings
from outpost.cli.doctor import redis as doctor_redis
from outpost.log import partition as partitions
from outpost.log.delivery import consumers, repair
from outpost.log.redis import boot_checks, client
from outpost.log.upkeep import leadership
from outpost.settings import Settings
from projections.logs import identity, migrate, stray_rows, write
from projections.logs import partitions as tables
from projections.logs import store as stores
from tests.contract import worlds
from tests.harness.servers import REDIS_KINDS, PostgresServer, RedisServer, free_port

P = worlds.P
OLD_S = 100
both = pytest.mark.parametrize("own_redis", REDIS_KINDS, indirect=True)


class World:
    """A deployment as running processes leave it, without them."""

    def __init__(self, settings: Settings, log: client.Log, store: stores.Store) -> None:
        self.settings, self.log, self.store = settings, log, store
        self.keys = log.keys.partitions[P]

    async def sql(self, statement: str) -> None:
        async with self.store.acquire() as connection:
            await connection.execute(statement)

    async def old_id(self) -> str:
        """An entry id of a while ago, by the clock of Redis."""
        now, _ = await self.log.command("TIME")
        return f"{(int(now) - OLD_S) * 1000}-0"

    async def examine(self) -> list[doctor_findings.Finding]:
        """Every finding but that the Postgres of the tests does without fsync."""
        return [each for each in await doctor.examine(self.settings) if not each.text.startswith("fsync is off")]

    async def ill(self) -> list[tuple[str, str, str]]:
        """Every finding that is not ok."""
        found = await self.examine()
        assert all(bool(each.advice) == (each.severity != "ok") for each in found)
        return [(each.severity, each.about, each.text) for each in found if each.severity != "ok"]


@pytest.fixture
async def world(own_redis: RedisServer, postgres_url: str) -> AsyncIterator[World]:
    settings = Settings(redis_host=own_redis.host, redis_port=own_redis.port, postgres_url=postgres_url)
    log = client.open_log(client.RedisAddress(own_redis.host, own_redis.port))
    store = await stores.open_store(postgres_url)
    meta = await boot_checks.check(log, settings)
    log.pin.expected = None  # the tests damage what it names
    await migrate.apply_pending(store)
    await identity.claim(store, meta.namespace_id)
    await tables.refresh(store, dt.datetime.now(dt.UTC).date())
    await consumers.lease_name(log, "somebody")
    await leadership.take(log, "log", "somebody", 60_000, [0])
    for p, mark in (await repair.regroup(log)).items():
        await repair.mend(log, p, mark, "0-0", [], last=True)
    yield World(settings, log, store)
    await log.close()
    await store.close()


@both
async def test_of_a_healthy_deployment_all_is_well(world: World) -> None:
    found = await world.examine()
    assert {"ok"} == {each.severity for each in found}
    assert {"redis", "memory", "clock", "tables", "processes", "dispatch", "config", "log", "tls", "queues"} == {
        each.about for each in found
    }


async def test_a_postgres_with_the_settings_of_the_product_is_well(
    world: World, own_postgres: PostgresServer
) -> None:
    world.settings = msgspec.structs.replace(world.settings, postgres_url=own_postgres.url)
    found = await doctor.examine(world.settings)
    assert ["ok"] == [each.severity for each in found if each.about == "postgres"]


async def test_it_changes_nothing(world: World) -> None:
    async def everything() -> dict[bytes, bytes]:
        keys = sorted(await world.log.command("KEYS", "*"))
        return dict(zip(keys, await world.log.pipeline([("DUMP", key) for key in keys]), strict=True))

    before = await everything()
    await doctor.examine(world.settings)
    assert before == await everything()


Break = Callable[[World], Awaitable[object]]


def _command(*words: str | int) -> Break:
    return lambda world: world.log.command(*words)


def _sql(statement: str) -> Break:
    return lambda world: world.sql(statement)


async def _nobody_delivers(world: World) -> None:
    await consumers.release_name(world.log, "somebody", "d0")


async def _nobody_logs(world: World) -> None:
    await leadership.give_back(world.log, "log", "somebody", [0])


async def _group_destroyed(world: World) -> None:
    await world.log.command("XGROUP", "DESTROY", world.keys.evt, partitions.GROUP)


async def _mending(world: World) -> None:
    await world.log.command("SET", world.keys.mend, "5-0")


async def _old_event(world: World) -> None:
    await world.log.command("XADD", world.keys.evt, await world.old_id(), "t", "event.accepted")


async def _overdue(world: World) -> None:
    await world.log.command("ZADD", world.keys.due, (await world.old_id()).split("-")[0], "1/5-0/d@1")


async def _left_pending(world: World) -> None:
    await world.log.command("XADD", world.keys.evt, "*", "t", "event.accepted")
    await world.log.command("XREADGROUP", "GROUP", partitions.GROUP, "d7", "STREAMS", world.keys.evt, ">")


async def _undecodable_change(world: World) -> None:
    await world.log.command("XADD", world.keys.cfg, "7-0", "t", "of the future")


async def _old_change(world: World) -> None:
    fields = ("t", "tenant.deleted", "v", "1", "ten", "acme", "id", "", "n", "2", "by", "admin/r", "d", "")
    await world.log.command("XADD", world.keys.cfg, await world.old_id(), *fields)


async def _model_ahead(world: World) -> None:
    await world.log.command("SET", world.keys.checkpoint(1), "7-0")


async def _redis_went_back(world: World) -> None:
    await world.sql(f"UPDATE checkpoint SET ms = 7 WHERE stream = 'dlv' AND partition = {P}")


async def _another_log(world: World) -> None:
    await world.log.command("HSET", world.log.keys.meta, "namespace_id", "another")


async def _no_tables(world: World) -> None:
    today = dt.datetime.now(dt.UTC).date()
    await world.sql(f"DROP TABLE {stray_rows.table_name(write.EVENT_TABLE, today)}")


async def _a_table_less(world: World) -> None:
    day = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=6)
    await world.sql(f"DROP TABLE {stray_rows.table_name(write.ATTEMPT_TABLE, day)}")


async def _snapshot_failed(world: World) -> None:
    """As on a full disk: what it writes cannot take its place."""
    [folder] = (await world.log.command("CONFIG", "GET", "dir")).values()
    await asyncio.to_thread(_make_folder, folder)
    await world.log.command("CONFIG", "SET", "save", "3600 1")
    await world.log.command("SET", "x", "y")
    await world.log.command("BGSAVE")
    limit = time.monotonic() + 60
    while (await world.log.command("INFO", "persistence"))["rdb_last_bgsave_status"] == "ok":
        assert time.monotonic() < limit
        await asyncio.sleep(0.01)


def _make_folder(folder: str) -> None:
    (Path(folder) / "dump.rdb" / "in the way").mkdir(parents=True)


REJECTED = "INSERT INTO log_rejected (stream, partition, ms, seq, reason, fields) VALUES ('evt', 7, 5, 1, 'r', '')"


@pytest.mark.parametrize(
    ("damage", "severity", "about", "words"),
    [
        (_command("CONFIG", "SET", "appendfsync", "everysec"), "problem", "redis", "appendfsync is everysec"),
        (_command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"), "problem", "redis", "evicts keys"),
        (_command("REPLICAOF", "127.0.0.1", 1), "problem", "redis", "Redis is a replica"),
        (_command("CONFIG", "SET", "maxmemory", 0), "warn", "memory", "no maxmemory"),
        (_command("CONFIG", "SET", "maxmemory", 1_000_000), "problem", "memory", "publishing is refused in 16"),
        (_snapshot_failed, "problem", "redis", "cannot write to its disk"),
        (_command("HSET", "outpost:meta", "partitions", 8), "problem", "redis", "made with partitions 8"),
        (_nobody_delivers, "problem", "processes", "none of the role delivery"),
        (_nobody_logs, "problem", "processes", "none of the role log"),
        (_group_destroyed, "problem", "dispatch", f"the group is missing in partition {P:02}"),
        (_mending, "warn", "dispatch", f"being completed from the log in partition {P:02}"),
        (
            _old_event,
            "problem",
            "dispatch",
            f"partition {P:02}: 1 unread, 0 pending, 0 due, the oldest waits for 10",
        ),
        (_overdue, "problem", "dispatch", "1 tasks are overdue"),
        (_left_pending, "problem", "dispatch", "consumer 'd7' is nobody's and has 1 entries pending"),
        (_undecodable_change, "problem", "config", f"partition {P:02} is halted before cfg.{P:02}.7-0"),
        (_old_change, "warn", "config", "the oldest change that is not applied is 10"),
        (_model_ahead, "problem", "config", f"ahead of the log in partition {P:02}"),
        (_redis_went_back, "problem", "log", f"no longer holds dlv.{P:02}.7-0"),
        (_another_log, "problem", "log", "are of another log"),
        (_old_event, "warn", "log", "the oldest entry that is not in Postgres is 10"),
        (_no_tables, "problem", "tables", "tables of today or tomorrow are missing: event_g1_"),
        (_a_table_less, "warn", "tables", "1 tables of the coming 7 days are missing"),
        (_sql(REJECTED), "warn", "tables", "1 entries became no row, the last one evt.07.5-1"),
        (_sql("DELETE FROM migration WHERE version = 3"), "problem", "tables", "0003_log_identity is not applied"),
        (_sql("DROP VIEW attempt"), "problem", "tables", "view attempt is missing"),
    ],
)
async def test_what_is_wrong_is_found(world: World, damage: Break, severity: str, about: str, words: str) -> None:
    await damage(world)
    found = await world.ill()
    assert any((severity, about) == each[:2] and words in each[2] for each in found), found


async def test_rows_of_a_day_without_a_table_are_found(world: World) -> None:
    columns = "accepted_at, partition, seq, time, tenant_id, event_id, topic, eligible_for_retry, metadata, data"
    await world.sql(
        f"INSERT INTO event_g1 ({columns}, matched_destination_ids)"
        " VALUES ('epoch', 0, 0, 'epoch', 't', 'e', 'x', true, '', '', '{}')"
    )
    assert [("warn", "tables")] == [each[:2] for each in await world.ill()]


async def test_a_postgres_that_takes_no_writes_is_found(world: World, postgres_url: str) -> None:
    database = postgres_url.rpartition("/")[2].partition("?")[0]
    await world.sql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    assert [("problem", "postgres")] == [each[:2] for each in await world.ill()]


async def test_a_budget_beyond_maxmemory_and_accepted_loss_are_warned_of(world: World) -> None:
    world.settings = msgspec.structs.replace(
        world.settings, redis_durability="accept-loss", redis_memory_budget_bytes=2**50
    )
    told = await world.ill()
    assert [("warn", "memory"), ("warn", "redis")] == sorted(each[:2] for each in told)


@pytest.mark.parametrize(
    ("ahead_ms", "words"), [(0, ""), (900, ""), (3_000, "3.0 s ahead of"), (-86_400_000 * 3, "3 d behind")]
)
def test_clocks_that_differ_are_warned_of(ahead_ms: int, words: str) -> None:
    found = doctor_redis.clock_of("Redis", 1_000_000 + ahead_ms, 999.9, 1000.1)
    assert (found.severity == "ok", True) == (not words, words in found.text)


async def test_a_store_that_is_away_is_found_beside_what_the_other_says(
    world: World, own_redis: RedisServer
) -> None:
    settings, world.settings = (
        world.settings,
        msgspec.structs.replace(world.settings, postgres_url="postgresql://outpost:hunter2@127.0.0.1:1/x"),
    )
    assert [("problem", "postgres")] == [each[:2] for each in await world.ill()]
    world.settings = settings
    own_redis.stop()
    assert [("problem", "redis")] == [each[:2] for each in await world.ill()]


def _run(settings: Settings, *words: str) -> int:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    return doctor.run_with(parser.parse_args(words), settings)


async def test_the_exit_code_tells_whether_there_is_a_problem(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == await asyncio.to_thread(_run, world.settings)
    assert "0 problems, 1 warnings" == capsys.readouterr().out.splitlines()[-1]
    await _mending(world)
    assert 0 == await asyncio.to_thread(_run, world.settings)
    assert "warn" == capsys.readouterr().out.split()[0]
    await _group_destroyed(world)
    assert 1 == await asyncio.to_thread(_run, world.settings)
    assert "problem" == capsys.readouterr().out.split()[0]
    assert 1 == await asyncio.to_thread(_run, world.settings, "--json")
    lines = capsys.readouterr().out.splitlines()
    found = [msgspec.json.decode(line, type=doctor_findings.Finding) for line in lines]
    assert ("problem", "dispatch") == (found[0].severity, found[0].about)


async def test_it_shows_no_secret(
    own_redis: RedisServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client_ = own_redis.client()
    await client_.config_set("requirepass", "right")
    monkeypatch.setenv("REDIS_HOST", own_redis.host)
    monkeypatch.setenv("REDIS_PORT", str(own_redis.port))
    monkeypatch.setenv("REDIS_PASSWORD", "hunter2")
    monkeypatch.setenv("POSTGRES_URL", f"postgresql://outpost:hunter2@127.0.0.1:{free_port()}/x")
    monkeypatch.setenv("AES_ENCRYPTION_SECRET", "hunter2")
    assert 1 == await asyncio.to_thread(main.main, ["doctor"])
    out, err = capsys.readouterr()
    assert ["problem", "problem", "ok", "ok", "2"] == [line.split()[0] for line in out.splitlines()]
    assert "hunter2" not in out + err
