"""Reading streams: what comes back has one shape, whatever the server and the command."""

from __future__ import annotations

import asyncio
import time

import pytest

from outpost import errors
from outpost.domain import events
from outpost.log import envelope, read
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.redis import client
from tests.contract import worlds

P = worlds.P
OTHER = (P + 1) % partitions.PARTITIONS
D = events.Matched("d", 1)


def _ids(found: list[read.Read]) -> list[str]:
    return [item.position.entry_id for item in found]


async def _publish(log: client.Log, *event_ids: str) -> list[str]:
    return [await worlds.publish(log, event_id, D) for event_id in event_ids]


async def test_what_is_read_is_a_position_and_fields_as_bytes(log: client.Log) -> None:
    [entry_id] = await _publish(log, "e1")
    [found] = await read.after(log, {("evt", P): "0-0"}, 10)
    assert positions.of_entry("evt", P, entry_id) == found.position
    assert [name.encode() for name in envelope.EVT_FIELDS] == [*found.fields]
    event = envelope.decode("evt", str(found.position), found.fields)
    assert isinstance(event, events.Event)
    assert ("e1", b'{"a":1}') == (event.id, event.data)


async def test_every_reader_sees_the_same_entry(log: client.Log) -> None:
    await worlds.regroup(log)
    await _publish(log, "e1")
    expected = await read.between(log, "evt", P)
    assert expected == await read.after(log, {("evt", P): "0-0"}, 10)
    assert expected == await read.as_group(log, "d0", 10, block_ms=0)
    assert expected == await read.as_group(log, "d0", 10, start="0-0")
    assert expected == (await read.claim_idle(log, P, "d1", 0, 10))[1]
    assert expected == await read.exactly(log, [expected[0].position])


async def test_bytes_that_are_no_text_come_back_as_they_are(log: client.Log) -> None:
    await log.command("XADD", log.keys.partitions[P].evt, "*", b"\xff\x00", b"\r\n$5\r\n", "empty", b"")
    [found] = await read.after(log, {("evt", P): "0-0"}, 10)
    assert {b"\xff\x00": b"\r\n$5\r\n", b"empty": b""} == found.fields


async def test_reading_goes_on_behind_where_it_was_and_takes_at_most_so_many_of_each(log: client.Log) -> None:
    ids = await _publish(log, "e1", "e2", "e3")
    assert ids[:2] == _ids(await read.after(log, {("evt", P): "0-0"}, 2))
    assert ids[2:] == _ids(await read.after(log, {("evt", P): ids[1]}, 2))
    assert [] == await read.after(log, {("evt", P): ids[2]}, 2)


async def test_many_streams_are_read_at_once_and_each_entry_names_its_own(log: client.Log) -> None:
    await _publish(log, "e1")
    for p in (P, OTHER):
        await log.command("XADD", log.keys.partitions[p].cfg, "7-0", "t", "x")
    starts = {(stream, p): "0-0" for stream in partitions.STREAMS for p in (P, OTHER)}
    found = await read.after(log, starts, 10)
    assert {("evt", P), ("cfg", P), ("cfg", OTHER)} == {(i.position.stream, i.position.partition) for i in found}


async def test_a_blocking_read_waits_for_an_entry_and_no_longer_than_it_may(log: client.Log) -> None:
    begun = time.monotonic()
    assert [] == await read.after(log, {("evt", P): "$"}, 10, block_ms=100)
    assert 0.09 <= time.monotonic() - begun
    reading = asyncio.create_task(read.after(log, {("evt", P): "0-0"}, 10, block_ms=5_000))
    while not (await log.command("INFO", "clients"))["blocked_clients"]:
        await asyncio.sleep(0.01)
    ids = await _publish(log, "e1")
    assert ids == _ids(await asyncio.wait_for(reading, 60))


async def test_a_blocking_read_does_not_hold_up_commands(log: client.Log) -> None:
    await worlds.regroup(log)
    reading = asyncio.create_task(read.as_group(log, "d0", 10))
    while not (await log.command("INFO", "clients"))["blocked_clients"]:
        await asyncio.sleep(0.01)
    assert await log.command("PING")
    assert not reading.done()
    await _publish(log, "e1")
    assert 1 == len(await reading)


async def test_a_cancelled_read_leaves_the_next_one_its_own_answer(log: client.Log) -> None:
    for n in range(5):
        reading = asyncio.create_task(read.after(log, {("evt", P): "0-0"}, 10, block_ms=1_000))
        await asyncio.sleep(0)
        if n % 2:
            while not (await log.command("INFO", "clients"))["blocked_clients"]:
                await asyncio.sleep(0.01)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    ids = await _publish(log, "e1")
    assert [] == await read.after(log, {("cfg", P): "0-0"}, 10)
    assert ids == _ids(await read.after(log, {("evt", P): "0-0"}, 10))


async def test_the_group_gives_each_entry_once_and_a_consumer_its_own_pending_again(log: client.Log) -> None:
    await worlds.regroup(log)
    ids = await _publish(log, "e1", "e2", "e3")
    assert ids[:2] == _ids(await read.as_group(log, "d0", 2, block_ms=0))
    assert ids[2:] == _ids(await read.as_group(log, "d1", 2, block_ms=0))
    assert [] == await read.as_group(log, "d0", 2, block_ms=0)
    assert ids[:2] == _ids(await read.as_group(log, "d0", 10, start="0-0"))
    assert ids[1:2] == _ids(await read.as_group(log, "d0", 10, start=ids[0], among=[P]))
    assert ids[2:] == _ids(await read.as_group(log, "d1", 10, start="0-0"))


async def test_the_group_is_read_in_the_partitions_that_are_asked_for(log: client.Log) -> None:
    await worlds.regroup(log)
    await _publish(log, "e1")
    assert [] == await read.as_group(log, "d0", 10, block_ms=0, among=[OTHER])
    assert 1 == len(await read.as_group(log, "d0", 10, block_ms=0, among=[OTHER, P]))


async def test_a_pending_entry_that_was_deleted_is_left_out_and_leaves_the_pending_list(log: client.Log) -> None:
    await worlds.regroup(log)
    ids = await _publish(log, "e1", "e2")
    await read.as_group(log, "d0", 10, block_ms=0)
    await log.command("XDEL", log.keys.partitions[P].evt, ids[0])
    assert ids[1:] == _ids(await read.as_group(log, "d0", 10, start="0-0"))
    assert ("0-0", ids[1:]) == await _claimed(log)
    assert 1 == (await log.command("XPENDING", log.keys.partitions[P].evt, partitions.GROUP))[0]


async def _claimed(
    log: client.Log, start: str = "0-0", count: int = 10, idle_ms: int = 0
) -> tuple[str, list[str]]:
    following, found = await read.claim_idle(log, P, "d1", idle_ms, count, start)
    return following, _ids(found)


async def test_pending_entries_that_lay_idle_are_claimed_page_by_page(log: client.Log) -> None:
    await worlds.regroup(log)
    ids = await _publish(log, "e1", "e2", "e3")
    await read.as_group(log, "d0", 10, block_ms=0)
    assert ("0-0", []) == await _claimed(log, idle_ms=60_000)
    assert (ids[2], ids[:2]) == await _claimed(log, count=2)
    assert ("0-0", ids[2:]) == await _claimed(log, ids[2], count=2)
    assert ids == _ids(await read.as_group(log, "d1", 10, start="0-0"))
    assert [] == await read.as_group(log, "d0", 10, start="0-0")


async def test_a_range_takes_its_bounds_as_the_server_does(log: client.Log) -> None:
    ids = await _publish(log, "e1", "e2", "e3")
    assert ids == _ids(await read.between(log, "evt", P))
    assert ids[1:] == _ids(await read.between(log, "evt", P, f"({ids[0]}"))
    assert ids[:2] == _ids(await read.between(log, "evt", P, "-", ids[1]))
    assert ids[:1] == _ids(await read.between(log, "evt", P, count=1))
    assert [] == await read.between(log, "cfg", P)


async def test_exact_positions_are_answered_in_their_order_with_none_for_a_gap(log: client.Log) -> None:
    ids = await _publish(log, "e1", "e2")
    await log.command("XADD", log.keys.partitions[OTHER].dlv, ids[0], "t", "another")
    wanted = [
        positions.of_entry("evt", P, ids[1]),
        positions.of_entry("evt", OTHER, ids[0]),
        positions.of_entry("dlv", OTHER, ids[0]),
        positions.of_entry("evt", P, ids[0]),
        positions.of_entry("evt", P, "1-1"),
    ]
    found = await read.exactly(log, wanted)
    expected = [wanted[0], None, wanted[2], wanted[3], None]
    assert expected == [item.position if item else None for item in found]
    assert [] == await read.exactly(log, [])


async def test_heads_are_the_last_ids_ever_given_trimmed_or_not(log: client.Log) -> None:
    ids = await _publish(log, "e1", "e2")
    key = log.keys.partitions[P].evt
    await log.command("XTRIM", key, "MAXLEN", 0)
    found = await read.heads(log, [("evt", P), ("cfg", P), ("dlv", OTHER)])
    expected = [positions.of_entry("evt", P, ids[1]), (*("cfg", P), 0, 0), (*("dlv", OTHER), 0, 0)]
    assert expected == [tuple(head) if head.ms == 0 else head for head in found]


async def test_a_head_of_a_key_that_is_no_stream_is_an_error_and_not_an_empty_stream(log: client.Log) -> None:
    await log.command("SET", log.keys.partitions[P].evt, "x")
    with pytest.raises(errors.StoreUnavailable):
        await read.heads(log, [("evt", P)])


def test_what_is_said_of_an_undecodable_entry_is_its_place_and_the_rule() -> None:
    item = read.Read(positions.Position("evt", 3, 5, 0), {b"d": b"secret"})
    problem = errors.UndecodableEntry(str(item.position), "v", "is missing")
    expected = {"position": "evt.03.5-0", "field": "v", "rule": "is missing"}
    assert expected == read.undecodable(item, problem)
