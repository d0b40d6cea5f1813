"""`append`: each entry once, each against the tenant version it was made for."""

from __future__ import annotations

import asyncio

import pytest

from outpost.domain import events
from outpost.log import append, marks, read
from outpost.log import partition as partitions
from outpost.log.redis import client
from tests.contract import worlds

MATCHED = (events.Matched("d", 1), events.Matched("e", 4))


def _answers(*kinds: type[append.Answer], among: list[append.Answer]) -> None:
    assert list(kinds) == [type(answer) for answer in among]


async def _set_version(log: client.Log, version: int) -> None:
    await log.command("HSET", log.keys.partitions[worlds.P].ver, worlds.TENANT, version)


async def test_an_entry_stands_in_the_stream_with_its_fields_in_order(log: client.Log) -> None:
    wanted = worlds.item(data=b'{ "a" : [1.50] }')
    [answer] = await worlds.append_items(log, wanted)
    assert isinstance(answer, append.Appended)
    [found] = await read.between(log, "evt", worlds.P)
    assert answer.position == found.position
    flat = [part if isinstance(part, bytes) else str(part).encode() for part in wanted.fields]
    assert flat == [part for pair in found.fields.items() for part in pair]


@pytest.mark.invariant("L2")
async def test_the_same_request_gets_its_first_answer_again(log: client.Log) -> None:
    first = await worlds.append_items(log, worlds.item(matched=MATCHED, expected=0))
    await _set_version(log, 9)  # even when the tenant has moved on meanwhile
    assert first == await worlds.append_items(log, worlds.item(matched=MATCHED, expected=0))
    assert 1 == await log.command("XLEN", log.keys.partitions[worlds.P].evt)


@pytest.mark.invariant("R2")
async def test_another_request_is_a_duplicate_and_hears_what_the_first_was_told(log: client.Log) -> None:
    [first] = await worlds.append_items(log, worlds.item(matched=MATCHED))
    assert isinstance(first, append.Appended)
    [second] = await worlds.append_items(log, worlds.item(request="admin/req_2", matched=()))
    assert append.Duplicate(first.position, MATCHED) == second
    assert 1 == await log.command("XLEN", log.keys.partitions[worlds.P].evt)


async def test_an_id_is_unique_per_tenant_only(log: client.Log) -> None:
    other = next(f"t{n}" for n in range(1000) if partitions.partition_of(f"t{n}") == worlds.P)
    answers = await worlds.append_items(log, worlds.item(), worlds.item(tenant=other))
    _answers(append.Appended, append.Appended, among=answers)


async def test_two_events_of_one_id_in_one_batch_are_one_entry(log: client.Log) -> None:
    answers = await worlds.append_items(log, worlds.item(), worlds.item(request="admin/req_2"))
    _answers(append.Appended, append.Duplicate, among=answers)


@pytest.mark.invariant("L3")
async def test_an_event_matched_against_another_version_is_refused_and_not_marked(log: client.Log) -> None:
    await _set_version(log, 7)
    assert [append.Stale(7)] == await worlds.append_items(log, worlds.item(expected=6))
    assert 0 == await log.command("EXISTS", log.keys.partitions[worlds.P].evt)
    _answers(append.Appended, among=await worlds.append_items(log, worlds.item(expected=7)))


async def test_a_tenant_that_never_existed_is_at_version_0(log: client.Log) -> None:
    assert [append.Stale(0)] == await worlds.append_items(log, worlds.item(expected=1))
    _answers(append.Appended, among=await worlds.append_items(log, worlds.item(expected=0)))


async def test_any_version_will_do_where_none_is_expected(log: client.Log) -> None:
    await _set_version(log, 7)
    _answers(append.Appended, among=await worlds.append_items(log, worlds.item(expected=None)))


async def test_a_change_moves_the_version_and_the_next_of_the_batch_sees_it(log: client.Log) -> None:
    answers = await worlds.append_items(
        log,
        worlds.item("c1", "admin/r1", expected=0, following=1),
        worlds.item("c2", "admin/r2", expected=0, following=1),
        worlds.item("c3", "admin/r3", expected=1, following=2),
    )
    _answers(append.Appended, append.Stale, append.Appended, among=answers)
    assert b"2" == await log.command("HGET", log.keys.partitions[worlds.P].ver, worlds.TENANT)


@pytest.mark.invariant("L4")
async def test_of_concurrent_changes_to_one_version_one_wins(log: client.Log) -> None:
    """L4."""
    wanted = [worlds.item(f"c{n}", f"admin/r{n}", expected=0, following=1) for n in range(20)]
    answers = await asyncio.gather(*(worlds.append_items(log, each) for each in wanted))
    assert [1, 19] == [sum(isinstance(a[0], kind) for a in answers) for kind in (append.Appended, append.Stale)]


async def test_an_empty_request_and_matches_with_odd_names_come_back_whole(log: client.Log) -> None:
    odd = (events.Matched('a b"\n/@c', 3),)
    await worlds.append_items(log, worlds.item(request="", matched=odd))
    [answer] = await worlds.append_items(log, worlds.item(request="admin/req_2"))
    assert isinstance(answer, append.Duplicate)
    assert odd == answer.matched


async def test_an_id_is_free_again_one_ms_after_its_window_and_not_before(
    log: client.Log, clock: worlds.Clock
) -> None:
    [first] = await worlds.append_items(log, worlds.item())
    assert isinstance(first, append.Appended)
    await clock.set(first.position.ms + worlds.TTL_MS)
    window = append.Window(worlds.TTL_MS)
    again = worlds.item(request="admin/req_2")
    [edge] = (await append.append(log, "evt", {worlds.P: [again]}, window))[worlds.P]
    assert append.Duplicate(first.position, ()) == edge
    await clock.advance(1)
    [after] = (await append.append(log, "evt", {worlds.P: [again]}, window))[worlds.P]
    assert isinstance(after, append.Appended)


@pytest.mark.parametrize("ttl_ms", [1, 2, 999, 1_001, 60_001])
async def test_every_ms_of_a_window_finds_the_mark_wherever_in_its_bucket_it_was_made(
    log: client.Log, clock: worlds.Clock, ttl_ms: int
) -> None:
    window = append.Window(ttl_ms)
    for offset in {0, window.bucket_ms // 2, window.bucket_ms - 1}:
        start = (worlds.NOW // window.bucket_ms) * window.bucket_ms + offset
        key = f"e{offset}"
        bucket = log.keys.partitions[worlds.P].bucket(start // window.bucket_ms)
        await log.command("HSET", bucket, f"{worlds.TENANT}\0{key}", f"{start}-0 admin/req_1 []")
        for later in sorted({0, 1, ttl_ms // 2, ttl_ms}):
            await clock.set(start + later)
            wanted = worlds.item(key, "admin/req_2")
            [answer] = (await append.append(log, "evt", {worlds.P: [wanted]}, window))[worlds.P]
            assert isinstance(answer, append.Duplicate), (offset, later)


async def test_a_mark_of_an_earlier_bucket_is_found_and_lives_until_no_window_reaches_it(
    log: client.Log, clock: worlds.Clock
) -> None:
    width = append.Window(worlds.TTL_MS).bucket_ms
    start = (int((await log.command("TIME"))[0]) * 1000 // width) * width
    await clock.set(start + width - 1)
    await worlds.append_items(log, worlds.item())
    bucket = log.keys.partitions[worlds.P].bucket(start // width)
    assert 1 == await log.command("HLEN", bucket)
    # The last ms at which the mark counts is the end of the bucket and a window on.
    assert await log.command("PEXPIRETIME", bucket) >= start + width + worlds.TTL_MS
    await clock.advance(1)
    _answers(append.Appended, among=await worlds.append_items(log, worlds.item("e2")))
    assert 1 == await log.command("HLEN", log.keys.partitions[worlds.P].bucket(start // width + 1))


async def test_a_caller_whose_clock_is_off_is_told_the_time_and_tries_again(
    log: client.Log, clock: worlds.Clock
) -> None:
    await clock.set(worlds.NOW)  # years from this process's clock
    window = append.Window(worlds.TTL_MS)
    [answer] = (await append.append(log, "evt", {worlds.P: [worlds.item()]}, window))[worlds.P]
    assert isinstance(answer, append.Appended)
    assert abs(window.declared()[0][1] - (worlds.NOW // window.bucket_ms - 3)) <= 1
    assert 1 == await log.command("XLEN", log.keys.partitions[worlds.P].evt)


async def test_nothing_is_written_for_buckets_that_do_not_cover_the_time(log: client.Log) -> None:
    keys = log.keys.partitions[worlds.P]
    window = worlds.window()
    for first in (0, 10**9):
        call = append._call(keys, "evt", [worlds.item()] * 2, window, ((window.bucket_ms, first),))
        [reply] = await log.call(append._SCRIPT, [call])
        assert b"buckets" == reply[0]
    assert 0 == await log.command("DBSIZE")


async def test_one_round_trip_appends_to_many_partitions(log: client.Log) -> None:
    tenants = {partitions.partition_of(f"t{n}"): f"t{n}" for n in range(200)}
    assert partitions.PARTITIONS == len(tenants)
    batches = {p: [worlds.item(tenant=tenant)] for p, tenant in tenants.items()}
    answers = await append.append(log, "evt", batches, worlds.window())
    assert {p: [p] for p in tenants} == {p: [a.position.partition for a in got] for p, got in answers.items()}
    lengths = await log.pipeline([("XLEN", keys.evt) for keys in log.keys.partitions])
    assert [1] * partitions.PARTITIONS == lengths


async def test_a_full_flush_is_one_script_call(log: client.Log) -> None:
    items = [worlds.item(f"e{n}", f"admin/r{n}") for n in range(append.MAX_FLUSH)]
    answers = await worlds.append_items(log, *items)
    assert append.MAX_FLUSH == len({a.position for a in answers if isinstance(a, append.Appended)})


async def _append(log: client.Log, window: append.Window, request: str) -> append.Answer:
    wanted = worlds.item(request=request)
    return (await append.append(log, "evt", {worlds.P: [wanted]}, window))[worlds.P][0]


@pytest.mark.invariant("L2")
@pytest.mark.parametrize("ttls_ms", [(3_600_000, 7_200_000), (7_200_000, 3_600_000), (10_000, 604_800_000)])
async def test_a_changed_window_doubles_nothing(log: client.Log, ttls_ms: tuple[int, int]) -> None:
    before, after = (append.Window(ttl_ms) for ttl_ms in ttls_ms)
    first = await _append(log, before, "admin/r1")
    assert isinstance(first, append.Appended)
    assert append.Duplicate(first.position, ()) == await _append(log, after, "admin/r2")


@pytest.mark.invariant("L2")
async def test_processes_with_different_windows_see_each_other_s_marks(log: client.Log) -> None:
    windows = [append.Window(ttl_ms) for ttl_ms in (60_000, 3_600_000, 90_000)]
    for n, window in enumerate(windows):
        wanted = worlds.item(f"e{n}", f"admin/r{n}")
        [answer] = (await append.append(log, "evt", {worlds.P: [wanted]}, window))[worlds.P]
        assert isinstance(answer, append.Appended)
    for other in windows:
        repeated = [worlds.item(f"e{n}", "admin/other") for n in range(3)]
        answers = (await append.append(log, "evt", {worlds.P: repeated}, other))[worlds.P]
        _answers(*[append.Duplicate] * 3, among=answers)
    in_use = await log.command("HKEYS", log.keys.partitions[worlds.P].idem)
    assert {b"30000", b"1800000", b"45000"} == {*in_use}


async def test_a_window_that_is_not_used_any_more_is_forgotten(log: client.Log, clock: worlds.Clock) -> None:
    now = int((await log.command("TIME"))[0]) * 1000
    await clock.set(now)
    await _append(log, append.Window(60_000), "admin/r1")
    window = append.Window(3_600_000)
    await clock.advance(121_000)
    await _append(log, window, "admin/r2")
    assert {b"1800000"} == {*await log.command("HKEYS", log.keys.partitions[worlds.P].idem)}
    assert {} == window.others


@pytest.mark.invariant("L2")
async def test_a_clock_that_steps_back_over_the_edge_of_a_bucket_doubles_nothing(
    log: client.Log, clock: worlds.Clock
) -> None:
    window = append.Window(3_600_000)
    now = int((await log.command("TIME"))[0]) * 1000
    await clock.set((now // window.bucket_ms + 1) * window.bucket_ms + 500)
    first = await _append(log, window, "admin/r1")
    assert isinstance(first, append.Appended)
    await clock.advance(-2_000)
    assert append.Duplicate(first.position, ()) == await _append(log, window, "admin/r2")


@pytest.mark.invariant("L2")
async def test_marks_of_the_version_before_are_found_whatever_its_window_was(log: client.Log) -> None:
    """It did not note the width of its buckets; when they expire tells it."""
    keys, width = log.keys.partitions[worlds.P], 1_800_000
    seconds, micros = await log.command("TIME")
    now = int(seconds) * 1000 + int(micros) // 1000
    await log.command("HSET", keys.bucket(now // width), f"{worlds.TENANT}\0e1", f"{now}-0 admin/r1 []")
    await log.command("PEXPIREAT", keys.bucket(now // width), (now // width + 4) * width)
    assert 1 == await marks.adopt(log)
    assert isinstance(await _append(log, append.Window(86_400_000), "admin/r2"), append.Duplicate)
    assert 0 == await log.command("XLEN", keys.evt)
