"""The log projection on real servers: exactly one row per entry, whatever happens (P2, P3, P4, L6)."""

from __future__ import annotations

import asyncio
import contextlib
import random

import msgspec
import pytest

from outpost import errors, pacing
from outpost.domain import events
from outpost.log import batching
from outpost.log import partition as partitions
from outpost.log.redis import shapes
from projections import runner
from projections.logs import migrate, projector, write
from projections.logs import store as stores
from tests.harness import log_entries
from tests.harness.polling import eventually

TENANTS = [f"tenant{n}" for n in range(9)]


@contextlib.asynccontextmanager
async def opened(url, deployment_id=""):
    store = await stores.open_store(url, deployment_id)
    try:
        await migrate.apply_pending(store)
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(postgres_url):
    async with opened(postgres_url) as store:
        yield store


@pytest.fixture
async def log(any_redis):
    log = log_entries.open_log(any_redis)
    yield log
    await log.close()


@pytest.fixture
async def log70(redis70):
    log = log_entries.open_log(redis70)
    yield log
    await log.close()


async def fill(log, events_of_each=4, first=0):
    """Events with an attempt each, some of them bad, and entries that are no attempts."""
    for tenant in TENANTS:
        for n in range(first, first + events_of_each):
            entry = log_entries.event(tenant, f"{tenant}-{n}")
            at = await log_entries.append_event(log, entry)
            await log_entries.append(log, "dlv", tenant, log_entries.attempt(tenant, entry.id, at.entry_id))
            await log_entries.append(log, "dlv", tenant, log_entries.skipped(tenant, entry.id))
        bad = log_entries.event(tenant, f"bad-{first}", topic="nul\0")
        await log_entries.append_event(log, bad)
        await log_entries.append(log, "dlv", tenant, ["t", "attempt.succeeded", "v", 1, "ten", tenant])


async def project(log, store, batch_size=1000):
    """Everything there is; the number of steps."""
    made = projector.LogProjector(log, store, batch_size)
    steps = 0
    while await made.step():
        steps += 1
    return steps


async def test_every_entry_becomes_one_row_at_its_position(log, store):
    await fill(log)
    await project(log, store)
    rows = await log_entries.rows(store)
    assert (36, 36, 36, 18) == tuple(len(rows[name]) for name in ("event", "attempt", "change", "rejected"))
    expected = []
    for partition in {partitions.partition_of(t) for t in TENANTS}:
        for entry_id, flat in await log.command("XRANGE", log.keys.partitions[partition].evt, "-", "+"):
            fields = shapes.pairs(flat)
            ms, seq = map(int, entry_id.split(b"-"))
            if fields[b"top"] != b"nul\0":
                expected.append((ms, partition, seq, fields[b"id"].decode(), fields[b"d"].decode()))
    columns = "accepted_at, partition, seq, event_id, data"
    assert sorted(expected, key=repr) == await log_entries.table(store, "event", columns)


@pytest.mark.invariant("P2")
async def test_the_rows_are_the_same_for_any_batch_size(log70, postgres_url):
    await fill(log70)
    results = []
    for batch_size in (1, 7, 1000):
        async with opened(postgres_url, f"size{batch_size}") as store:
            await project(log70, store, batch_size)
            results.append(await log_entries.rows(store))
    assert results[0] == results[1] == results[2]


@pytest.mark.invariant("P2")
async def test_the_rows_are_the_same_when_entries_arrive_between_the_steps(log70, postgres_url):
    async with opened(postgres_url, "live") as live:
        made = projector.LogProjector(log70, live, 10)
        for n in range(4):
            await fill(log70, 1, n)
            await made.step()
        while await made.step():
            pass
        expected = await log_entries.rows(live)
    async with opened(postgres_url, "later") as later:
        await project(log70, later)
        assert expected == await log_entries.rows(later)


@pytest.mark.invariant("P3")
async def test_applying_everything_again_changes_nothing(log70, store):
    await fill(log70)
    await project(log70, store)
    before = await log_entries.rows(store)
    async with store.acquire() as connection:
        await connection.execute("UPDATE checkpoint SET ms = 0, seq = 0")
    await project(log70, store, 50)
    assert before == await log_entries.rows(store)


@pytest.mark.invariant("P4")
async def test_several_projectors_at_once_give_the_rows_of_one(log70, postgres_url):
    await fill(log70, 12)
    async with opened(postgres_url, "one") as one:
        await project(log70, one)
        expected = await log_entries.rows(one)
    async with opened(postgres_url, "many") as many:
        await asyncio.gather(*(project(log70, many, size) for size in (3, 5, 1000)))
        assert expected == await log_entries.rows(many)


async def test_a_batch_from_where_somebody_else_has_been_is_refused_whole(log70, store):
    await fill(log70)
    slow = projector.LogProjector(log70, store, 1000)
    await slow._begin()
    await project(log70, store)
    before = await log_entries.rows(store)
    found = await projector.read.after(log70, {("evt", p): "0-0" for p in range(16)}, 100)
    outcome = await write.write(store, slow._batch(found))
    assert isinstance(outcome, write.Moved)
    assert before == await log_entries.rows(store)
    assert all(before["checkpoint"].count(("log_g1", p, s, *key)) for (s, p), key in outcome.present.items())


async def test_an_entry_that_does_not_decode_is_kept_with_its_fields_and_the_rule(log70, store):
    at = await log_entries.append(log70, "evt", "t1", ["t", "event.accepted", "v", 1, "ten", b"\xff\0"])
    future = await log_entries.append(log70, "dlv", "t1", ["t", "attempt.succeeded", "v", 9, "d", "x"])
    await project(log70, store)
    async with store.acquire() as connection:
        kept = {r["stream"]: r for r in await connection.fetch("SELECT * FROM log_rejected")}
    assert (at.ms, at.seq, at.partition) == (kept["evt"]["ms"], kept["evt"]["seq"], kept["evt"]["partition"])
    assert "is missing" in kept["evt"]["reason"]
    fields = msgspec.msgpack.decode(kept["evt"]["fields"], type=dict[bytes, bytes])
    assert {b"t": b"event.accepted", b"v": b"1", b"ten": b"\xff\0"} == fields
    assert future.ms == kept["dlv"]["ms"]


async def test_rows_that_postgres_refuses_are_kept_aside_and_the_rest_goes_in(log70, store):
    for n in range(40):
        topic = "nul\0" if n in (0, 17, 18) else "user.created"
        await log_entries.append_event(log70, log_entries.event("t1", f"e{n}", topic=topic))
        number = 2**40 if n == 5 else 1
        await log_entries.append(log70, "dlv", "t1", log_entries.attempt("t1", f"e{n}", number=number))
    too_long_for_an_index = random.Random(1).randbytes(4000).hex()
    await log_entries.append_event(log70, log_entries.event("t1", too_long_for_an_index))
    await project(log70, store)
    rows = await log_entries.rows(store)
    assert (37, 39) == (len(rows["event"]), len(rows["attempt"]))
    reasons = sorted(row[4] for row in rows["rejected"])
    refused = "Postgres refused it: SQLSTATE"
    assert ["Postgres has no such value: OverflowError", *[f"{refused} 22021"] * 3, f"{refused} 54000"] == reasons


async def test_the_position_is_reached_when_the_row_is_there(log70, store):
    made = projector.LogProjector(log70, store, 100)
    await log_entries.append_event(log70, log_entries.event("t1", "e1"))
    assert 0 < await made.lag_ms() + 1
    assert await runner.drain(made, 5.0)
    assert 0 == await made.lag_ms()


async def test_a_projector_that_runs_projects_what_comes_and_stops_when_told(log, store):
    made = projector.LogProjector(log, store, 100)
    stop = asyncio.Event()
    task = asyncio.create_task(made.run(stop))
    await log_entries.append_event(log, log_entries.event("t1", "e1"))

    async def count():
        return len(await log_entries.table(store, "event")) == 1

    await eventually(count)
    assert made.health.healthy
    stop.set()
    await asyncio.wait_for(task, 60)


@pytest.mark.parametrize("own_postgres", ["postgres18"], indirect=True)
async def test_postgres_killed_and_started_again_loses_and_doubles_nothing(log70, own_postgres):
    async with opened(own_postgres.url) as store:
        await fill(log70)
        made = projector.LogProjector(log70, store, 5)
        stop = asyncio.Event()
        task = asyncio.create_task(runner.drive(made, stop, pacing.Pause(0.01, 0.2)))
        await eventually(lambda: log_entries.table(store, "event"))
        own_postgres.kill9()
        await fill(log70, 4, 4)
        await eventually(lambda: not made.health.healthy)
        own_postgres.start()

        async def all_there():
            rows = await log_entries.rows(store)
            return (72, 72, 36) == tuple(len(rows[name]) for name in ("event", "attempt", "rejected"))

        await eventually(all_there)
        await eventually(lambda: made.health.healthy)
        stop.set()
        await asyncio.wait_for(task, 60)


async def test_redis_killed_and_started_again_loses_and_doubles_nothing(own_redis, store):
    log = log_entries.open_log(own_redis)
    await fill(log)
    made = projector.LogProjector(log, store, 5)
    stop = asyncio.Event()
    task = asyncio.create_task(runner.drive(made, stop, pacing.Pause(0.01, 0.2)))
    await eventually(lambda: log_entries.table(store, "event"))
    own_redis.kill9()
    await eventually(lambda: not made.health.healthy)
    own_redis.start()
    await fill(log, 4, 4)

    async def all_there():
        rows = await log_entries.rows(store)
        return (72, 72, 36) == tuple(len(rows[name]) for name in ("event", "attempt", "rejected"))

    await eventually(all_there)
    stop.set()
    await asyncio.wait_for(task, 60)
    await log.close()


async def test_a_store_that_is_away_is_our_error_and_nothing_is_half_written(log70, own_postgres):
    async with opened(own_postgres.url) as store:
        await fill(log70)
        made = projector.LogProjector(log70, store, 5)
        await made.step()
        own_postgres.kill9()
        with pytest.raises(errors.StoreUnavailable, match="postgres"):
            await made.step()
        own_postgres.start()
        assert await made.drain(10.0)
        rows = await log_entries.rows(store)
        assert (36, 36, 18) == tuple(len(rows[name]) for name in ("event", "attempt", "rejected"))


async def test_a_postgres_that_hangs_does_not_hold_up_the_shutdown(log70, own_postgres):
    store = await stores.open_store(own_postgres.url)
    await migrate.apply_pending(store)
    made = projector.LogProjector(log70, store, 5)
    await made.step()
    await fill(log70)
    own_postgres.pause()
    stop = asyncio.Event()
    task = asyncio.create_task(made.run(stop))
    await eventually(lambda: store.pool.get_idle_size() < store.pool.get_size())  # it writes
    stop.set()
    await asyncio.wait_for(store.close(0.2), 60)
    await asyncio.wait_for(task, 60)
    own_postgres.resume()
    async with opened(own_postgres.url) as again:
        assert await projector.LogProjector(log70, again, 1000).drain(10.0)
        rows = await log_entries.rows(again)
        assert (36, 36, 18) == tuple(len(rows[name]) for name in ("event", "attempt", "rejected"))


@pytest.mark.invariant("L6")
async def test_a_log_that_went_back_behind_a_checkpoint_halts_before_anything_is_read(log70, store):
    await log_entries.append_event(log70, log_entries.event("t1", "e1"), "1800000000000-0")
    await project(log70, store)
    before = await log_entries.rows(store)
    await log70.command("FLUSHALL")
    await log_entries.append_event(log70, log_entries.event("t1", "e2"), "1700000000000-0")
    await log_entries.append_event(log70, log_entries.event("t2", "e3"), "1900000000000-0")
    made = projector.LogProjector(log70, store, 100)
    assert 0 == await made.step()
    partition = partitions.partition_of("t1")
    assert made.health.halted
    assert f"evt.{partition:02}.1800000000000-0" in made.health.reason
    assert before == await log_entries.rows(store)


@pytest.mark.invariant("L6")
async def test_a_log_that_was_overtaken_after_it_went_back_halts_too(log70, store):
    await log_entries.append_event(log70, log_entries.event("t1", "e1"), "1800000000000-0")
    await project(log70, store)
    await log70.command("FLUSHALL")
    for entry_id in ("1700000000000-0", "1900000000000-0"):
        await log_entries.append_event(log70, log_entries.event("t1", "e2"), entry_id)
    made = projector.LogProjector(log70, store, 100)
    assert 0 == await made.step()
    assert made.health.halted


async def test_a_trimmed_stream_is_no_reason_to_halt(log70, store):
    at = await log_entries.append_event(log70, log_entries.event("t1", "e1"))
    await project(log70, store)
    await log70.command("XTRIM", log70.keys.partitions[at.partition].evt, "MAXLEN", 0)
    assert 0 == await project(log70, store)
    later = await log_entries.append_event(log70, log_entries.event("t1", "e2"))
    assert 1 == await project(log70, store)
    assert [later.ms] == [r[0] for r in await log_entries.table(store, "event") if r[5] == "e2"]


@pytest.mark.invariant("L6")
async def test_a_restart_between_two_reads_is_noticed_and_the_log_judged_again(own_redis, store):
    log = log_entries.open_log(own_redis)
    made = projector.LogProjector(log, store, 100)
    await log_entries.append_event(log, log_entries.event("t1", "e1"), "1800000000000-0")
    assert 1 == await made.step()
    await own_redis.client().flushall()
    own_redis.restart()
    await log.disconnect()
    await log_entries.append_event(log, log_entries.event("t1", "e2"), "1700000000000-0")
    await log_entries.append_event(log, log_entries.event("t1", "e3"), "1900000000000-0")
    while await made.step():
        pass
    assert made.health.halted
    assert ["e1"] == [r[0] for r in await log_entries.table(store, "event", "event_id")]
    await log.close()


async def test_large_entries_are_read_a_few_at_a_time(log70, store):
    data = b'"' + b"x" * 1_000_000 + b'"'
    for n in range(40):
        await log_entries.append_event(log70, log_entries.event("t1", f"e{n}", data=data))
    made = projector.LogProjector(log70, store, 1000)
    steps = [await made.step() for _ in range(7)]
    assert (40, 0) == (sum(steps), steps[-1])
    assert max(steps) <= batching.ANSWER_BYTES // 1_000_000


def test_pauses_double_up_to_their_bound_and_begin_again_after_a_success():
    pause = pacing.Pause(1.0, 10.0)
    pauses = [pause.next_s() for _ in range(40)]
    assert all(0.5 * min(2**n, 10) <= s <= min(2**n, 10) for n, s in enumerate(pauses))
    pause.reset()
    assert pause.next_s() <= 1.0


async def test_an_event_of_a_row_keeps_its_matches_and_metadata(log70, store):
    matched = (events.Matched("des/1@x", 2), events.Matched("des_2", 3))
    entry = log_entries.event("t1", "e1", matched=matched, metadata={"k": "v"}, eligible=False)
    await log_entries.append_event(log70, entry)
    await project(log70, store)
    columns = "matched_destination_ids, metadata, eligible_for_retry, time"
    assert [(["des/1@x", "des_2"], '{"k":"v"}', False, log_entries.TIME_MS)] == await log_entries.table(
        store, "event", columns
    )
