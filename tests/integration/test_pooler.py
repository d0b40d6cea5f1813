"""Through a connection pooler in transaction mode, as many providers hand Postgres out: everything works,
deployments stay apart, and nothing relies on what a pooler does not keep."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from outpost import errors
from projections.logs import migrate, partitions, projector
from projections.logs import store as stores
from tests.harness import counting, log_entries
from tests.harness import receiver as receivers
from tests.harness.pooler import CONNECTIONS, Pooler
from tests.harness.process import Outpost
from tests.harness.servers import RedisServer

TENANT = "acme"
TODAY = dt.date(2026, 9, 24)
# What the dashboards of providers put behind their URLs.
WORDS = "sslmode=prefer&channel_binding=prefer&pgbouncer=true&connect_timeout=15&schema=public&keepalives_idle=30"


@pytest.fixture
async def pooler(postgres_url: str) -> AsyncIterator[Pooler]:
    folder = Path(tempfile.mkdtemp(prefix="outpost-tests-pooler-"))
    folder.chmod(0o777)
    running = Pooler(postgres_url, folder)
    await running.start()
    yield running
    running.stop()
    shutil.rmtree(folder)


@pytest.mark.case(30)
@pytest.mark.parametrize("words", ["", WORDS, "target_session_attrs=any"])
async def test_a_whole_outpost_works_through_it(
    redis70: RedisServer, postgres_url: str, pooler: Pooler, tmp_path: Path, words: str
) -> None:
    async with (
        receivers.Receiver() as receiver,
        counting.Counts(redis70, postgres_url) as counts,
        Outpost(redis70, postgres_url, tmp_path, POSTGRES_URL=f"{pooler.url}?{words}") as server,
    ):
        await server.tenant(TENANT)
        await server.webhook(TENANT, receiver.url())
        ids = [f"e{n}" for n in range(200)]
        for at in range(0, len(ids), 20):
            await asyncio.gather(*(server.publish(TENANT, id_) for id_ in ids[at : at + 20]))
        await counts.rest()
        await counts.assert_exact(ids, receiver.requests)
        # Reads of many clients at once, each of other statements than its neighbours'.
        paths = [
            *(f"/events/{id_}?tenant_id={TENANT}" for id_ in ids[:30]),
            *(f"/events?tenant_id={TENANT}&limit={n}" for n in range(1, 30)),
            *(f"/attempts?tenant_id={TENANT}&limit={n}&include=event" for n in range(1, 30)),
        ]
        found = await asyncio.gather(*(server.api("GET", path) for path in paths))
        assert ids[:30] == [event["id"] for event in found[:30]]
        assert list(range(1, 30)) == [len(page["models"]) for page in found[30:59]]
        assert list(range(1, 30)) == [len(page["models"]) for page in found[59:]]
        assert any(line["event"] == "pooler_found" for line in server.lines())
    assert "unsupported startup parameter" not in pooler.said


async def test_deployments_stay_apart_on_the_same_connections(redis70: RedisServer, pooler: Pooler) -> None:
    names = ["", "eu", "Us-1"]
    found = [await stores.open_store(pooler.url, name) for name in names]
    await asyncio.gather(*(migrate.apply_pending(store) for store in found for _ in range(3)))
    for number, (name, store) in enumerate(zip(names, found, strict=True), 1):
        log = log_entries.open_log(redis70, name)
        for n in range(number):
            await log_entries.append_event(log, log_entries.event("t1", f"e{n}"))
        assert await projector.LogProjector(log, store, 10).drain(10.0)
        await log.close()

    async def rows(store: stores.Store) -> int:
        async with store.acquire() as connection:
            await asyncio.sleep(0)
            count: int = await connection.fetchval("SELECT count(*) FROM event")
            return count

    assert [1, 2, 3] * 10 == await asyncio.gather(*(rows(store) for _ in range(10) for store in found))
    for store in found:
        assert not (await migrate.state(store)).problems
        async with store.acquire() as connection:
            await partitions.ensure_partitions(connection, store.schema, TODAY)
            assert not await partitions.missing(connection, TODAY)
        await store.close()


async def test_nothing_of_a_transaction_stays_on_the_servers(postgres_url: str, pooler: Pooler) -> None:
    """What one of us leaves on a connection, whoever shares the pooler would find."""
    store = await stores.open_store(pooler.url, "apart")
    await migrate.apply_pending(store)

    async def look() -> tuple[str, str, int, int]:
        async with store.acquire() as connection, connection.transaction():
            path = await connection.fetchval("SHOW search_path")
            jit = await connection.fetchval("SHOW jit")
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            named = await connection.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''")
            await connection.fetchval("SELECT pg_sleep(0.05)")
            return path, jit, pid, named

    seen = await asyncio.gather(*(look() for _ in range(4 * CONNECTIONS)))
    assert {("outpost_apart", "off", 0)} == {(path, jit, named) for path, jit, _, named in seen}
    assert len({pid for _, _, pid, _ in seen}) > 1
    await store.close()
    bare = await asyncpg.connect(pooler.url, statement_cache_size=0)
    for _ in range(2 * CONNECTIONS):
        async with bare.transaction():
            assert '"$user", public' == await bare.fetchval("SHOW search_path")
    await bare.close()


async def test_a_failed_statement_leaves_the_connection_usable(pooler: Pooler) -> None:
    store = await stores.open_store(pooler.url)
    for _ in range(3):
        with pytest.raises(errors.StoreUnavailable, match="UndefinedTable"):
            async with store.acquire() as connection:
                await connection.fetch("SELECT * FROM nowhere")
        async with store.acquire() as connection:
            assert 1 == await connection.fetchval("SELECT 1")
    await store.close()


async def test_a_straight_connection_keeps_its_prepared_statements(postgres_url: str) -> None:
    store = await stores.open_store(postgres_url)
    async with store.acquire() as connection:
        for _ in range(2):
            named = await connection.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''")
        assert named > 0
        assert ["outpost", "off", "UTC"] == [
            await connection.fetchval(f"SHOW {name}") for name in ("search_path", "jit", "timezone")
        ]
    await store.close()
