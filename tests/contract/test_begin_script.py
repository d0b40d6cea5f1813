"""`begin`: leases a task, or says why it must not be sent; each reason in its turn."""

from __future__ import annotations

import types

import msgspec
import pytest

from outpost import errors
from outpost.commands import actor as actors
from outpost.commands import tenants as tenant_commands
from outpost.commands import writer
from outpost.domain import delivery, events
from outpost.domain import tenant as tenants
from outpost.log import append
from outpost.log import partition as partitions
from outpost.log.delivery import tasks
from outpost.log.operator import skip
from outpost.log.redis import client
from projections.config import apply, catch_up
from tests.contract import worlds

TASK = "1/5-0/d@1"
LEASE_MS = 10_000


@pytest.fixture(autouse=True)
async def world(log: client.Log, clock: worlds.Clock) -> None:
    """One task that may begin: its destination is enabled and current."""
    await clock.set(worlds.NOW)
    await worlds.show(log, worlds.destination())
    await worlds.make_due(log, a1=worlds.NOW)


async def _want(log: client.Log, letters: str) -> None:
    await log.command("HSET", log.keys.partitions[worlds.P].want, TASK, letters)


async def _begin(log: client.Log, **changes: int) -> tasks.BeginAnswer:
    return (await worlds.begin(log, TASK, lease_ms=LEASE_MS, **changes))[0]


async def _score(log: client.Log) -> float | None:
    return (await worlds.due(log)).get(TASK)


async def test_a_begun_task_is_leased_until_the_half_ms_that_tells_it_from_the_others(log: client.Log) -> None:
    assert isinstance(await _begin(log), tasks.Begun)
    assert worlds.NOW + LEASE_MS + 0.5 == await _score(log)


@pytest.mark.invariant("D4")
async def test_a_task_that_is_not_in_due_is_gone_whatever_else_holds(log: client.Log) -> None:
    await log.command("DEL", log.keys.partitions[worlds.P].due)
    await _want(log, "c")
    assert tasks.Dropped("gone") == await _begin(log)
    assert {} == await worlds.due(log)


@pytest.mark.invariant("D9")
async def test_a_valid_lease_comes_before_every_other_reason(log: client.Log, clock: worlds.Clock) -> None:
    await _begin(log)
    await _want(log, "c")
    await log.command("SET", log.keys.partitions[worlds.P].gen, 2)
    await clock.advance(LEASE_MS)
    assert tasks.Dropped("leased") == await _begin(log)
    assert [] == await worlds.entries(log, "dlv")


async def test_a_lease_that_ended_is_another_s_to_take(log: client.Log, clock: worlds.Clock) -> None:
    await _begin(log)
    await clock.advance(LEASE_MS + 1)
    assert isinstance(await _begin(log), tasks.Begun)
    assert worlds.NOW + LEASE_MS + 1 + LEASE_MS + 0.5 == await _score(log)


@pytest.mark.parametrize("score", [worlds.NOW - 5, worlds.NOW, worlds.NOW + 30_000])
async def test_a_whole_score_is_no_lease_wherever_it_lies(log: client.Log, score: int) -> None:
    await worlds.make_due(log, a1=score)
    assert isinstance(await _begin(log), tasks.Begun)


async def test_another_generation_is_named_and_changes_nothing(log: client.Log) -> None:
    await log.command("SET", log.keys.partitions[worlds.P].gen, 3)
    await _want(log, "c")
    await worlds.show(log, version=0)
    assert tasks.TryAgain(3) == await _begin(log)
    assert (worlds.NOW, []) == (await _score(log), await worlds.entries(log, "dlv"))


async def test_a_read_model_behind_the_event_comes_before_a_wish_and_changes_nothing(log: client.Log) -> None:
    await _want(log, "c")
    assert tasks.TryAgain(None) == await _begin(log, matched_version=2)
    assert (worlds.NOW, []) == (await _score(log), await worlds.entries(log, "dlv"))


async def test_a_read_model_without_the_tenant_is_behind_every_event(log: client.Log) -> None:
    await log.command("DEL", log.keys.partitions[worlds.P].tenant(1, worlds.TENANT))
    assert tasks.TryAgain(None) == await _begin(log)


@pytest.mark.parametrize("letters", ["c", "mc"])
async def test_a_cancelled_task_is_closed_before_its_destination_is_looked_at(
    log: client.Log, letters: str
) -> None:
    await _want(log, letters)
    await worlds.show(log)
    assert tasks.Dropped("cancelled") == await _begin(log)
    closed = events.DeliveryEntry(
        "delivery.cancelled", worlds.TENANT, "e1", delivery.TaskId(1, "5-0", "d", 1), "d0/proc"
    )
    assert [closed] == await worlds.entries(log, "dlv")
    assert ({}, {}) == (await worlds.due(log), await worlds.wants(log))


@pytest.mark.behaviour(95)
@pytest.mark.parametrize(
    "destinations",
    [
        pytest.param([], id="gone"),
        pytest.param([worlds.destination(enabled=False)], id="disabled"),
        pytest.param([worlds.destination(created=2)], id="of another creation"),
        pytest.param([worlds.destination("d2")], id="another"),
    ],
)
@pytest.mark.invariant("D5", "D8")
async def test_a_destination_that_is_not_there_any_more_is_skipped_for_good(
    log: client.Log, destinations: list[object]
) -> None:
    """D5 and D8."""
    await worlds.show(log, *destinations)
    await _want(log, "r")
    assert tasks.Dropped("skipped") == await _begin(log)
    [closed] = await worlds.entries(log, "dlv")
    assert isinstance(closed, events.DeliveryEntry)
    assert ("delivery.skipped", TASK, None) == (closed.type, str(closed.task), closed.detail)
    assert ({}, {}) == (await worlds.due(log), await worlds.wants(log))


async def test_an_attempt_that_was_asked_for_begins_as_a_manual_one_and_stays_one(
    log: client.Log, clock: worlds.Clock
) -> None:
    await _want(log, "r")
    begun = await _begin(log)
    assert isinstance(begun, tasks.Begun)
    assert (True, {TASK: "m"}) == (begun.manual, await worlds.wants(log))
    await clock.advance(LEASE_MS + 1)  # its process died; the next one begins the same manual attempt
    again = await _begin(log)
    assert isinstance(again, tasks.Begun)
    assert (True, {TASK: "m"}) == (again.manual, await worlds.wants(log))


@pytest.mark.behaviour(98)
async def test_one_of_two_requests_is_this_attempt_and_the_other_waits_for_the_next(
    log: client.Log, clock: worlds.Clock
) -> None:
    await _want(log, "rr")
    for _ in range(2):  # its process dies in between
        begun = await _begin(log)
        assert isinstance(begun, tasks.Begun)
        assert (True, {TASK: "mr"}) == (begun.manual, await worlds.wants(log))
        await clock.advance(LEASE_MS + 1)


async def test_an_ordinary_attempt_is_not_manual_and_leaves_no_wish(log: client.Log) -> None:
    begun = await _begin(log)
    assert isinstance(begun, tasks.Begun)
    assert (False, {}) == (begun.manual, await worlds.wants(log))


async def test_the_field_comes_back_only_where_the_cached_version_is_another(
    log: client.Log, clock: worlds.Clock
) -> None:
    present = worlds.destination(version=4)
    await worlds.show(log, present, version=6)
    fields = {}
    for cached in (4, 3, 0):
        begun = await _begin(log, cached_version=cached)
        assert isinstance(begun, tasks.Begun)
        fields[cached] = begun.field
        await clock.advance(LEASE_MS + 1)
    assert {4: None, 3: apply.encode_destination(present), 0: apply.encode_destination(present)} == fields


async def test_a_destination_whose_id_holds_slashes_ats_and_spaces_begins(log: client.Log) -> None:
    odd = worlds.destination("a/b@c d:1 9 0", created=7, version=7)
    await worlds.show(log, odd, version=7)
    task = "3/5-0/a/b@c d:1 9 0@7"
    await log.command("ZADD", log.keys.partitions[worlds.P].due, 1, task)
    assert [tasks.Begun(manual=False, field=apply.encode_destination(odd))] == await worlds.begin(log, task)


async def test_a_batch_answers_each_task_in_order_and_closes_only_its_own(log: client.Log) -> None:
    await worlds.make_due(log, a2=1, x1=1)
    answers = await worlds.begin(log, TASK, "9/5-0/d@1", "1/5-0/x@1", TASK, "2/5-0/d@1")
    reasons = [a.reason if isinstance(a, tasks.Dropped) else type(a).__name__ for a in answers]
    assert ["Begun", "gone", "skipped", "leased", "Begun"] == reasons
    assert {"1/5-0/d@1", "2/5-0/d@1"} == {*await worlds.due(log)}


async def test_tasks_of_many_tenants_begin_in_one_call(log: client.Log) -> None:
    keys = log.keys.partitions[worlds.P]
    field = apply.encode_destination(worlds.destination())
    wanted = []
    for n in range(50):
        await log.pipeline(
            [
                ("HSET", keys.tenant(1, f"t{n}"), "version", 1, "d:d", field),
                ("ZADD", keys.due, 1, f"1/{n}-0/d@1"),
            ]
        )
        base = worlds.beginning(f"1/{n}-0/d@1", cached_version=1)
        wanted.append(msgspec.structs.replace(base, tenant=f"t{n}"))
    answers = (await tasks.begin(log, {worlds.P: wanted}, {worlds.P: 1}, LEASE_MS, "w"))[worlds.P]
    assert [tasks.Begun(manual=False, field=None)] * 50 == answers


async def test_a_read_model_behind_the_version_of_the_tenant_is_behind_every_event(log: client.Log) -> None:
    """A change is acknowledged as soon as it is in the log, and counts from then on."""
    await worlds.change(log, version=2)
    assert tasks.TryAgain(None) == await _begin(log)
    assert worlds.NOW == await _score(log)
    await worlds.show(log, worlds.destination(version=2, enabled=False), version=2)
    assert tasks.Dropped("skipped") == await _begin(log)


async def test_the_version_of_another_tenant_does_not_matter(log: client.Log) -> None:
    another = next(f"t{n}" for n in range(1000) if partitions.partition_of(f"t{n}") == worlds.P)
    await worlds.change(log, version=9, tenant=another)
    assert isinstance(await _begin(log), tasks.Begun)


async def test_a_version_that_was_skipped_holds_nothing_up(log: client.Log) -> None:
    """The read model shows the version of the entry that was passed over, and the destination as it was before."""
    fields = ("t", "destination.moved", "v", 1, "ten", worlds.TENANT, "id", "d", "n", 2, "by", "admin/r9", "d", "")
    item = append.Item(worlds.TENANT, "acme\0\0admin/r9", "admin/r9", fields, following=2)
    [answer] = (await append.append(log, "cfg", {worlds.P: [item]}, worlds.window()))[worlds.P]
    assert isinstance(answer, append.Appended)
    assert tasks.TryAgain(None) == await _begin(log)
    await skip.skip(log, answer.position, write=True)
    await catch_up.to_head(log, worlds.P)
    assert isinstance(await _begin(log), tasks.Begun)


@pytest.mark.invariant("D5")
async def test_nothing_begins_after_an_acknowledged_disable_though_the_read_model_did_not_move(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.command("DEL", log.keys.partitions[worlds.P].tenant(1, worlds.TENANT))
    writes = writer.Writer(log, worlds.window())
    await tenant_commands.put(writes, actors.Actor("admin", "r1"), worlds.TENANT, None, 1)
    created = tenants.CreateDestination(worlds.destination(), 20)
    await writes.execute(worlds.TENANT, actors.Actor("admin", "r2"), lambda state: created)

    async def away(*args: object) -> None:
        raise errors.StoreUnavailable("redis", "gone for a moment")

    def disable(state: tenants.TenantState) -> tenants.Command:
        changed = msgspec.structs.replace(state.destinations["d"], disabled_ms=5)
        return tenants.ChangeDestination(changed, "destination.disabled")

    with monkeypatch.context() as patch:
        patch.setattr(writer, "catch_up", types.SimpleNamespace(catch_up=away))
        assert isinstance(
            await writes.execute(worlds.TENANT, actors.Actor("admin", "r3"), disable), writer.Written
        )
    task = "1/5-0/d@2"
    await log.command("ZADD", log.keys.partitions[worlds.P].due, worlds.NOW, task)
    assert [tasks.TryAgain(None)] == await worlds.begin(log, task, matched_version=2)
    await catch_up.to_head(log, worlds.P)
    assert [tasks.Dropped("skipped")] == await worlds.begin(log, task, matched_version=2)
