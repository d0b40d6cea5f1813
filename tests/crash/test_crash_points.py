"""A process of ours is killed at a named step of the path; another goes on, nothing is lost or logged twice.

Each test publishes to a destination that works and to one whose first attempt fails, so that retries are under way
when the process dies. What the client was not answered it asks again with the same id.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.harness import counting, process
from tests.harness import receiver as receivers
from tests.harness.polling import eventually
from tests.harness.process import Crash, Outpost
from tests.harness.servers import RedisServer

TENANT = "acme"
EVENTS = 20


@pytest.fixture
async def receiver() -> AsyncIterator[receivers.Receiver]:
    """Takes everything at /good; refuses each event once at /flaky."""
    refused: set[str] = set()

    def answer(request: receivers.Request) -> receivers.Script:
        id_ = request.headers["x-outpost-event-id"]
        if request.target == "/flaky" and id_ not in refused:
            refused.add(id_)
            return receivers.answer(500)
        return receivers.after(0.02, receivers.answer())

    async with receivers.Receiver() as running:
        running.always(answer)
        yield running


@pytest.fixture
async def counts(redis70: RedisServer, postgres_url: str) -> AsyncIterator[counting.Counts]:
    async with counting.Counts(redis70, postgres_url) as looking:
        yield looking


class Client:
    """Publishes and remembers what was answered and what was not."""

    def __init__(self) -> None:
        self.wanted = [f"e{n}" for n in range(EVENTS)]
        self.answers: dict[str, dict[str, object]] = {}

    async def publish(self, server: Outpost, *ids: str) -> None:
        """Publishes `ids` (none named: all that was not answered), a few at once, until one gets no answer."""
        for id_ in ids or [id_ for id_ in self.wanted if id_ not in self.answers]:
            try:
                status, said, _ = await server.request("POST", "/api/v1/publish", process.event(TENANT, id_))
            except (aiohttp.ClientError, TimeoutError):
                return
            assert 202 == status, said
            self.answers[id_] = said


async def prepare(server: Outpost, receiver: receivers.Receiver) -> None:
    await server.tenant(TENANT)
    for path in ("/good", "/flaky"):
        await server.webhook(TENANT, receiver.url(path))


async def finish(client: Client, counts: counting.Counts, receiver: receivers.Receiver, after: Outpost) -> None:
    """The client asks again for what was not answered; everything comes to rest and is counted."""
    await client.publish(after)
    assert set(client.wanted) == set(client.answers)
    await counts.rest()
    await counts.assert_exact(client.wanted, receiver.requests)
    assert EVENTS == (await counts.added())["evt"]
    assert 2 * EVENTS == await counts.deliveries("success")
    assert 0 == await after.stop()


POINTS = {
    "dispatcher after read": Crash("outpost.log.tasks:open_entries", "before", 2),
    "dispatcher after open": Crash("outpost.log.tasks:open_entries", "after", 2),
    "dispatcher after hand-over": Crash("outpost.queue.inprocess:InProcessQueue.publish", "after", 2),
    "worker before begin": Crash("outpost.log.tasks:begin", "before", 3),
    "worker after begin": Crash("outpost.log.tasks:begin", "after", 3),
    "worker before record": Crash("outpost.log.tasks:record", "before", 2),
    "worker after record": Crash("outpost.log.tasks:record", "after", 2),
    "scheduler between claim and hand-over": Crash("outpost.dispatch.scheduler:Scheduler._hand_over"),
    "log projector between read and commit": Crash("projections.logs.write:_reject", "after", 2),
    "log projector after commit": Crash("projections.logs.write:write", "after", 2),
}


@pytest.mark.parametrize("point", list(POINTS.values()), ids=list(POINTS))
async def test_killed_at_a_step_nothing_is_lost_and_nothing_is_logged_twice(
    point: Crash,
    redis70: RedisServer,
    postgres_url: str,
    tmp_path: Path,
    receiver: receivers.Receiver,
    counts: counting.Counts,
):
    client = Client()
    async with Outpost(redis70, postgres_url, tmp_path, crash=point) as dying:
        await prepare(dying, receiver)
        await client.publish(dying)
        await dying.crashed()
    async with Outpost(redis70, postgres_url, tmp_path) as after:
        await finish(client, counts, receiver, after)


async def test_killed_while_sends_are_under_way_they_are_made_again_after_their_lease(
    redis70: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver, counts: counting.Counts
):
    hanging = [[receivers.Do.HANG] for _ in range(4)]
    receiver.then(*hanging)
    client = Client()
    async with Outpost(redis70, postgres_url, tmp_path) as dying:
        await prepare(dying, receiver)
        await client.publish(dying, "e0", "e1")
        await eventually(lambda: 4 == len(receiver.requests))
        await dying.kill()
    async with Outpost(redis70, postgres_url, tmp_path) as after:
        await finish(client, counts, receiver, after)
    assert {"e0", "e1"} <= set(counting.doubles(r for r in receiver.requests if r.target == "/good"))


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_api_killed_around_the_append_leaves_one_entry_and_the_answer_of_the_first(
    when: str,
    redis70: RedisServer,
    postgres_url: str,
    tmp_path: Path,
    receiver: receivers.Receiver,
    counts: counting.Counts,
):
    """Killed after the append, the client hears nothing. It asks again: the id is in the log, put there by another
    request, and so the answer says `duplicate` and otherwise what the first one would have said."""
    client = Client()
    crash = Crash("outpost.log.append:append", when, 8)
    async with Outpost(redis70, postgres_url, tmp_path) as delivering:
        await prepare(delivering, receiver)
        async with Outpost(redis70, postgres_url, tmp_path, "api", crash=crash) as dying:
            await client.publish(dying)
            await dying.crashed()
        assert 7 == len(client.answers)
        async with Outpost(redis70, postgres_url, tmp_path, "api") as after:
            await client.publish(after, "e7")
            first, again = client.answers["e6"], client.answers["e7"]
            assert first["destination_ids"] == again["destination_ids"]
            assert (when == "after") == again["duplicate"]
            await finish(client, counts, receiver, after)
    assert {} == counting.doubles(r for r in receiver.requests if r.target == "/good")


async def test_an_api_killed_between_a_change_and_the_read_model_has_made_the_change(
    redis70: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    crash = Crash("outpost.log.checkpoint:advance")
    async with Outpost(redis70, postgres_url, tmp_path, "log"):
        async with Outpost(redis70, postgres_url, tmp_path, "api", crash=crash) as dying:
            with pytest.raises(aiohttp.ClientError):
                await dying.tenant(TENANT)
            await dying.crashed()
        async with Outpost(redis70, postgres_url, tmp_path, "api") as after:
            assert TENANT == (await after.api("GET", f"/tenants/{TENANT}"))["id"]
            id_ = await after.webhook(TENANT, receiver.url("/good"))
            assert [id_] == (await after.publish(TENANT, "e1"))["destination_ids"]


async def test_a_first_delivery_process_killed_while_it_completes_due_leaves_the_rest_to_the_next(
    redis70: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver, counts: counting.Counts
):
    """Events stand in the log before there was a group: `due` is completed from a fold, partition by partition."""
    tenants = [f"tenant-{n}" for n in range(10)]
    async with (
        Outpost(redis70, postgres_url, tmp_path, "log") as log,
        Outpost(redis70, postgres_url, tmp_path, "api") as api,
    ):
        for tenant in tenants:
            await api.tenant(tenant)
            await api.webhook(tenant, receiver.url("/good"))
            await api.publish(tenant, tenant)
        dying = Outpost(
            redis70, postgres_url, tmp_path, "delivery", crash=Crash("outpost.log.repair:mend", "after", 6)
        )
        try:
            dying.spawn()
            await dying.crashed()
        finally:
            await dying.end()
        await api.publish(tenants[0], "after the crash")
        async with Outpost(redis70, postgres_url, tmp_path, "delivery"):
            await counts.rest()
        await counts.assert_exact([*tenants, "after the crash"], receiver.requests)
        assert 11 == await counts.deliveries("success")
        assert 0 == await log.stop()


async def test_a_log_projector_killed_before_it_commits_changes_nothing_for_delivery(
    redis70: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver, counts: counting.Counts
):
    client = Client()
    crash = Crash("projections.logs.write:_reject", "after", 1)
    async with (
        Outpost(redis70, postgres_url, tmp_path, "log", crash=crash) as dying,
        Outpost(redis70, postgres_url, tmp_path, "api") as api,
        Outpost(redis70, postgres_url, tmp_path, "delivery"),
    ):
        await prepare(api, receiver)
        await client.publish(api)
        await dying.crashed()
        await eventually(lambda: 3 * EVENTS == len(receiver.requests))
        async with Outpost(redis70, postgres_url, tmp_path, "log") as after:
            await counts.rest()
            await counts.assert_exact(client.wanted, receiver.requests)
            assert 0 == await after.stop()
    assert {} == counting.doubles(r for r in receiver.requests if r.target == "/good")
