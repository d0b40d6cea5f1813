"""Manual retries and cancellations from the request to the receiver, beside automatic retries."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from outpost.commands import retry as commands
from outpost.domain import events
from outpost.log import partition as partitions
from outpost.log.delivery import requests
from projections.logs import deliveries, migrate, projector
from projections.logs import store as stores
from tests.harness import api_server
from tests.harness import node as nodes
from tests.harness import receiver as receivers
from tests.harness.node import Node
from tests.harness.polling import eventually
from tests.harness.servers import RedisServer

TENANT, EVENT, DESTINATION = "acme", "e1", "des/1@x"
FAILING = receivers.answer(500)
SOON_S = 60.0


class World:
    """A delivering node, an API beside it and a log projection, on one log; one destination."""

    def __init__(self, node: Node, api: api_server.Api, store: stores.Store, receiver: receivers.Receiver) -> None:
        self.node, self.api, self.store, self.receiver = node, api, store, receiver

    async def publish(self, data: bytes = b'{"a":1}', **changes: Any) -> None:
        await self.node.publish(TENANT, EVENT, data, **changes)

    async def retry(self) -> httpx.Response:
        return await self.api.http.post("/retry", json={"event_id": EVENT, "destination_id": DESTINATION})

    async def accepted(self) -> None:
        """A retry that is accepted."""
        answer = await self.retry()
        assert (202, {"success": True}) == (answer.status_code, answer.json()), answer.text

    async def cancel(self) -> requests.Answer:
        async def projected() -> deliveries.Found | None:
            return await deliveries.newest(self.store, EVENT, DESTINATION)

        found = await eventually(projected)
        assert found is not None
        return await commands.cancel(self.node.log, nodes.new_actor(), found.delivery)

    async def log(self) -> list[events.DeliveryEntry]:
        return await nodes.attempts(self.node.log)

    async def made(self) -> list[tuple[int, bool, str, str]]:
        """Number, manual, status and what follows, of each attempt."""
        return [
            (e.task.attempt, e.detail.manual, e.detail.status, e.detail.next)
            for e in await self.log()
            if e.detail is not None
        ]

    async def attempts(self, count: int, limit: float = SOON_S) -> None:
        """Waits until so many are recorded."""

        async def enough() -> bool:
            return len(await self.made()) >= count

        await eventually(enough, limit)

    async def shown(self) -> list[tuple[int, bool, str]]:
        """The same as the API shows them."""
        answer = await self.api.http.get("/attempts", params={"event_id": EVENT, "dir": "asc"})
        return [(m["attempt_number"], m["manual"], m["status"]) for m in answer.json()["models"]]


@contextlib.asynccontextmanager
async def running(redis: RedisServer, url: str, **changes: Any) -> AsyncIterator[World]:
    store = await stores.open_store(url)
    await migrate.apply_pending(store)
    settings = msgspec.structs.replace(nodes.SETTINGS, api_key=api_server.KEY, **changes)
    stop = asyncio.Event()
    async with receivers.Receiver() as receiver, Node(redis, **changes) as node:
        api = api_server.Api(settings, redis, store)
        projecting = asyncio.create_task(projector.LogProjector(node.log, store, 1000).run(stop))
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url(), DESTINATION)
        yield World(node, api, store, receiver)
        stop.set()
        await asyncio.wait_for(projecting, 60)
        await api.close()
    await store.close()


@pytest.fixture
async def world(redis70: RedisServer, postgres_url: str) -> AsyncIterator[World]:
    """Automatic retries come too late to be seen: a minute, then two."""
    async with running(redis70, postgres_url, retry_schedule_ms=(60_000, 120_000)) as made:
        yield made


@pytest.fixture
async def quick(redis70: RedisServer, postgres_url: str) -> AsyncIterator[World]:
    """Automatic retries soon, and later than a manual one takes."""
    async with running(redis70, postgres_url, retry_schedule_ms=(1_500, 3_000)) as made:
        yield made


@pytest.mark.behaviour(99)
@pytest.mark.behaviour(100)
async def test_a_manual_failure_takes_the_pending_retry_s_place_and_is_followed_by_it(quick: World):
    quick.receiver.always(FAILING)
    await quick.publish()
    await quick.attempts(1)
    await quick.accepted()
    await quick.attempts(2)
    assert [(1, False, "failed", "auto"), (2, True, "failed", "auto")] == await quick.made()
    await nodes.quiet(quick.node.log)
    expected = [
        (1, False, "failed", "auto"),
        (2, True, "failed", "auto"),
        (3, False, "failed", "auto"),
        (4, False, "failed", "none"),
    ]
    assert expected == await quick.made()
    assert 4 == len(quick.receiver.requests)
    first, second, third, _ = (e.detail for e in await quick.log() if e.detail is not None)
    assert [1_500, 1_500, 3_000] == [each.retry_in_ms for each in (first, second, third)]
    assert second.started_ms - first.started_ms < 1_500, "the manual attempt did not wait for the schedule"
    assert third.started_ms - second.started_ms >= 1_500, "nothing came when the replaced retry would have"


@pytest.mark.behaviour(99)
@pytest.mark.behaviour(100)
async def test_a_burst_of_manual_retries_in_an_outage_uses_up_no_automatic_one(
    redis70: RedisServer, postgres_url: str
):
    async with running(redis70, postgres_url, retry_schedule_ms=(60_000, 50, 50)) as world:
        world.receiver.always(FAILING)
        await world.publish()
        await world.attempts(1)
        await asyncio.gather(*(world.accepted() for _ in range(6)))
        await world.attempts(7)
        [task] = await nodes.due(world.node.log)
        assert task.startswith("8/"), "the automatic attempt that the manual ones took the place of"
        keys = world.node.log.keys.partitions[partitions.partition_of(TENANT)]
        await world.node.log.command("ZADD", keys.due, "XX", 0, task)
        await nodes.quiet(world.node.log)
        expected = [(1, False), *((n, True) for n in range(2, 8)), (8, False), (9, False), (10, False)]
        assert expected == [made[:2] for made in await world.made()]
        details = [e.detail for e in await world.log() if e.detail is not None]
        assert [1] * 7 + [2, 3, 4] == [d.automatic or n for n, d in enumerate(details, 1)]


@pytest.mark.behaviour(99)
async def test_a_manual_success_cancels_the_pending_automatic_retry(world: World):
    world.receiver.then(FAILING)
    await world.publish()
    await world.attempts(1)
    assert 1 == len(await nodes.due(world.node.log))
    await world.accepted()
    await nodes.quiet(world.node.log, SOON_S)
    assert [(1, False, "failed", "auto"), (2, True, "success", "none")] == await world.made()


@pytest.mark.behaviour(99)
async def test_a_manual_failure_with_the_budget_spent_is_the_last_attempt(redis70: RedisServer, postgres_url: str):
    async with running(redis70, postgres_url, retry_schedule_ms=(50,)) as world:
        world.receiver.always(FAILING)
        await world.publish()
        await nodes.quiet(world.node.log)
        await world.accepted()
        await nodes.quiet(world.node.log)
        expected = [(1, False, "failed", "auto"), (2, False, "failed", "none"), (3, True, "failed", "none")]
        assert expected == await world.made()


@pytest.mark.behaviour(98)
async def test_an_event_that_is_not_eligible_is_retried_by_hand_and_never_by_itself(world: World):
    world.receiver.always(FAILING)
    await world.publish(eligible=False)
    await nodes.quiet(world.node.log)
    await world.accepted()
    await nodes.quiet(world.node.log)
    assert [(1, False, "failed", "none"), (2, True, "failed", "none")] == await world.made()


@pytest.mark.behaviour(27)
@pytest.mark.behaviour(98)
async def test_two_manual_retries_at_once_of_what_succeeded_both_run_with_the_same_bytes(world: World):
    data = b'{"z": 1,  "a": [ ], "\\u00e9":"\\u0041"}'
    await world.publish(data)
    await nodes.quiet(world.node.log)
    await asyncio.gather(world.accepted(), world.accepted())
    await nodes.quiet(world.node.log, SOON_S)
    expected = [(1, False, "success"), (2, True, "success"), (3, True, "success")]
    assert expected == [made[:3] for made in await world.made()]
    assert [data] * 3 == [request.body for request in world.receiver.requests]

    async def all_shown() -> bool:
        return expected == await world.shown()

    await eventually(all_shown)


@pytest.mark.behaviour(98)
async def test_many_manual_retries_at_once_are_as_many_attempts_one_after_the_other(world: World):
    await world.publish()
    await nodes.quiet(world.node.log)
    await asyncio.gather(*(world.accepted() for _ in range(6)))
    await nodes.quiet(world.node.log)
    assert [(n, n > 1) for n in range(1, 8)] == [made[:2] for made in await world.made()]
    assert 7 == len(world.receiver.requests)


async def test_a_retry_asked_for_while_an_attempt_is_being_made_follows_it(world: World):
    release = asyncio.Event()
    world.receiver.then(FAILING, [receivers.WaitFor(release), *receivers.answer(200)])
    await world.publish()
    await world.attempts(1)
    await world.accepted()
    await eventually(lambda: len(world.receiver.requests) == 2)
    await world.accepted()
    release.set()
    await nodes.quiet(world.node.log, SOON_S)
    expected = [(1, False, "failed", "auto"), (2, True, "success", "manual"), (3, True, "success", "none")]
    assert expected == await world.made()


async def test_a_retry_that_meets_a_disabled_destination_is_skipped_and_can_be_asked_for_again(world: World):
    release = asyncio.Event()
    world.receiver.then(FAILING, [receivers.WaitFor(release), *FAILING])
    await world.publish()
    await world.attempts(1)
    await world.accepted()
    await eventually(lambda: len(world.receiver.requests) == 2)
    await world.accepted()
    await world.node.disable(TENANT, DESTINATION)  # between what was accepted and its attempt
    release.set()
    await nodes.quiet(world.node.log, SOON_S)
    assert "delivery.skipped" == (await world.log())[-1].type
    assert 400 == (await world.retry()).status_code
    await world.node.enable(TENANT, DESTINATION)
    await world.accepted()
    await nodes.quiet(world.node.log, SOON_S)
    assert [(1, False), (2, True), (3, True)] == [made[:2] for made in await world.made()]
    assert 3 == len(world.receiver.requests)


async def test_a_cancellation_closes_what_waits_for_its_automatic_retry(world: World):
    world.receiver.then(FAILING)
    await world.publish()
    await world.attempts(1)
    assert isinstance(await world.cancel(), requests.Cancelled)
    await nodes.quiet(world.node.log)
    assert ["attempt.failed", "delivery.cancelled"] == [entry.type for entry in await world.log()]
    assert requests.Closed() == await world.cancel()
    await world.accepted()
    await nodes.quiet(world.node.log, SOON_S)
    assert [(1, False), (2, True)] == [made[:2] for made in await world.made()]


async def test_a_cancellation_of_what_is_being_sent_lets_it_be_the_last(world: World):
    release = asyncio.Event()
    world.receiver.then(FAILING, [receivers.WaitFor(release), *FAILING])
    await world.publish()
    await world.attempts(1)
    await world.accepted()
    await eventually(lambda: len(world.receiver.requests) == 2)
    assert isinstance(await world.cancel(), requests.Requested)
    release.set()
    await nodes.quiet(world.node.log, SOON_S)
    assert [(1, False, "failed", "auto"), (2, True, "failed", "none")] == await world.made()


async def test_retries_go_on_from_the_log_whatever_the_log_store_has_of_it(
    redis70: RedisServer, postgres_url: str
):
    """Its projection stops after the first attempt; the second and the third are not in Postgres."""
    store = await stores.open_store(postgres_url)
    await migrate.apply_pending(store)
    settings = msgspec.structs.replace(nodes.SETTINGS, api_key=api_server.KEY)
    async with receivers.Receiver() as receiver, Node(redis70) as node:
        world = World(node, api_server.Api(settings, redis70, store), store, receiver)
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url(), DESTINATION)
        await world.publish()
        await nodes.quiet(node.log)
        assert await projector.LogProjector(node.log, store, 1000).drain(10.0)
        for _ in range(3):
            await world.accepted()
            await nodes.quiet(node.log, SOON_S)
        assert [(1, False), (2, True), (3, True), (4, True)] == [made[:2] for made in await world.made()]
        assert [(1, False, "success")] == await world.shown()
        await world.api.close()
    await store.close()


async def test_an_event_of_while_its_destination_was_disabled_is_sent_once_it_is_enabled(quick: World):
    """It matched nothing, and 202 must not have been its end. The retries of an event follow as usual."""
    await quick.node.disable(TENANT, DESTINATION)
    await quick.publish()

    async def asked(status: int) -> httpx.Response | None:
        answer = await quick.retry()
        return answer if answer.status_code == status else None

    refused = await eventually(lambda: asked(400), SOON_S)
    assert refused is not None
    assert "Destination is disabled" == refused.json()["message"]
    assert [] == await quick.made()
    await quick.node.enable(TENANT, DESTINATION)
    quick.receiver.then(FAILING)
    await quick.accepted()
    await nodes.quiet(quick.node.log)
    assert [(1, True, "failed", "auto"), (2, False, "succeeded", "none")] == [
        (number, manual, {"success": "succeeded"}.get(status, status), following)
        for number, manual, status, following in await quick.made()
    ]
    assert [b'{"a":1}'] * 2 == [request.body for request in quick.receiver.requests]


async def test_a_destination_that_did_not_match_is_told_so(world: World):
    await world.node.patch(TENANT, DESTINATION, filter={"data": {"a": 2}})
    await world.publish()

    async def refused() -> httpx.Response | None:
        answer = await world.retry()
        return answer if answer.status_code == 400 else None

    answer = await eventually(refused, SOON_S)
    assert answer is not None
    assert "destination does not match event" == answer.json()["message"]
    assert [] == await world.log()
