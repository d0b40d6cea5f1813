"""Trimming on real servers: what goes, what stays while somebody needs it, and that a crash changes nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping

import msgspec
import pytest

from outpost import errors
from outpost.domain import events
from outpost.log import append, read
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.delivery import requests, tasks
from outpost.log.redis import client
from outpost.log.upkeep import leadership, trim
from projections.due import repair as driver
from tests.contract import worlds
from tests.contract.worlds import P
from tests.harness.servers import RedisServer

D = events.Matched("d", 1)
AT_ONCE = -60_000  # a window that ended in the future: only the other bounds count
NOTHING = trim.Trimmed()
_names = itertools.count(1)


async def _head(log: client.Log, stream: partitions.Stream) -> trim.EntryKey:
    head = (await read.heads(log, [(stream, P)]))[0]
    return head.ms, head.seq


async def _trim(log: client.Log, window_ms: int = AT_ONCE, **checkpoints: trim.EntryKey) -> trim.Trimmed:
    """A trim of the partition of TENANT; the log store is at the heads, where nothing else is said."""
    evt = checkpoints.get("evt") or await _head(log, "evt")
    return await trim.trim(log, P, evt, checkpoints.get("dlv") or await _head(log, "dlv"), window_ms)


async def _ids(log: client.Log, stream: partitions.Stream) -> list[str]:
    return [item.position.entry_id for item in await read.between(log, stream, P)]


async def _published(log: client.Log, count: int) -> list[str]:
    return [await worlds.publish(log, f"e{next(_names)}", D) for _ in range(count)]


async def _opened(log: client.Log, count: int) -> list[str]:
    """Events that were read and opened; their first attempts live."""
    ids = await _published(log, count)
    found = await read.as_group(log, "d0", 1000, block_ms=0, among=[P])
    await tasks.open_entries(log, {P: [_opening(item.position.entry_id) for item in found]}, 30_000)
    return ids


def _opening(entry_id: str) -> tasks.Opening:
    return tasks.Opening(entry_id, (_task(entry_id),))


def _task(entry_id: str, attempt: int = 1) -> str:
    return f"{attempt}/{entry_id}/d@1"


@pytest.fixture(autouse=True)
async def whole(log: client.Log) -> None:
    await worlds.regroup(log)


async def test_what_everybody_is_done_with_goes(log: client.Log) -> None:
    for entry_id in await _opened(log, 3):
        await worlds.record(log, _task(entry_id), succeeded=True)
    assert trim.Trimmed(3, 3) == await _trim(log)
    assert ([], []) == (await _ids(log, "evt"), await _ids(log, "dlv"))
    assert NOTHING == await _trim(log)


async def test_an_event_that_was_not_read_stays_with_all_behind_it(log: client.Log) -> None:
    await _opened(log, 2)
    unread = await _published(log, 2)
    assert trim.Trimmed(2, 0) == await _trim(log)
    assert unread == await _ids(log, "evt")


async def test_an_event_that_was_read_and_not_opened_stays_with_all_behind_it(log: client.Log) -> None:
    opened = await _opened(log, 1)
    ids = await _published(log, 3)
    assert 3 == len(await read.as_group(log, "d0", 10, block_ms=0, among=[P]))
    await tasks.open_entries(log, {P: [_opening(ids[0]), _opening(ids[2])]}, 30_000)
    assert trim.Trimmed(2, 0) == await _trim(log)
    assert ids[1:] == await _ids(log, "evt")
    assert opened[0] not in await _ids(log, "evt")
    await tasks.open_entries(log, {P: [_opening(ids[1])]}, 30_000)
    assert trim.Trimmed(2, 0) == await _trim(log)


async def test_nothing_goes_that_the_log_store_does_not_have(log: client.Log) -> None:
    ids = await _opened(log, 4)
    records = [await worlds.record(log, _task(entry_id), succeeded=True) for entry_id in ids]
    evt, dlv = positions.entry_key(ids[1]), records[0]
    assert dlv is not None
    assert trim.Trimmed(2, 1) == await _trim(log, evt=evt, dlv=(dlv.ms, dlv.seq))
    assert ids[2:] == await _ids(log, "evt")
    assert [r.entry_id for r in records[1:] if r] == await _ids(log, "dlv")


async def test_nothing_goes_that_is_inside_the_window(log: client.Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trim, "_SCRIPT", worlds.with_clock(trim._SCRIPT))
    ids = await _opened(log, 2)
    await worlds.record(log, _task(ids[0]), succeeded=True)
    (ms, _), (last_ms, _) = positions.entry_key(ids[0]), await _head(log, "dlv")
    await log.command("SET", worlds.CLOCK_KEY, ms + 1_000)
    assert NOTHING == await _trim(log, 1_000)
    await log.command("SET", worlds.CLOCK_KEY, last_ms + 1_001)
    assert trim.Trimmed(2, 1) == await _trim(log, 1_000)


async def test_an_attempt_outlives_its_event_and_holds_up_those_behind_it(log: client.Log) -> None:
    ids = await _opened(log, 3)
    records = [await worlds.record(log, _task(entry_id), succeeded=True) for entry_id in (ids[0], ids[2], ids[1])]
    kept = [record.entry_id for record in records if record]
    assert trim.Trimmed(2, 1) == await _trim(log, evt=positions.entry_key(ids[1]))
    assert (ids[2:], kept[1:]) == (await _ids(log, "evt"), await _ids(log, "dlv"))


async def test_an_attempt_of_a_clock_that_went_back_outlives_its_event_too(log: client.Log) -> None:
    """Its position is before the event's, so that comparing positions would not do."""
    ids = await _opened(log, 1)
    ms, _ = positions.entry_key(ids[0])
    entry = (
        "t",
        "attempt.succeeded",
        "v",
        1,
        "ten",
        "acme",
        "id",
        "e",
        "ref",
        _task(ids[0]),
        "by",
        "a",
        "d",
        "{}",
    )
    await log.command("XADD", log.keys.partitions[P].dlv, f"{ms - 5_000}-0", *entry)
    assert NOTHING == await _trim(log, evt=(0, 1))
    assert trim.Trimmed(1, 1) == await _trim(log)


async def test_entries_of_dlv_that_name_no_event_hold_up_nothing(log: client.Log) -> None:
    key = log.keys.partitions[P].dlv
    await log.command("XADD", key, "*", "nonsense", "1")
    await log.command("XADD", key, "*", "v", "1", "ref", "not a task")
    await log.command("XADD", key, "*", "ref", "1/x-y/d@1")
    assert trim.Trimmed(0, 3) == await _trim(log)


@pytest.mark.parametrize("how", ["no group", "mend", "no stream", "another group"])
async def test_nothing_goes_while_the_group_is_missing_or_due_is_being_mended(log: client.Log, how: str) -> None:
    keys = log.keys.partitions[P]
    for entry_id in await _opened(log, 2):
        await worlds.record(log, _task(entry_id), succeeded=True)
    checkpoints = {"evt": await _head(log, "evt"), "dlv": await _head(log, "dlv")}
    match how:
        case "mend":
            await log.command("SET", keys.mend, "5-0")
        case "no stream":
            await log.command("DEL", keys.evt)
        case _:
            await log.command("XGROUP", "DESTROY", keys.evt, partitions.GROUP)
    if how == "another group":
        await log.command("XGROUP", "CREATE", keys.evt, "other", "$")
    assert NOTHING == await _trim(log, **checkpoints)
    assert 2 == len(await _ids(log, "dlv"))


@pytest.mark.invariant("L6")
async def test_nothing_goes_from_a_stream_that_ends_before_the_checkpoint(log: client.Log) -> None:
    """L6: the server came back from an old copy, and nobody knows yet what is missing."""
    ids = await _opened(log, 2)
    records = [await worlds.record(log, _task(entry_id), succeeded=True) for entry_id in ids]
    assert records[-1] is not None
    (ms, seq), last = positions.entry_key(ids[-1]), records[-1]
    assert NOTHING == await _trim(log, evt=(ms, seq + 1))
    assert trim.Trimmed(2, 0) == await _trim(log, dlv=(last.ms, last.seq + 1))


async def test_the_config_stream_is_never_trimmed(log: client.Log) -> None:
    await log.command("XADD", log.keys.partitions[P].cfg, "1-0", "t", "tenant.created")
    for entry_id in await _opened(log, 1):
        await worlds.record(log, _task(entry_id), succeeded=True)
    assert trim.Trimmed(1, 1) == await _trim(log)
    assert ["1-0"] == await _ids(log, "cfg")


@pytest.mark.invariant("L5")
async def test_entries_added_are_those_trimmed_and_those_there(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L5, over many passes in pieces smaller than a pass."""
    monkeypatch.setattr(trim, "MOST", 150)
    monkeypatch.setattr(trim, "WALK", 70)
    gone = trim.Trimmed()
    added = 0
    for count in (1, 400, 30, 900):
        items = [worlds.item(f"e{n}", f"r{n}", matched=(D,)) for n in range(added, added + count)]
        answers = await worlds.append_items(log, *items)
        ids = [a.position.entry_id for a in answers if isinstance(a, append.Appended)]
        await read.as_group(log, "d0", 1000, block_ms=0, among=[P])
        await tasks.open_entries(log, {P: [_opening(entry_id) for entry_id in ids]}, 30_000)
        await tasks.record(log, {P: [worlds.recording(_task(i), succeeded=True) for i in ids]}, "w")
        added += count
        done = await _trim(log, evt=positions.entry_key(ids[count // 2]))
        gone = trim.Trimmed(gone.evt + done.evt, gone.dlv + done.dlv)
        for stream, trimmed in (("evt", gone.evt), ("dlv", gone.dlv)):
            info = await log.command("XINFO", "STREAM", log.keys.partitions[P].stream(stream))
            assert (added, trimmed) == (info["entries-added"], added - info["length"])
        assert gone.evt == added - count + count // 2 + 1
        assert gone.dlv == gone.evt


async def test_live_tasks_stay_in_due_when_their_events_go_and_through_a_lost_group(log: client.Log) -> None:
    ids = await _opened(log, 3)
    await worlds.record(log, _task(ids[0]), retry_in_ms=3_600_000)
    await worlds.record(log, _task(ids[1]), succeeded=True)
    before = await worlds.due(log)
    assert {_task(ids[0], 2), _task(ids[2])} == before.keys()
    assert trim.Trimmed(3, 2) == await _trim(log)
    assert before == await worlds.due(log)
    await log.command("XGROUP", "DESTROY", log.keys.partitions[P].evt, partitions.GROUP)
    assert 0 == await driver.mend_if_needed(log)
    assert before == await worlds.due(log)


async def test_a_lost_group_brings_nothing_back_that_was_closed_before_a_trim(log: client.Log) -> None:
    """The model's "group lost, trim": an attempt that went before its event would make a closed delivery live."""
    ids = await _opened(log, 4)
    for entry_id in ids[:3]:
        await worlds.record(log, _task(entry_id), succeeded=True)
    await _trim(log, evt=positions.entry_key(ids[0]))
    await log.command("XGROUP", "DESTROY", log.keys.partitions[P].evt, partitions.GROUP)
    assert 0 == await driver.mend_if_needed(log)
    assert [_task(ids[3])] == [*await worlds.due(log)]
    await log.command("DEL", log.keys.partitions[P].due)
    await log.command("XGROUP", "DESTROY", log.keys.partitions[P].evt, partitions.GROUP)
    assert 1 == await driver.mend_if_needed(log)
    assert [_task(ids[3])] == [*await worlds.due(log)]


async def test_of_a_trimmed_event_the_fold_knows_what_its_last_attempt_said(log: client.Log) -> None:
    ids = await _opened(log, 2)
    await worlds.record(log, _task(ids[0]), retry_in_ms=3_600_000)
    before = await worlds.due(log)
    assert trim.Trimmed(2, 0) == await _trim(log, dlv=(0, 1))
    await log.command("DEL", log.keys.partitions[P].due)
    await log.command("XGROUP", "DESTROY", log.keys.partitions[P].evt, partitions.GROUP)
    assert 1 == await driver.mend_if_needed(log)
    after = await worlds.due(log)
    assert [_task(ids[0], 2)] == [*after]  # the other one is known to `due` alone, and that was lost
    assert abs(before[_task(ids[0], 2)] - after[_task(ids[0], 2)]) <= 50


async def test_a_pass_that_ends_between_the_two_streams_is_gone_on_with(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await _opened(log, 3)
    for entry_id in ids[:2]:
        await worlds.record(log, _task(entry_id), succeeded=True)

    async def killed(*_: object) -> None:
        raise errors.StoreUnavailable("redis", "ConnectionResetError")

    with monkeypatch.context() as patch:
        patch.setattr(trim, "_first_needed", killed)
        with pytest.raises(errors.StoreUnavailable):
            await _trim(log)
    assert (0, 2) == (len(await _ids(log, "evt")), len(await _ids(log, "dlv")))
    await log.command("XGROUP", "DESTROY", log.keys.partitions[P].evt, partitions.GROUP)
    assert 0 == await driver.mend_if_needed(log)
    assert [_task(ids[2])] == [*await worlds.due(log)]
    assert trim.Trimmed(0, 2) == await _trim(log)


async def _nothing_read() -> Mapping[trim.Place, trim.EntryKey]:
    return {}


async def test_a_pass_goes_by_the_slowest_of_the_projections(log: client.Log) -> None:
    ids = await _opened(log, 3)

    async def reader_at(index: int) -> Mapping[trim.Place, trim.EntryKey]:
        return {("evt", P): positions.entry_key(ids[index])}

    readers = [lambda: reader_at(2), lambda: reader_at(0)]
    assert trim.Trimmed(1, 0) == await trim.Trimmer(log, readers, AT_ONCE).step()
    assert NOTHING == await trim.Trimmer(log, [*readers, _nothing_read], AT_ONCE).step()
    assert ids[1:] == await _ids(log, "evt")


async def test_one_process_trims_until_its_lease_ends_or_it_gives_it_back(log: client.Log) -> None:
    everybody = list(range(partitions.PARTITIONS))
    assert everybody == await leadership.take(log, "trim", "a", 60_000, everybody)
    assert everybody == await leadership.take(log, "trim", "a", 60_000, everybody)
    assert [] == await leadership.take(log, "trim", "b", 60_000, everybody)
    await leadership.give_back(log, "trim", "b", everybody)
    assert [] == await leadership.take(log, "trim", "b", 60_000, everybody)
    await leadership.give_back(log, "trim", "a", everybody)
    assert everybody == await leadership.take(log, "trim", "b", 1, everybody)
    while await log.command("EXISTS", log.keys.partitions[P].lease("trim")):
        await asyncio.sleep(0.002)
    assert everybody == await leadership.take(log, "trim", "a", 60_000, everybody)


async def test_a_pass_without_the_log_store_trims_nothing_and_says_which_store_is_away(log: client.Log) -> None:
    async def away() -> Mapping[trim.Place, trim.EntryKey]:
        raise errors.StoreUnavailable("postgres", "ConnectionRefusedError")

    await _opened(log, 1)
    stop = asyncio.Event()
    trimmer = trim.Trimmer(log, [away], 1)
    running = asyncio.create_task(trimmer.run(stop))
    while trimmer.health.healthy:
        await asyncio.sleep(0.002)
    assert trimmer.health.reason.startswith("postgres")
    stop.set()
    await asyncio.wait_for(running, 60)
    assert 1 == len(await _ids(log, "evt"))


async def test_a_server_without_memory_is_trimmed_all_the_same(log: client.Log, any_redis: RedisServer) -> None:
    """A lease cannot be written then; waiting for one would keep the memory used up for ever."""
    ids = await _opened(log, 5)

    async def projected() -> Mapping[trim.Place, trim.EntryKey]:
        return {("evt", P): positions.entry_key(ids[-1])}

    await log.command("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(errors.StoreFull):
            await worlds.publish(log, "refused", D)
        assert trim.Trimmed(5, 0) == await trim.Trimmer(log, [projected], AT_ONCE).step()
    finally:
        await log.command("CONFIG", "SET", "maxmemory", 0)


@pytest.mark.invariant("D2")
async def test_a_request_that_looked_before_a_trim_is_refused_and_makes_no_second_record(log: client.Log) -> None:
    [entry_id] = await _opened(log, 1)
    first = await worlds.record(log, _task(entry_id))
    assert first is not None
    look = requests.Delivery(worlds.TENANT, "e1", entry_id, "d", 1, last=1, closed=True, seen=first.entry_id)
    assert isinstance(await requests.request(log, "retry", look, "admin/q1"), requests.Requested)
    await worlds.show(log, worlds.destination())
    assert isinstance((await worlds.begin(log, _task(entry_id, 2)))[0], tasks.Begun)
    second = await worlds.record(log, _task(entry_id, 2))
    assert second is not None
    assert trim.Trimmed(1, 3) == await _trim(log)
    for what in ("retry", "cancel"):
        assert requests.Outdated() == await requests.request(log, what, look, f"admin/{what}")
    assert {} == await worlds.due(log)
    fresh = msgspec.structs.replace(look, last=2, seen=second.entry_id)
    assert isinstance(await requests.request(log, "retry", fresh, "admin/q2"), requests.Requested)
    assert [_task(entry_id, 3)] == [*await worlds.due(log)]


async def test_a_look_at_the_last_entry_that_was_trimmed_is_new_enough(log: client.Log) -> None:
    ids = await _opened(log, 2)
    first = await worlds.record(log, _task(ids[0]))
    assert first is not None
    assert trim.Trimmed(2, 1) == await _trim(log)
    await worlds.record(log, _task(ids[1]))
    look = requests.Delivery(worlds.TENANT, "e2", ids[1], "d", 1, last=0, closed=False, seen=first.entry_id)
    assert isinstance(await requests.request(log, "retry", look, "admin/q1"), requests.Requested)


async def test_a_trim_that_takes_nothing_moves_no_cut(log: client.Log) -> None:
    await _opened(log, 1)
    await _trim(log)
    assert 0 == await log.command("EXISTS", log.keys.partitions[P].cut)
