"""`regroup` and `mend`, and the fold that drives them: `due` made whole after the group was lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from outpost import errors
from outpost.dispatch import dispatcher
from outpost.dispatch.fairness import lanes
from outpost.domain import delivery, events
from outpost.log import append, read
from outpost.log import partition as partitions
from outpost.log.delivery import repair, tasks
from outpost.log.redis import client
from outpost.queue import inprocess
from projections.due import repair as driver
from tests.contract import worlds
from tests.harness.polling import eventually

P = worlds.P
ONE = "1/5-0/d@1"
D = events.Matched("d", 1)


async def _mark(log: client.Log, mark: str = "5-0") -> None:
    await log.command("SET", log.keys.partitions[P].mend, mark)


async def _is_marked(log: client.Log) -> bool:
    return bool(await log.command("EXISTS", log.keys.partitions[P].mend))


async def _lose_the_group(log: client.Log) -> None:
    await log.command("XGROUP", "DESTROY", log.keys.partitions[P].evt, partitions.GROUP)


async def _mend(
    log: client.Log, *missing: repair.Missing, mark: str = "5-0", seen: str = "0-0", last: bool = True
) -> int | str | None:
    return await repair.mend(log, P, mark, seen, missing, last=last)


async def test_a_first_start_makes_every_group_and_has_nothing_to_mend(log: client.Log) -> None:
    marks = await repair.regroup(log)
    assert dict.fromkeys(range(partitions.PARTITIONS), "0-0") == {p: repair.head_of(m) for p, m in marks.items()}
    assert 0 == await driver.mend_if_needed(log)
    assert {} == await repair.regroup(log)


async def test_a_group_is_made_at_the_head_and_reads_what_comes_after(log: client.Log) -> None:
    before = await worlds.publish(log, "e1", D)
    assert before == repair.head_of((await repair.regroup(log))[P])
    after = await worlds.publish(log, "e2", D)
    found = await read.as_group(log, "d0", 10, block_ms=0)
    assert [after] == [item.position.entry_id for item in found]


async def test_a_group_that_is_there_is_left_alone_and_its_mark_told_until_it_is_mended(log: client.Log) -> None:
    marks = await repair.regroup(log, [P])
    assert marks == await repair.regroup(log, [P])
    await _mend(log, mark=marks[P])
    await worlds.publish(log, "e1", D)
    assert {} == await repair.regroup(log, [P])
    assert 1 == len(await read.as_group(log, "d0", 10, block_ms=0, among=[P]))


async def test_another_group_on_the_stream_is_not_taken_for_the_dispatcher_s(log: client.Log) -> None:
    await log.command("XGROUP", "CREATE", log.keys.partitions[P].evt, "other", "$", "MKSTREAM")
    assert "0-0" == repair.head_of((await repair.regroup(log, [P]))[P])


async def test_mending_adds_with_the_wish_and_at_the_time_that_the_log_says(
    log: client.Log, clock: worlds.Clock
) -> None:
    await clock.set(worlds.NOW)
    await _mark(log)
    late = worlds.NOW + 60_000
    missing = (
        repair.Missing(ONE),
        repair.Missing("2/5-0/e@1", "r", 5),
        repair.Missing("3/5-0/a/b@c@1", "c"),
        repair.Missing("4/5-0/f@1", "", late),
    )
    assert 4 == await _mend(log, *missing)
    now = float(worlds.NOW)
    scores = {ONE: now, "2/5-0/e@1": now, "3/5-0/a/b@c@1": now, "4/5-0/f@1": float(late)}
    assert scores == await worlds.due(log)
    assert {"2/5-0/e@1": "r", "3/5-0/a/b@c@1": "c"} == await worlds.wants(log)


async def test_mending_never_changes_what_is_there(log: client.Log) -> None:
    await _mark(log)
    await worlds.make_due(log, a1=worlds.NOW + 0.5)
    assert 0 == await _mend(log, repair.Missing(ONE, "r"))
    assert ({ONE: worlds.NOW + 0.5}, {}) == (await worlds.due(log), await worlds.wants(log))


async def test_a_delivery_that_moved_on_after_the_fold_is_left_out(log: client.Log) -> None:
    await _mark(log)
    await worlds.make_due(log, a1=1, b1=1)
    seen = await worlds.record(log, "1/5-0/b@1")
    assert seen is not None
    await worlds.record(log, ONE)
    missing = (repair.Missing(ONE), repair.Missing("2/5-0/d@1"), repair.Missing("2/5-0/b@1"))
    assert 1 == await _mend(log, *missing, seen=seen.entry_id)
    assert ["2/5-0/b@1"] == [*await worlds.due(log)]


async def test_only_the_last_piece_takes_the_mark_away(log: client.Log) -> None:
    await _mark(log)
    assert 1 == await _mend(log, repair.Missing(ONE), last=False)
    assert await _is_marked(log)
    assert 0 == await _mend(log, last=True)
    assert not await _is_marked(log)


@pytest.mark.parametrize("mark", ["", "6-0"])
async def test_a_fold_for_another_mark_adds_nothing(log: client.Log, mark: str) -> None:
    if mark:
        await _mark(log, mark)
    assert await _mend(log, repair.Missing(ONE), mark="5-0") is None
    assert ({}, bool(mark)) == (await worlds.due(log), await _is_marked(log))


async def test_a_lost_group_is_told_from_a_store_that_is_away(log: client.Log) -> None:
    await worlds.regroup(log)
    await worlds.publish(log, "e1", D)
    await _lose_the_group(log)
    with pytest.raises(errors.GroupMissing):
        await read.as_group(log, "d0", 10, block_ms=0)
    with pytest.raises(errors.GroupMissing):
        await read.as_group(log, "d0", 10, start="0-0")
    with pytest.raises(errors.GroupMissing):
        await read.claim_idle(log, P, "d0", 0, 10)


async def test_a_group_that_is_lost_under_a_blocked_reader_is_told_too(log: client.Log) -> None:
    await worlds.regroup(log)
    reading = asyncio.create_task(read.as_group(log, "d0", 10))
    while not (await log.command("INFO", "clients"))["blocked_clients"]:
        await asyncio.sleep(0.01)
    await _lose_the_group(log)
    with pytest.raises(errors.GroupMissing):
        await reading


async def _history(log: client.Log) -> dict[str, str]:
    """Deliveries in every state; returns what lives as task -> wish."""
    await worlds.regroup(log)
    names = ("fresh", "opened", "failed", "done", "closed", "manual", "asked", "cancelling")
    ids = {name: await worlds.publish(log, name, D) for name in names}
    keys = log.keys.partitions[P]
    found = await read.as_group(log, "d0", 100, block_ms=0)
    opened = [
        tasks.Opening(item.position.entry_id, (f"1/{item.position.entry_id}/d@1",))
        for item in found
        if item.position.entry_id != ids["fresh"]
    ]
    await tasks.open_entries(log, {P: opened}, 30_000)
    task = {name: f"1/{entry_id}/d@1" for name, entry_id in ids.items()}
    await worlds.record(log, task["failed"], retry_in_ms=3_600_000)
    await worlds.record(log, task["done"], succeeded=True)
    await worlds.show(log)
    await worlds.begin(log, task["closed"])
    await log.command("HSET", keys.want, task["manual"], "r")
    await worlds.record(log, task["manual"], succeeded=True)
    for name, kind in (("asked", "retry.requested"), ("cancelling", "cancel.requested")):
        entry = ("t", kind, "v", 1, "ten", worlds.TENANT, "id", name, "ref", task[name], "by", "a", "d", "")
        await log.command("XADD", keys.dlv, "*", *entry)
        await log.command("HSET", keys.want, task[name], kind[0])
    second = {name: f"2/{ids[name]}/d@1" for name in ("failed", "manual")}
    return {
        task["fresh"]: "",
        task["opened"]: "",
        second["failed"]: "",
        second["manual"]: "r",
        task["asked"]: "r",
        task["cancelling"]: "c",
    }


@pytest.mark.invariant("D3")
async def test_due_is_made_again_from_nothing_as_it_was(log: client.Log) -> None:
    """D3, the repair side: what `due` and the pending list held is what the fold adds."""
    lives = await _history(log)
    before, wants = await worlds.due(log), await worlds.wants(log)
    keys = log.keys.partitions[P]
    await log.command("DEL", keys.due, keys.want)
    await _lose_the_group(log)
    assert len(lives) == await driver.mend_if_needed(log)
    assert lives.keys() == (await worlds.due(log)).keys()
    assert {task: want for task, want in lives.items() if want} == await worlds.wants(log) == wants
    failed = next(task for task in before if task.startswith("2/") and not lives[task])
    assert abs(before[failed] - (await worlds.due(log))[failed]) <= 50  # a retry keeps its time
    assert not await _is_marked(log)


async def test_what_is_in_due_already_is_not_touched_by_a_repair(log: client.Log) -> None:
    lives = await _history(log)
    before = await worlds.due(log)
    await _lose_the_group(log)
    assert 1 == await driver.mend_if_needed(log)  # the fresh one, which was pending only
    after = await worlds.due(log)
    assert lives.keys() == after.keys()
    assert before == {task: score for task, score in after.items() if task in before}


async def test_events_behind_the_mark_are_left_to_the_group(log: client.Log) -> None:
    await worlds.publish(log, "e1", D)
    marks = await repair.regroup(log)
    later = await worlds.publish(log, "e2", D)
    found = await read.as_group(log, "d0", 10, block_ms=0)
    await tasks.open_entries(log, {P: [tasks.Opening(later, (f"1/{later}/d@1",))]}, 30_000)
    await worlds.record(log, f"1/{later}/d@1", succeeded=True)
    assert [later] == [item.position.entry_id for item in found]
    assert 1 == await driver.mend_if_needed(log)
    assert [f"1/{repair.head_of(marks[P])}/d@1"] == [*await worlds.due(log)]


async def test_two_repairers_at_once_add_each_task_once(log: client.Log) -> None:
    lives = await _history(log)
    keys = log.keys.partitions[P]
    await log.command("DEL", keys.due, keys.want)
    await _lose_the_group(log)
    added = await asyncio.gather(*(driver.mend_if_needed(log) for _ in range(4)))
    assert len(lives) == sum(added)
    assert lives.keys() == (await worlds.due(log)).keys()


async def test_many_tasks_are_mended_in_pieces_and_pages(log: client.Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "READ", 7)
    monkeypatch.setattr(driver, "CHUNK", 5)
    items = [worlds.item(f"e{n}", f"admin/r{n}", matched=(D, events.Matched("e", 1))) for n in range(40)]
    answers = await worlds.append_items(log, *items)
    assert 80 == await driver.mend_if_needed(log)
    ids = [answer.position.entry_id for answer in answers if isinstance(answer, append.Appended)]
    expected = {str(delivery.TaskId(1, entry_id, id_, 1)) for entry_id in ids for id_ in "de"}
    assert expected == {*await worlds.due(log)}
    for task in sorted(expected)[:50]:
        await worlds.record(log, task, succeeded=True)
    await log.command("DEL", log.keys.partitions[P].due)
    await _lose_the_group(log)
    assert 30 == await driver.mend_if_needed(log)


async def test_the_repair_of_one_loss_does_not_finish_that_of_another_at_the_same_head(log: client.Log) -> None:
    """An operator destroys the group again, and `due` with it, while the first loss is repaired in pieces."""
    entry_id = await worlds.publish(log, "e1", D)
    first = (await repair.regroup(log, [P]))[P]
    task = repair.Missing(f"1/{entry_id}/d@1")
    assert 1 == await _mend(log, task, mark=first, last=False)
    await log.command("DEL", log.keys.partitions[P].due)
    await _lose_the_group(log)
    second = (await repair.regroup(log, [P]))[P]
    assert repair.head_of(first) == repair.head_of(second)
    assert await _mend(log, mark=first) is None
    assert await _is_marked(log)
    assert 1 == await driver.mend_if_needed(log)
    assert [task.task] == [*await worlds.due(log)]


async def test_a_piece_reads_a_page_of_attempts_and_no_more(log: client.Log) -> None:
    await _mark(log)
    dlv = log.keys.partitions[P].dlv
    for n in range(repair.PAGE):
        await log.command("XADD", dlv, "*", "ref", f"1/7-{n}/d@1")
    assert "more" == await _mend(log, repair.Missing(ONE), last=False)
    assert {} == await worlds.due(log)
    [first, *_] = await log.command("XRANGE", dlv, "-", "+", "COUNT", 1)
    assert 1 == await _mend(log, repair.Missing(ONE), seen=first[0].decode(), last=False)


async def test_a_piece_reads_large_answers_a_few_at_a_time(log: client.Log) -> None:
    """What Lua holds at once is bounded, however large the recorded answers are."""
    await _mark(log)
    await worlds.record_large_answers(log)
    await log.command("SCRIPT", "FLUSH")
    assert 1 == await _mend(log, repair.Missing(ONE), last=False)
    assert await worlds.lua_bytes(log) < worlds.LARGE_ANSWERS * worlds.LARGE_ANSWER_BYTES / 2


async def test_a_repair_reads_on_where_attempts_are_made_meanwhile(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each entry of `dlv` is read once, however many pieces there are, and what moved on meanwhile is left out."""
    monkeypatch.setattr(repair, "PAGE", 4)
    monkeypatch.setattr(driver, "CHUNK", 5)
    await worlds.append_items(log, *(worlds.item(f"e{n}", f"admin/r{n}", matched=(D,)) for n in range(40)))
    assert 40 == await driver.mend_if_needed(log)
    lives = sorted(await worlds.due(log))
    await _lose_the_group(log)
    seen: list[str] = []
    real_mend, real_between = repair.mend, read.between

    async def busy(*args: Any, **kwargs: Any) -> Any:
        """Before every piece three attempts are recorded, of deliveries that stand in the last pieces."""
        for _ in range(3):
            if len(lives) > 10:
                await worlds.record(log, lives.pop(), succeeded=True)
        return await real_mend(*args, **kwargs)

    async def counted(log: client.Log, stream: Any, *args: Any) -> list[read.Read]:
        found = await real_between(log, stream, *args)
        seen.extend(str(item.position) for item in found if stream == "dlv")
        return found

    monkeypatch.setattr(repair, "mend", busy)
    monkeypatch.setattr(read, "between", counted)
    await driver.mend_if_needed(log)
    assert lives == sorted(await worlds.due(log))
    assert not await _is_marked(log)
    assert len({*seen}) == len(seen)


async def test_what_a_repairer_left_that_died_alone_is_finished_by_whoever_lives(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "SWEEP_EVERY_S", 0.05)
    among = lanes.Lanes(10)
    made = dispatcher.Dispatcher(log, inprocess.InProcessQueue(among), among, 60_000, "h")
    await made.step(1)
    stop = asyncio.Event()
    running = asyncio.create_task(made.run(stop))
    entry_id = await worlds.publish(log, "e1", D)
    await eventually(lambda: 1 == len(among))
    await log.command("DEL", log.keys.partitions[P].due)
    await _mark(log, f"{entry_id} whoever-died")  # it had made the group again

    async def whole() -> bool:
        return not await _is_marked(log)

    await eventually(whole)
    assert [f"1/{entry_id}/d@1"] == [*await worlds.due(log)]
    stop.set()
    await running


async def test_entries_that_do_not_decode_ask_for_nothing(log: client.Log) -> None:
    keys = log.keys.partitions[P]
    await log.command("XADD", keys.evt, "*", "t", "event.accepted", "v", 1)
    await log.command("XADD", keys.dlv, "*", "nonsense", "1")
    await worlds.publish(log, "e1", D)
    assert 1 == await driver.mend_if_needed(log)
