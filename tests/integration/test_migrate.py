"""The schema of the log store: migrations, their lock and their check, and the tables of single days."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys

import asyncpg
import pytest

from outpost import errors
from outpost.cli import migrate as command
from outpost.domain import delivery, events
from outpost.settings import Settings
from projections.logs import apply, migrate, partitions, projector, stray_rows
from projections.logs import store as stores
from tests.harness import log_entries
from tests.harness.polling import eventually

TODAY = dt.date(2026, 9, 24)
DAY_MS = 86_400_000
TODAY_MS = 1_790_208_000_000
DETAIL = events.AttemptDetail("t", "webhook", "failed", "500", 5, 6, False, "auto", retry_in_ms=1)
PROGRAM = """
import sys
from outpost.cli import migrate
from outpost.settings import Settings
sys.exit(migrate.apply(Settings(postgres_url=sys.argv[1], deployment_id=sys.argv[2])))
"""


@pytest.fixture
async def store(any_postgres_url):
    store = await stores.open_store(any_postgres_url)
    yield store
    await store.close()


async def run(function, settings):
    """The commands own an event loop of their own."""
    return await asyncio.to_thread(function, settings)


async def test_plan_apply_and_verify_from_nothing(any_postgres_url, capsys):
    settings = Settings(postgres_url=any_postgres_url)
    assert 0 == await run(command.plan, settings)
    names = ("0001_log_tables", "0002_delivery_changes", "0003_log_identity", "0004_attempt_latency")
    wanted = [f"would apply {name} to schema outpost" for name in names]
    assert wanted == capsys.readouterr().out.splitlines()
    assert 1 == await run(command.verify, settings)
    assert 0 == await run(command.apply, settings)
    assert "schema outpost is up to date, 24 day tables made" in capsys.readouterr().out
    assert 0 == await run(command.apply, settings)
    assert "schema outpost is up to date, 0 day tables made\n" == capsys.readouterr().out
    assert 0 == await run(command.plan, settings)
    assert 0 == await run(command.verify, settings)
    assert "schema outpost is what this version expects" in capsys.readouterr().out


async def test_the_commands_say_what_is_wrong_and_never_the_password(capsys):
    assert 1 == await run(command.apply, Settings())
    assert "POSTGRES_URL is not set.\n" == capsys.readouterr().out
    assert 1 == await run(command.verify, Settings(postgres_url="postgres://u:hunter2@127.0.0.1:1/x"))
    told = capsys.readouterr()
    assert "postgres is unavailable" in told.out
    assert "hunter2" not in told.out + told.err


async def test_processes_that_migrate_at_once_apply_every_migration_once(any_postgres_url):
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, any_postgres_url, "two-of-them", stdout=asyncio.subprocess.PIPE
        )
        for _ in range(3)
    ]
    outputs = [(await asyncio.wait_for(p.communicate(), 60))[0].decode() for p in processes]
    assert [0, 0, 0] == [p.returncode for p in processes]
    assert 1 == "".join(outputs).count("applied 0001_log_tables to schema outpost_two-of-them")
    store = await stores.open_store(any_postgres_url, "two-of-them")
    assert migrate.State([], []) == await migrate.state(store)
    assert 8 == len([t for t in await tables(store) if t.startswith("event_g1_2")])
    await store.close()


async def test_an_edited_migration_and_a_missing_column_are_problems(store):
    await migrate.apply_pending(store)
    async with store.acquire() as connection:
        await connection.execute("UPDATE migration SET checksum = 'x'")
        await connection.execute("DROP VIEW attempt; CREATE VIEW attempt AS SELECT partition FROM attempt_g1")
        await connection.execute("DROP TABLE log_rejected")
    problems = (await migrate.state(store)).problems
    assert "migration 0001_log_tables was edited after it had been applied" in problems
    assert "table log_rejected is missing" in problems
    assert "column response_data of attempt is missing" in problems
    with pytest.raises(errors.StartRefused, match="not what this version expects"):
        await migrate.apply_pending(store)


async def test_a_migration_that_fails_leaves_nothing(store, monkeypatch):
    await migrate.apply_pending(store)
    broken = migrate.Migration(9_999, "broken", "CREATE TABLE half (x int); SELECT no_such_function();")
    monkeypatch.setattr(migrate, "known", lambda known=migrate.known: (*known(), broken))
    with pytest.raises(errors.StoreUnavailable, match="UndefinedFunctionError"):
        await migrate.apply_pending(store)
    assert "half" not in await tables(store)
    assert [broken] == (await migrate.state(store)).pending


async def test_rows_of_the_first_schema_and_of_an_older_process_are_kept_by_the_second(store, monkeypatch):
    first, *later = migrate.known()
    with monkeypatch.context() as older:
        older.setattr(migrate, "known", lambda: (first,))
        async with store.acquire() as connection:
            while await migrate._apply_next(connection, store.schema):
                pass
            for parent in ("event_g1", "attempt_g1"):
                await stray_rows.make_tables(connection, store.schema, parent, [TODAY])
    old = [column for column in apply.ATTEMPT_COLUMNS if column not in ("next", "latency_ms")]
    entry = events.DeliveryEntry("attempt.failed", "t1", "e1", delivery.TaskId(1, "5-0", "d", 1), "w", DETAIL)
    made = [apply.apply([apply.Placed(0, TODAY_MS, n, entry)]).attempts[0][:-2] for n in range(2)]
    async with store.acquire() as connection:
        await connection.copy_records_to_table("attempt_g1", records=made[:1], columns=old)
    assert later == await migrate.apply_pending(store)
    assert 8 * 3 - 2 == len(await ensure(store))
    async with store.acquire() as connection:
        await connection.copy_records_to_table("attempt_g1", records=made[1:], columns=old)
    found = await log_entries.table(store, "attempt", "seq, next, latency_ms")
    assert [(0, "none", None), (1, "none", None)] == found


async def test_who_waits_for_the_schema_goes_on_when_it_is_there(store):
    waiting = asyncio.create_task(migrate.wait_for_schema(store, 20.0))
    await migrate.apply_pending(store)
    await asyncio.wait_for(waiting, 60)


async def test_who_waits_for_a_schema_in_vain_is_told_what_to_do(store):
    with pytest.raises(errors.StartRefused, match=r"0001_log_tables is not applied.*outpost migrate apply"):
        await migrate.wait_for_schema(store, 0.01)
    away = await stores.open_store("postgres://u:hunter2@127.0.0.1:1/x")
    with pytest.raises(errors.StartRefused, match="postgres is unavailable") as caught:
        await migrate.wait_for_schema(away, 0.01)
    assert "hunter2" not in str(caught.value)
    await away.close()


async def test_a_newer_schema_is_not_in_the_way(store):
    await migrate.apply_pending(store)
    async with store.acquire() as connection:
        await connection.execute("INSERT INTO migration (version, name, checksum) VALUES (999, 'later', 'x')")
    await migrate.wait_for_schema(store, 0.0)


def test_two_deployments_never_share_a_schema_however_long_their_names():
    names = {stores.schema_name(i) for i in ("", "a", "A", "a-b", "x" * 63 + "1", "x" * 63 + "2")}
    assert 6 == len(names)
    assert max(len(name) for name in names) <= stores.MAX_NAME_BYTES


@pytest.mark.parametrize("deployment_id", ["", "Prod-1", "x" * 64])
async def test_deployments_live_in_schemas_of_their_own(any_postgres_url, redis70, deployment_id):
    log = log_entries.open_log(redis70, deployment_id)
    mine = await stores.open_store(any_postgres_url, deployment_id)
    other = await stores.open_store(any_postgres_url, "other")
    for store in (mine, other):
        await migrate.apply_pending(store)
    await log_entries.append_event(log, log_entries.event("t1", "e1"))
    assert await projector.LogProjector(log, mine, 10).drain(10.0)
    assert (1, 0) == (len(await log_entries.table(mine, "event")), len(await log_entries.table(other, "event")))
    for closing in (mine, other, log):
        await closing.close()


async def tables(store):
    async with store.acquire() as connection:
        found = await connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1"
        )
    return [r["tablename"] for r in found]


async def ensure(store, today=TODAY, ahead=7):
    async with store.acquire() as connection:
        return await partitions.ensure_partitions(connection, store.schema, today, ahead)


async def test_tables_of_today_and_seven_days_ahead_are_made_once(store):
    await migrate.apply_pending(store)
    made = await ensure(store)
    days = [f"202609{d}" for d in range(24, 31)] + ["20261001"]
    assert [f"{parent}_g1_{day}" for parent in ("event", "attempt", "delivery_change") for day in days] == made
    assert [] == await ensure(store)
    made = [f"{parent}_g1_20261002" for parent in ("event", "attempt", "delivery_change")]
    assert made == await ensure(store, TODAY + dt.timedelta(days=1))


async def test_tables_are_made_once_by_many_at_the_same_time(store):
    await migrate.apply_pending(store)
    made = await asyncio.gather(*(ensure(store) for _ in range(6)))
    assert 24 == sum(len(names) for names in made)


async def test_rows_go_to_their_day_and_others_to_the_default_table(store, redis70):
    await migrate.apply_pending(store)
    await ensure(store)
    log = log_entries.open_log(redis70)
    moments = {
        "yesterday": TODAY_MS - 1,
        "first": TODAY_MS,
        "last": TODAY_MS + DAY_MS - 1,
        "next": TODAY_MS + DAY_MS,
        "far": TODAY_MS + 30 * DAY_MS,
    }
    for id_, ms in moments.items():
        await log_entries.append_event(log, log_entries.event("t1", id_), f"{ms}-0")
    assert await projector.LogProjector(log, store, 10).drain(10.0)
    found = dict(await log_entries.table(store, "event_g1", "event_id, tableoid::regclass::text"))
    assert {
        "yesterday": "event_g1_default",
        "first": "event_g1_20260924",
        "last": "event_g1_20260924",
        "next": "event_g1_20260925",
        "far": "event_g1_default",
    } == found
    await log.close()


async def test_rows_in_the_default_table_move_when_their_day_gets_its_own(store, redis70):
    await migrate.apply_pending(store)
    log = log_entries.open_log(redis70)
    for n in range(20):
        at_ms = TODAY_MS - 5 + n
        await log_entries.append_event(log, log_entries.event("t1", f"e{n}"), f"{at_ms}-0")
        await log_entries.append(log, "dlv", "t1", log_entries.attempt("t1", f"e{n}"), f"{at_ms}-0")
    writing = asyncio.create_task(projector.LogProjector(log, store, 2).drain(30.0))
    made = await ensure(store)
    assert await writing
    assert 24 <= len(made) <= 24 + 3  # yesterday's rows may have come in time to be moved by the first call
    await ensure(store, TODAY - dt.timedelta(days=1))
    for name in ("event_g1", "attempt_g1"):
        assert 20 == len(await log_entries.table(store, name))
        assert [] == await log_entries.table(store, f"{name}_default")
        assert 5 == len(await log_entries.table(store, f"{name}_20260923"))
    await log.close()


async def stray(log, store, days=(-400, -3, 0, 30), each=20):
    """Rows of these days, counted from TODAY, in the default tables."""
    for day in days:
        for n in range(each):
            at_ms = TODAY_MS + day * DAY_MS + n
            await log_entries.append_event(log, log_entries.event("t1", f"e{day}.{n}"), f"{at_ms}-0")
            await log_entries.append(log, "dlv", "t1", log_entries.attempt("t1", f"e{day}.{n}"), f"{at_ms}-0")
    assert await projector.LogProjector(log, store, 1_000).drain(60.0)
    return len(days) * each


async def test_rows_of_days_long_past_and_far_ahead_get_tables_too(store, redis70):
    await migrate.apply_pending(store)
    log = log_entries.open_log(redis70)
    rows = await stray(log, store)
    await ensure(store)
    for parent in ("event_g1", "attempt_g1"):
        assert rows == len(await log_entries.table(store, parent))
        assert [] == await log_entries.table(store, f"{parent}_default")
        assert 20 == len(await log_entries.table(store, f"{parent}_20250820"))
    await log.close()


async def test_rows_are_moved_in_steps_and_readers_find_each_once_all_the_time(store, redis70, monkeypatch):
    monkeypatch.setattr(stray_rows, "STEP_ROWS", 3)
    await migrate.apply_pending(store)
    log = log_entries.open_log(redis70)
    rows = await stray(log, store)
    moving = asyncio.create_task(ensure(store))
    seen = set()
    while not moving.done():
        seen.add((len(await log_entries.table(store, "event")), len(await log_entries.table(store, "attempt"))))
    await moving
    assert {(rows, rows)} == seen
    assert [] == await log_entries.table(store, "event_g1_default")
    await log.close()


async def test_a_move_that_was_cut_off_goes_on_with_what_it_had_copied(store, redis70, monkeypatch):
    await migrate.apply_pending(store)
    log = log_entries.open_log(redis70)
    rows = await stray(log, store)

    async def dies(*_):
        raise asyncpg.ConnectionDoesNotExistError

    with monkeypatch.context() as patch:
        patch.setattr(stray_rows, "_stop_writers", dies)
        with pytest.raises(errors.StoreUnavailable):
            await ensure(store)
    assert rows == len(await log_entries.table(store, "event_g1_default"))
    assert 8 + 3 == len([name for name in await ensure(store) if name.startswith("event")])
    assert (rows, []) == (
        len(await log_entries.table(store, "event")),
        await log_entries.table(store, "event_g1_default"),
    )
    await log.close()


async def test_no_table_is_scanned_while_others_are_locked_out(store, redis70):
    """Postgres says at DEBUG1 that the constraint of a new partition spares it the scan."""
    await migrate.apply_pending(store)
    log = log_entries.open_log(redis70)
    await stray(log, store, days=(-3,))
    said = []
    async with store.acquire() as connection:
        connection.add_log_listener(lambda _, message: said.append(message.message))
        await connection.execute("SET client_min_messages = debug1")
        made = await partitions.ensure_partitions(connection, store.schema, TODAY)
        await connection.execute("RESET client_min_messages")
        await asyncio.sleep(0)
        connection._con._log_listeners.clear()
    spared = [
        name for name in made if any(f'"{name}" is implied by existing constraints' in each for each in said)
    ]
    assert made == spared
    # Of the default tables too it says that it verifies them: they are empty.
    assert not [each for each in said if each.startswith("verifying table") and "_default" not in each]
    await log.close()


async def test_a_start_does_not_wait_for_rows_to_be_moved(store, redis70):
    await migrate.apply_pending(store)
    log = log_entries.open_log(redis70)
    rows = await stray(log, store, days=(-3,))
    await partitions.refresh(store, TODAY, move=False)
    assert rows == len(await log_entries.table(store, "event_g1_default"))
    await partitions.refresh(store, TODAY)
    assert [] == await log_entries.table(store, "event_g1_default")
    await log.close()


async def test_the_keeper_makes_the_tables_and_stops_when_told(store):
    await migrate.apply_pending(store)
    stop = asyncio.Event()
    task = asyncio.create_task(partitions.keep(store, stop))
    today = dt.datetime.now(dt.UTC).date()
    last = stray_rows.table_name("attempt_g1", today + dt.timedelta(days=7))

    async def made():
        return last in await tables(store)

    await eventually(made)
    stop.set()
    await asyncio.wait_for(task, 60)
