"""POST /retry: which deliveries it takes, and what it says of the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from outpost.api import settle
from outpost.domain import delivery, events
from outpost.log import envelope, read
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.delivery import tasks
from projections.logs import deliveries, migrate, projector
from projections.logs import store as stores
from tests.harness import log_entries, node
from tests.harness.api_server import SETTINGS, Api
from tests.harness.servers import RedisServer

PAIR = ("event_id", "destination_id")
DETAIL = envelope.encode_detail(
    events.AttemptDetail("user.created", "webhook", "success", "200", 5, 6, False, "none")
)


class RetryApi(Api):
    """An API whose log is projected when a test says so, and what delivery would have written."""

    store: stores.Store

    async def project(self) -> None:
        assert await projector.LogProjector(self.log, self.store, 1000).drain(30.0)

    async def event(self, id_: str, tenant: str = "acme", **fields: object) -> positions.Position:
        body = {"tenant_id": tenant, "id": id_, "topic": "user.created", "data": {"n": 1}, **fields}
        answer = await self.http.post("/publish", json=body)
        assert answer.status_code == 202
        position = positions.parse(answer.headers["X-Outpost-Position"])
        assert position is not None
        return position

    async def attempted(
        self, id_: str, destination: str, tenant: str = "acme", following: str = "none", **fields: object
    ) -> positions.Position:
        """An event whose first attempt at the destination is recorded and projected."""
        at = await self.event(id_, tenant, **fields)
        created = await self.created(destination, tenant)
        task = str(delivery.TaskId(1, at.entry_id, destination, created))
        entry = log_entries.attempt(tenant, id_, following=following, status="failed", code="500")
        entry[entry.index("ref") + 1] = task
        await log_entries.append(self.log, "dlv", tenant, entry)
        await self.project()
        return at

    async def created(self, destination: str, tenant: str = "acme") -> int:
        state = await self.deps.writer.execute(tenant, node.new_actor(), lambda _: None)
        found: Any = state
        return int(found.destinations[destination].created)

    async def retry(self, event: object, destination: object, **more: object) -> httpx.Response:
        body = {"event_id": event, "destination_id": destination, **more}
        return await self.http.post("/retry", json=body)


@pytest.fixture
async def api(redis70: RedisServer, postgres_url: str) -> AsyncIterator[RetryApi]:
    store = await stores.open_store(postgres_url)
    await migrate.apply_pending(store)
    started = RetryApi(SETTINGS, redis70, store)
    started.store = store
    await started.tenant()
    await started.destination(id="d")
    yield started
    await started.close()
    await store.close()


def told(answer: httpx.Response) -> tuple[int, object, object]:
    body = answer.json()
    return answer.status_code, body.get("message"), body.get("data")


@pytest.mark.behaviour(97)
async def test_a_retry_is_accepted_and_says_where_it_stands(api: RetryApi) -> None:
    at = await api.attempted("e1", "d")
    answer = await api.retry("e1", "d")
    assert (202, {"success": True}) == (answer.status_code, answer.json())
    position = positions.parse(answer.headers["X-Outpost-Position"])
    [(found, entry)] = [e for e in await node.entries(api.log, "dlv") if e[1].type == "retry.requested"]
    assert (position, f"2/{at.entry_id}/d") == (found, str(entry.task).rpartition("@")[0])
    assert f"admin/{answer.headers['X-Request-Id']}" == entry.by
    assert {str(entry.task)} == {*await node.due(api.log)}


@pytest.mark.behaviour(97)
@pytest.mark.parametrize(
    ("body", "problems"),
    [
        ({}, ["event_id is required", "destination_id is required"]),
        ({"event_id": "", "destination_id": None}, ["event_id is required", "destination_id is required"]),
        ({"event_id": "e1"}, ["destination_id is required"]),
        ({"event_id": 1, "destination_id": []}, [f"{name} failed type validation" for name in PAIR]),
        ({"event_id": "e", "destination_id": "d", "tenant_id": 1}, ["tenant_id failed type validation"]),
    ],
)
async def test_everything_that_is_wrong_with_a_body_is_told(
    api: RetryApi, body: dict[str, object], problems: list[str]
) -> None:
    answer = await api.http.post("/retry", json=body)
    message = "invalid JSON" if any("type validation" in problem for problem in problems) else "validation error"
    assert (422, message, problems) == told(answer)


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b'{"event_id":"\xff"}', b"[" * 10_000])
async def test_a_body_that_is_no_json_object_is_refused(api: RetryApi, body: bytes) -> None:
    assert 422 == (await api.http.post("/retry", content=body)).status_code


@pytest.mark.parametrize("text", ["nul\0", "line\n", "x" * 256])
async def test_an_id_that_nothing_can_have_is_refused(api: RetryApi, text: str) -> None:
    assert 422 == (await api.retry(text, "d")).status_code
    assert 422 == (await api.retry("e1", text)).status_code


@pytest.mark.behaviour(97)
async def test_there_is_nothing_to_retry_without_a_delivery_of_that_event_to_that_destination(
    api: RetryApi,
) -> None:
    unknown = (404, "event not found", None)
    await api.attempted("e1", "d")
    await api.event("not-attempted-yet")
    await api.destination(id="later")
    await api.project()
    pairs = (("nothing", "d"), ("e1", "nothing"), ("e1", "later"), ("not-attempted-yet", "d"))
    assert [unknown] * 4 == [told(await api.retry(*pair)) for pair in pairs]
    assert unknown == told(await api.retry("e1", "d", tenant_id="somebody-else"))
    assert {} == await node.due(api.log)


@pytest.mark.behaviour(97)
@pytest.mark.parametrize("tenant_too", [False, True])
async def test_a_destination_that_was_deleted_is_not_found(api: RetryApi, tenant_too: bool) -> None:
    await api.attempted("e1", "d")
    await api.http.delete("/tenants/acme" if tenant_too else "/tenants/acme/destinations/d")
    assert (404, "destination not found", None) == told(await api.retry("e1", "d"))


async def test_a_destination_made_again_under_the_same_id_is_another_one(api: RetryApi) -> None:
    await api.attempted("e1", "d")
    await api.http.delete("/tenants/acme/destinations/d")
    await api.destination(id="d")
    assert (404, "destination not found", None) == told(await api.retry("e1", "d"))


@pytest.mark.behaviour(97)
async def test_a_disabled_destination_is_not_retried_until_it_is_enabled(api: RetryApi) -> None:
    await api.attempted("e1", "d")
    await api.http.put("/tenants/acme/destinations/d/disable")
    refusal = {"error": "destination_disabled"}
    assert (400, "Destination is disabled", refusal) == told(await api.retry("e1", "d"))
    await api.http.put("/tenants/acme/destinations/d/enable")
    assert 202 == (await api.retry("e1", "d")).status_code


@pytest.mark.behaviour(97)
@pytest.mark.parametrize(
    "change", [{"topics": ["user.deleted"]}, {"filter": {"data": {"n": 2}}}], ids=["topics", "filter"]
)
async def test_a_destination_that_would_not_take_the_event_any_more_is_not_retried(
    api: RetryApi, change: dict[str, object]
) -> None:
    await api.attempted("e1", "d")
    assert 200 == (await api.http.patch("/tenants/acme/destinations/d", json=change)).status_code
    assert (400, "destination does not match event", None) == told(await api.retry("e1", "d"))
    assert {} == await node.due(api.log)


async def test_a_filter_sees_the_event_as_it_was_published(api: RetryApi) -> None:
    fields = {"metadata": {"source": "crm"}, "data": {"n": 7, "deep": {"x": [1]}}, "time": "2026-01-02T03:04:05Z"}
    await api.attempted("e1", "d", **fields)
    wanted = {
        "data": {"n": {"$gte": 7}, "deep": {"x": 1}},
        "metadata": {"source": "crm"},
        "time": "2026-01-02T03:04:05Z",
    }
    changed = await api.http.patch("/tenants/acme/destinations/d", json={"filter": wanted})
    assert 200 == changed.status_code, changed.text
    assert 202 == (await api.retry("e1", "d")).status_code


async def test_an_id_that_several_tenants_use_is_told_apart_by_the_tenant(api: RetryApi) -> None:
    await api.tenant("other")
    await api.destination("other", id="d")
    first = await api.attempted("e1", "d", "acme")
    second = await api.attempted("e1", "d", "other")
    for tenant, at in (("acme", first), ("other", second), (None, second)):
        answer = await api.retry("e1", "d", tenant_id=tenant)
        assert 202 == answer.status_code
        position = positions.parse(answer.headers["X-Outpost-Position"])
        assert position is not None
        assert at.partition == position.partition


async def test_of_an_id_that_was_used_twice_the_newest_event_is_retried(api: RetryApi) -> None:
    await api.attempted("e1", "d")
    for keys in api.log.keys.partitions:  # the window is over
        for bucket in await api.log.command("KEYS", f"{keys.evt.removesuffix('evt')}idem:*"):
            await api.log.command("DEL", bucket)
    second = await api.attempted("e1", "d")
    await api.retry("e1", "d")
    assert [f"2/{second.entry_id}/d"] == [task.rpartition("@")[0] for task in await node.due(api.log)]


async def test_what_was_skipped_before_its_first_attempt_can_be_retried(api: RetryApi) -> None:
    at = await api.event("e1")
    task = str(delivery.TaskId(1, at.entry_id, "d", await api.created("d")))
    await log_entries.append(api.log, "dlv", "acme", log_entries.change("acme", "e1", "delivery.skipped", task))
    await api.project()
    assert 202 == (await api.retry("e1", "d")).status_code
    assert {task} == {*await node.due(api.log)}


async def test_a_delivery_that_is_closed_in_the_log_store_and_was_retried_since_goes_on_from_there(
    api: RetryApi,
) -> None:
    """The projection stands still; the script sees what it has not."""
    at = await api.attempted("e1", "d")
    task = delivery.TaskId(2, at.entry_id, "d", await api.created("d"))
    for number in (2, 3, 4):
        assert 202 == (await api.retry("e1", "d")).status_code
        name, p = str(task._replace(attempt=number)), at.partition
        begun = await tasks.begin(
            api.log, {p: [tasks.Beginning(name, 1, "acme", "e1", "d", task.created, 0)]}, {p: 1}, 9_000, "w"
        )
        assert isinstance(begun[p][0], tasks.Begun)
        await tasks.record(api.log, {p: [tasks.Recording(name, "acme", "e1", True, None, DETAIL)]}, "w")
    assert {} == await node.due(api.log)
    made = [entry for entry in await node.attempts(api.log) if entry.type == "attempt.succeeded"]
    assert [(2, True), (3, True), (4, True)] == [(e.task.attempt, e.detail and e.detail.manual) for e in made]


@pytest.mark.parametrize("trims", [1, 2, 3])
async def test_a_look_from_before_a_trim_is_followed_by_a_fresh_one_three_looks_at_most(
    api: RetryApi, monkeypatch: pytest.MonkeyPatch, trims: int
) -> None:
    """After each of the first looks an attempt of another event is made, projected and trimmed."""
    await api.attempted("e1", "d")
    cut, looks = api.log.keys.partitions[partitions.partition_of("acme")].cut, 0
    newest = deliveries.newest

    async def overtaken(*args: Any) -> deliveries.Found | None:
        nonlocal looks
        found = await newest(*args)
        looks += 1
        if looks <= trims:
            await api.attempted(f"other{looks}", "d")
            head = (await read.heads(api.log, [("dlv", partitions.partition_of("acme"))]))[0]
            await api.log.command("SET", cut, f"{head.ms}-{head.seq + 1}")
        return found

    monkeypatch.setattr(deliveries, "newest", overtaken)
    answer = await api.retry("e1", "d")
    assert (503 if trims == 3 else 202, min(trims + 1, 3)) == (answer.status_code, looks)


async def test_a_retry_asked_for_at_once_waits_for_the_attempt_to_be_in_the_log_store(
    api: RetryApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "LIMIT_S", 10.0)
    at = await api.event("e1")
    entry = log_entries.attempt("acme", "e1", status="failed", code="500", following="auto")
    entry[entry.index("ref") + 1] = str(delivery.TaskId(1, at.entry_id, "d", await api.created("d")))
    await log_entries.append(api.log, "dlv", "acme", entry)
    await tasks.open_entries(api.log, {0: []}, 1)
    second = str(delivery.TaskId(2, at.entry_id, "d", await api.created("d")))
    await api.log.command("ZADD", api.log.keys.partitions[at.partition].due, node.now_ms() + 60_000, second)
    asking = asyncio.create_task(api.retry("e1", "d"))
    await api.project()
    assert 202 == (await asking).status_code
    assert (await node.due(api.log))[second] <= node.now_ms()


async def test_without_the_log_store_it_is_an_outage_and_nothing_is_asked_for(
    redis70: RedisServer, own_postgres: Any
) -> None:
    store = await stores.open_store(own_postgres.url)
    await migrate.apply_pending(store)
    api = RetryApi(SETTINGS, redis70, store)
    api.store = store
    await api.tenant()
    await api.destination(id="d")
    await api.attempted("e1", "d")
    own_postgres.kill9()
    answer = await api.retry("e1", "d")
    assert (503, "postgres is unavailable", {"store": "postgres"}) == told(answer)
    assert "1" == answer.headers["Retry-After"]
    assert {} == await node.due(api.log)
    own_postgres.start()
    assert 202 == (await api.retry("e1", "d")).status_code
    await api.close()
    await store.close()


async def test_a_delivery_that_is_being_mended_is_asked_for_again_later(api: RetryApi) -> None:
    """It is not closed and not in `due`: the group was lost, and the fold is on its way."""
    await api.attempted("e1", "d", following="auto")
    answer = await api.retry("e1", "d")
    assert (503, "1") == (answer.status_code, answer.headers["Retry-After"])
    assert [] == [e for _, e in await node.entries(api.log, "dlv") if e.type == "retry.requested"]


async def test_without_a_key_nothing_is_said(api: RetryApi) -> None:
    async with api.client({}) as stranger:
        assert 401 == (await stranger.post("/retry", json={})).status_code


async def test_every_partition_is_waited_for_where_no_tenant_is_named(api: RetryApi) -> None:
    """Sixteen partitions, one of them with the delivery."""
    names = {partitions.partition_of(f"t{n}"): f"t{n}" for n in range(200)}
    assert 16 == len(names)
    for tenant in (names[0], names[15]):
        await api.tenant(tenant)
        await api.destination(tenant, id="d")
        await api.attempted(f"of-{tenant}", "d", tenant)
        assert 202 == (await api.retry(f"of-{tenant}", "d")).status_code
    kinds = [
        entry.type for _, entry in await node.entries(api.log, "dlv") if isinstance(entry, events.DeliveryEntry)
    ]
    assert 2 == kinds.count("retry.requested")
