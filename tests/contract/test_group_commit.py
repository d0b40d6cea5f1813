"""Group commit: what waits while a flush is under way is the next flush, and every caller hears its own answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from outpost import errors
from outpost.log import append
from outpost.log import partition as partitions
from outpost.log.redis import client, connection, shapes
from tests.contract import worlds
from tests.harness.servers import RedisServer, eventually, free_port

P = worlds.P


@contextlib.asynccontextmanager
async def _running(log: client.Log) -> AsyncIterator[append.GroupCommit]:
    commit = append.GroupCommit(log, worlds.window())
    running = asyncio.create_task(commit.run())
    yield commit
    commit.close()
    await asyncio.wait_for(running, 60)


def _items(count: int, first: int = 0) -> list[append.Item]:
    return [worlds.item(f"e{n}", f"admin/r{n}") for n in range(first, first + count)]


async def _calls(log: client.Log) -> int:
    told = (await log.command("INFO", "commandstats"))["cmdstat_evalsha"]
    return int(dict(each.split("=") for each in told.split(","))["calls"])


async def test_what_comes_together_is_written_together_and_answered_in_its_order(log: client.Log) -> None:
    async with _running(log) as commit:
        await commit.append(P, worlds.item("first"))
        before = await _calls(log)
        answers = await asyncio.gather(*(commit.append(P, item) for item in _items(300)))
        assert before + 1 == await _calls(log)
    positions = [answer.position for answer in answers if isinstance(answer, append.Appended)]
    assert (300, sorted(positions)) == (len({*positions}), positions)
    ids = await log.command("XRANGE", log.keys.partitions[P].evt, "-", "+")
    assert [f"e{n}".encode() for n in range(300)] == [shapes.pairs(fields)[b"id"] for _, fields in ids][1:]


async def test_a_flush_is_bounded_and_nothing_is_left_behind(log: client.Log) -> None:
    count = 2 * append.MAX_FLUSH + 5
    async with _running(log) as commit:
        answers = await asyncio.gather(*(commit.append(P, item) for item in _items(count)))
    assert count == len({a.position for a in answers if isinstance(a, append.Appended)})


async def test_partitions_share_a_flush_and_answers_are_not_mixed_up(log: client.Log) -> None:
    tenants = [f"t{n}" for n in range(64)]
    async with _running(log) as commit:
        answers = await asyncio.gather(
            *(commit.append(partitions.partition_of(t), worlds.item(tenant=t)) for t in tenants)
        )
    expected = [partitions.partition_of(tenant) for tenant in tenants]
    assert expected == [answer.position.partition for answer in answers if isinstance(answer, append.Appended)]


async def test_each_of_a_flush_hears_its_own_outcome(log: client.Log) -> None:
    await worlds.append_items(log, worlds.item("e0", "admin/other"))
    async with _running(log) as commit:
        answers = await asyncio.gather(
            commit.append(P, worlds.item("e0")),
            commit.append(P, worlds.item("e1", expected=4)),
            commit.append(P, worlds.item("e2")),
        )
    assert [append.Duplicate, append.Stale, append.Appended] == [type(answer) for answer in answers]


async def test_a_small_event_does_not_wait_until_large_ones_are_written(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written, begun = append.append, asyncio.Event(), asyncio.Event()

    async def slow_where_large(log: client.Log, stream: Any, batches: Any, window: append.Window) -> Any:
        if any(item.payload_bytes >= append.LARGE_ITEM_BYTES for items in batches.values() for item in items):
            begun.set()
            await written.wait()
        return await real(log, stream, batches, window)

    monkeypatch.setattr(append, "append", slow_where_large)
    large = msgspec.structs.replace(worlds.item("large"), payload_bytes=append.LARGE_ITEM_BYTES)
    async with _running(log) as commit:
        waiting = commit.put(P, large)
        await asyncio.wait_for(begun.wait(), 60)
        small = await asyncio.wait_for(commit.append(P, worlds.item("small")), 60)
        assert (append.Appended, False) == (type(small), waiting.done())
        written.set()
        assert isinstance(await waiting, append.Appended)


async def test_a_large_call_has_a_connection_of_its_own(log: client.Log, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[object] = []
    send = connection._Connection.send

    def noted(self: Any, packed: bytes, count: int) -> Any:
        used.append(self)
        return send(self, packed, count)

    monkeypatch.setattr(connection._Connection, "send", noted)
    large = msgspec.structs.replace(worlds.item("large"), matched=b'"%s"' % (b"x" * client.LARGE_CALL_BYTES))
    for item in (worlds.item("first"), large, worlds.item("last")):
        await worlds.append_items(log, item)
    own = used[-2]
    assert (True, 2) == (used[-1] is not own, len({*used}))


async def test_a_caller_that_goes_away_takes_nobody_with_it(log: client.Log) -> None:
    async with _running(log) as commit:
        waiting = [asyncio.create_task(commit.append(P, item)) for item in _items(10)]
        await asyncio.sleep(0)
        waiting[3].cancel()
        done = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(done[3], asyncio.CancelledError)
    assert 9 == sum(isinstance(answer, append.Appended) for answer in done)


async def test_closing_flushes_what_waits_and_takes_no_more(log: client.Log) -> None:
    commit = append.GroupCommit(log, worlds.window())
    waiting = [asyncio.create_task(commit.append(P, item)) for item in _items(append.MAX_FLUSH + 1)]
    await asyncio.sleep(0)
    commit.close()
    with pytest.raises(errors.StoreUnavailable):
        await commit.append(P, worlds.item("late"))
    await asyncio.wait_for(commit.run(), 60)
    assert append.MAX_FLUSH + 1 == sum(isinstance(a, append.Appended) for a in await asyncio.gather(*waiting))


async def test_beyond_the_bound_publishers_are_told_to_come_again(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append, "MAX_WAITING", 3)
    commit = append.GroupCommit(log, worlds.window())
    waiting = [asyncio.create_task(commit.append(P, item)) for item in _items(3)]
    await asyncio.sleep(0)
    with pytest.raises(errors.StoreUnavailable):
        await commit.append(P, worlds.item("late"))
    commit.close()
    await commit.run()
    assert 3 == len(await asyncio.gather(*waiting))


async def test_everybody_in_a_failed_flush_hears_of_it_and_the_next_one_works(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append, "APPEND_LIMIT_S", 0.2)
    log = worlds.open_log(own_redis)
    async with _running(log) as commit:
        own_redis.kill9()
        done = await asyncio.gather(*(commit.append(P, item) for item in _items(20)), return_exceptions=True)
        assert [errors.StoreUnavailable] * 20 == [type(answer) for answer in done]
        own_redis.restart()
        answers = await asyncio.gather(*(commit.append(P, item) for item in _items(20)))
    assert 20 == len({a.position for a in answers if isinstance(a, append.Appended)})
    await log.close()


async def test_a_stall_is_waited_out_within_the_limit(own_redis: RedisServer) -> None:
    log = worlds.open_log(own_redis)
    async with _running(log) as commit:
        first = await commit.append(P, _items(1)[0])
        own_redis.pause()
        waiting = [asyncio.create_task(commit.append(P, item)) for item in _items(5)]
        await asyncio.sleep(0.3)  # the request is under way, the server stands still
        own_redis.resume()
        answers = await asyncio.gather(*waiting)
    assert first == answers[0]
    assert 5 == await log.command("XLEN", log.keys.partitions[P].evt)
    await log.close()


@pytest.mark.invariant("L2")
async def test_a_repetition_after_a_time_out_gets_the_answer_that_was_lost(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L2: the server took the request and stood still; the caller gave up, came again and wrote nothing twice."""
    monkeypatch.setattr(client, "COMMAND_TIMEOUT_S", 0.3)
    monkeypatch.setattr(append, "APPEND_LIMIT_S", 0.2)
    log = worlds.open_log(own_redis)
    await worlds.append_items(log, worlds.item("warm", "admin/warm"))
    own_redis.pause()
    with pytest.raises(errors.StoreUnavailable):
        await worlds.append_items(log, *_items(3))
    own_redis.resume()
    key = log.keys.partitions[P].evt

    async def written() -> bool:
        return 4 == await log.command("XLEN", key)

    await eventually(written)  # what was sent is run, though nobody waits for it any more
    answers = await worlds.append_items(log, *_items(3))
    ids = [entry_id.decode() for entry_id, _ in await log.command("XRANGE", key, "-", "+")]
    assert ids[1:] == [a.position.entry_id for a in answers if isinstance(a, append.Appended)]
    await log.close()


async def test_an_append_goes_on_trying_while_the_server_starts_again(own_redis: RedisServer) -> None:
    log = worlds.open_log(own_redis)
    await worlds.append_items(log, worlds.item("e0", "admin/r0"))
    own_redis.kill9()
    waiting = asyncio.create_task(worlds.append_items(log, worlds.item("e1", "admin/r1")))
    await asyncio.sleep(0.1)
    own_redis.restart()
    [answer] = await waiting
    assert isinstance(answer, append.Appended)
    assert 2 == await log.command("XLEN", log.keys.partitions[P].evt)
    await log.close()


async def test_however_many_wait_for_a_store_that_is_away_they_hear_so_with_the_second_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Smaller parts after a failure are for batches that are too large; nobody waits for his turn of one."""
    tried: list[int] = []
    under_way, go_on = asyncio.Event(), asyncio.Event()

    async def in_vain(_log: object, _stream: str, batches: dict[int, list[append.Item]], _window: object) -> None:
        tried.append(sum(map(len, batches.values())))
        under_way.set()
        await go_on.wait()
        raise errors.StoreUnavailable("redis", "away")

    monkeypatch.setattr(append, "append", in_vain)
    monkeypatch.setattr(append, "APPEND_LIMIT_S", 0.0)  # each try takes as long as it may
    log = client.open_log(client.RedisAddress("127.0.0.1", free_port()))
    async with _running(log) as commit:
        first = commit.put(P, worlds.item("first"))
        await under_way.wait()
        behind = [commit.put(P, item) for item in _items(50)]
        go_on.set()
        done = await asyncio.wait_for(asyncio.gather(first, *behind, return_exceptions=True), 60)
    assert [errors.StoreUnavailable] * 51 == [type(answer) for answer in done]
    assert [1, 1] == tried
    await log.close()


async def test_when_its_task_is_cancelled_nobody_waits_for_ever() -> None:
    log = client.open_log(client.RedisAddress("127.0.0.1", free_port()))
    commit = append.GroupCommit(log, worlds.window())
    running = asyncio.create_task(commit.run())
    waiting = [asyncio.create_task(commit.append(P, item)) for item in _items(append.MAX_FLUSH + 10)]
    await asyncio.sleep(0.05)
    running.cancel()
    done = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 60)
    assert {errors.StoreUnavailable} == {type(answer) for answer in done}
    with pytest.raises(errors.StoreUnavailable):
        await commit.append(P, worlds.item("late"))
    await asyncio.wait([running])
    await log.close()
