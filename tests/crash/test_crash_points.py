"""A process of ours is killed at a named step of the path; another goes on, nothing is lost or logged twice.

Each test publishes to a destination that works and to one whose first attempt fails, so that retries are under way
when the process dies. What the client was not answered it asks again with the same id.
"""

from __future__ import annotations

import aiohttp
import pytest

from tests.crash import scene
from tests.crash.conftest import Serve
from tests.harness import counting
from tests.harness import receiver as receivers
from tests.harness.polling import eventually
from tests.harness.process import Crash

POINTS = {
    "dispatcher after read": Crash("outpost.log.delivery.tasks:open_entries", "before", 2),
    "dispatcher after open": Crash("outpost.log.delivery.tasks:open_entries", "after", 2),
    "dispatcher after hand-over": Crash("outpost.queue.inprocess:InProcessQueue.publish", "after", 2),
    "worker before begin": Crash("outpost.log.delivery.tasks:begin", "before", 3),
    "worker after begin": Crash("outpost.log.delivery.tasks:begin", "after", 3),
    "worker before record": Crash("outpost.log.delivery.tasks:record", "before", 2),
    "worker after record": Crash("outpost.log.delivery.tasks:record", "after", 2),
    "scheduler between claim and hand-over": Crash("outpost.dispatch.scheduler:Scheduler._hand_over"),
    "log projector between read and commit": Crash("projections.logs.write:_reject", "after", 2),
    "log projector after commit": Crash("projections.logs.write:write", "after", 2),
}


@pytest.mark.parametrize("point", list(POINTS.values()), ids=list(POINTS))
@pytest.mark.invariant("D1", "D2", "D7")
async def test_killed_at_a_step_nothing_is_lost_and_nothing_is_logged_twice(
    point: Crash,
    serve: Serve,
    receiver: receivers.Receiver,
    counts: counting.Counts,
):
    client = scene.Client()
    async with serve(crash=point) as dying:
        await scene.prepare(dying, receiver)
        await client.publish(dying)
        await dying.crashed()
    async with serve() as after:
        await scene.finish(client, counts, receiver, after)


@pytest.mark.invariant("D1", "D9")
async def test_killed_while_sends_are_under_way_they_are_made_again_after_their_lease(
    serve: Serve, receiver: receivers.Receiver, counts: counting.Counts
):
    hanging = [[receivers.Do.HANG] for _ in range(4)]
    receiver.then(*hanging)
    client = scene.Client()
    async with serve() as dying:
        await scene.prepare(dying, receiver)
        await client.publish(dying, "e0", "e1")
        await eventually(lambda: 4 == len(receiver.requests))
        await dying.kill()
    async with serve() as after:
        await scene.finish(client, counts, receiver, after)
    assert {"e0", "e1"} <= set(counting.doubles(r for r in receiver.requests if r.target == "/good"))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.invariant("L2")
async def test_an_api_killed_around_the_append_leaves_one_entry_and_the_answer_of_the_first(
    when: str,
    serve: Serve,
    receiver: receivers.Receiver,
    counts: counting.Counts,
):
    """Killed after the append, the client hears nothing. It asks again: the id is in the log, put there by another
    request, and so the answer says `duplicate` and otherwise what the first one would have said."""
    client = scene.Client()
    crash = Crash("outpost.log.append:append", when, 8)
    async with serve() as delivering:
        await scene.prepare(delivering, receiver)
        async with serve("api", crash=crash) as dying:
            await client.publish(dying)
            await dying.crashed()
        assert 7 == len(client.answers)
        async with serve("api") as after:
            await client.publish(after, "e7")
            first, again = client.answers["e6"], client.answers["e7"]
            assert first["destination_ids"] == again["destination_ids"]
            assert (when == "after") == again["duplicate"]
            await scene.finish(client, counts, receiver, after)
    assert {} == counting.doubles(r for r in receiver.requests if r.target == "/good")


@pytest.mark.invariant("R1")
async def test_config_projectors_killed_before_they_advance_leave_the_change_to_the_next(
    serve: Serve, receiver: receivers.Receiver
) -> None:
    """One dies in the command that made the change, the next in its background loop; the change is made."""
    crash = Crash("outpost.log.checkpoint:advance")
    async with serve("log"):
        async with serve("api", crash=crash) as dying:
            with pytest.raises(aiohttp.ClientError):
                await dying.tenant(scene.TENANT)
            await dying.crashed()
        also_dying = serve("api", crash=crash)
        try:
            also_dying.spawn()
            await also_dying.crashed()
        finally:
            await also_dying.end()
        async with serve("api") as after:
            assert scene.TENANT == (await after.api("GET", f"/tenants/{scene.TENANT}"))["id"]
            id_ = await after.webhook(scene.TENANT, receiver.url("/good"))
            assert [id_] == (await after.publish(scene.TENANT, "e1"))["destination_ids"]


@pytest.mark.invariant("D1", "D3")
async def test_a_first_delivery_process_killed_while_it_completes_due_leaves_the_rest_to_the_next(
    serve: Serve, receiver: receivers.Receiver, counts: counting.Counts
):
    """Events stand in the log before there was a group: `due` is completed from a fold, partition by partition."""
    tenants = [f"tenant-{n}" for n in range(10)]
    async with (
        serve("log") as log,
        serve("api") as api,
    ):
        for tenant in tenants:
            await api.tenant(tenant)
            await api.webhook(tenant, receiver.url("/good"))
            await api.publish(tenant, tenant)
        dying = serve("delivery", crash=Crash("outpost.log.delivery.repair:mend", "after", 6))
        try:
            dying.spawn()
            await dying.crashed()
        finally:
            await dying.end()
        await api.publish(tenants[0], "after the crash")
        async with serve("delivery"):
            await counts.rest()
        await counts.assert_exact([*tenants, "after the crash"], receiver.requests)
        assert 11 == await counts.deliveries("success")
        assert 0 == await log.stop()


@pytest.mark.invariant("P3")
async def test_a_log_projector_killed_before_it_commits_changes_nothing_for_delivery(
    serve: Serve, receiver: receivers.Receiver, counts: counting.Counts
):
    client = scene.Client()
    crash = Crash("projections.logs.write:_reject", "after", 1)
    async with (
        serve("log", crash=crash) as dying,
        serve("api") as api,
        serve("delivery"),
    ):
        await scene.prepare(api, receiver)
        await client.publish(api)
        await dying.crashed()
        await eventually(lambda: 3 * scene.EVENTS == len(receiver.requests))
        async with serve("log") as after:
            await counts.rest()
            await counts.assert_exact(client.wanted, receiver.requests)
            assert 0 == await after.stop()
    assert {} == counting.doubles(r for r in receiver.requests if r.target == "/good")


@pytest.mark.invariant("L5")
async def test_a_trimmer_killed_between_the_two_streams_leaves_attempts_that_outlive_their_events(
    serve: Serve, receiver: receivers.Receiver, counts: counting.Counts
) -> None:
    client = scene.Client()
    async with serve() as before:
        await scene.prepare(before, receiver)
        await scene.finish(client, counts, receiver, before)
    for dies in (True, False):
        # The first call with entries to look at: partitions without any events are passed over.
        crash = Crash("outpost.log.upkeep.trim:_event_of") if dies else None
        log = serve("log", crash=crash, STREAM_RETENTION_SECONDS="20")
        try:
            log.spawn()
            if dies:
                await log.crashed()
                live = await counts.live()  # on a busy machine some events are too young yet
                assert {"cfg": 3, "dlv": 3 * scene.EVENTS} == {name: live[name] for name in ("cfg", "dlv")}
                assert live["evt"] < scene.EVENTS
            else:
                await eventually(lambda: _trimmed(counts))
        finally:
            await log.end()
    await counts.assert_trimmed_is_logged()
    async with serve() as after:
        client.wanted.append("after the trim")
        await scene.finish(client, counts, receiver, after)


async def _trimmed(counts: counting.Counts) -> bool:
    return {"cfg": 3, "evt": 0, "dlv": 0} == await counts.live()
