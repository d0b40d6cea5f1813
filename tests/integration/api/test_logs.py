"""Events and attempts over HTTP: published through the API, projected into a real Postgres."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from outpost.api import settle
from outpost.log import position as positions
from projections.logs import migrate, projector
from projections.logs import store as stores
from tests.harness import log_entries
from tests.harness.api_server import SETTINGS, Api
from tests.harness.servers import RedisServer


class LogApi(Api):
    """An API whose log projection runs when a test says so."""

    store: stores.Store

    async def project(self) -> None:
        assert await projector.LogProjector(self.log, self.store, 1000).drain(30.0)

    async def event(self, id_: str, tenant: str = "acme", **fields: object) -> positions.Position:
        """Publishes and tells where the event stands."""
        body = {"tenant_id": tenant, "id": id_, "topic": "user.created", "data": {"n": 1}, **fields}
        answer = await self.http.post("/publish", json=body)
        assert answer.status_code == 202
        position = positions.parse(answer.headers["X-Outpost-Position"])
        assert position is not None
        return position

    async def attempt(
        self, id_: str, tenant: str = "acme", at: positions.Position | None = None, **of: object
    ) -> None:
        """Records an attempt at an event, as delivery does."""
        entry = at.entry_id if at else "5-0"
        await log_entries.append(self.log, "dlv", tenant, log_entries.attempt(tenant, id_, entry, **of))

    async def get(self, path: str, **params: object) -> dict[str, object]:
        answer = await self.http.get(path, params=params or None)  # an empty map would take its query away
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def ids(self, path: str, key: str = "id", **params: object) -> list[object]:
        return [model[key] for model in (await self.get(path, **params))["models"]]


@pytest.fixture
async def logs(redis70: RedisServer, postgres_url: str) -> AsyncIterator[LogApi]:
    store = await stores.open_store(postgres_url)
    await migrate.apply_pending(store)
    started = LogApi(SETTINGS, redis70, store)
    started.store = store
    await started.tenant()
    yield started
    await started.close()
    await store.close()


@pytest.mark.behaviour(27)
async def test_an_event_is_shown_as_it_was_published(logs: LogApi) -> None:
    made = await logs.destination()
    data = '{"z":1.0,"a":[],"a":"\\u0000"}'
    body = f'{{"tenant_id":"acme","id":"e1","topic":"user.created","data":{data},"metadata":{{"k":"v"}},'
    body += '"time":"2026-01-02T03:04:05.6Z","eligible_for_retry":false}'
    assert (await logs.http.post("/publish", content=body)).status_code == 202
    await logs.project()
    answer = await logs.http.get("/events/e1")
    assert answer.json() == {
        "id": "e1",
        "tenant_id": "acme",
        "matched_destination_ids": [made["id"]],
        "topic": "user.created",
        "time": "2026-01-02T03:04:05.600Z",
        "eligible_for_retry": False,
        "metadata": {"k": "v"},
        "data": json.loads(data),
    }
    assert f'"data":{data}' in answer.text


@pytest.mark.behaviour(16, 123)
@pytest.mark.parametrize("said", [{}, {"metadata": None}, {"metadata": {}}])
async def test_an_event_without_metadata_shows_none(logs: LogApi, said: dict[str, object]) -> None:
    at = await logs.event("e1", **said)
    await logs.attempt("e1", at=at)
    await logs.project()
    assert "metadata" not in await logs.get("/events/e1")
    assert [False] == ["metadata" in event for event in (await logs.get("/events"))["models"]]
    assert [False] == ["metadata" in one["event"] for one in (await logs.get("/attempts?include=event"))["models"]]


async def test_an_event_with_zero_matches_is_listed(logs: LogApi) -> None:
    await logs.event("e1")
    await logs.event("e2", "nobody")
    await logs.project()
    assert set(await logs.ids("/events")) == {"e1", "e2"}
    assert (await logs.get("/events/e2"))["matched_destination_ids"] == []


@pytest.mark.behaviour(115)
async def test_a_list_is_newest_first_a_hundred_at_a_time(logs: LogApi) -> None:
    for n in range(3):
        await logs.event(f"e{n}", time=f"2026-01-02T03:04:0{n}Z")
    await logs.project()
    page = await logs.get("/events")
    assert [event["id"] for event in page["models"]] == ["e2", "e1", "e0"]
    assert page["pagination"] == {"order_by": "time", "dir": "desc", "limit": 100, "next": None, "prev": None}


@pytest.mark.behaviour(115)
@pytest.mark.parametrize(
    ("limit", "effective"),
    [("1000", 1000), ("1001", 1000), ("5000", 1000), ("0", 100), ("-5", 100), ("abc", 100), ("", 100), ("7", 7)],
)
async def test_the_limit_is_lenient(logs: LogApi, limit: str, effective: int) -> None:
    for path in ("/events", "/attempts"):
        assert (await logs.get(path, limit=limit))["pagination"]["limit"] == effective


@pytest.mark.behaviour(116)
@pytest.mark.parametrize("direction", ["asc", "desc"])
async def test_ten_events_by_three_take_four_pages_and_lead_back(logs: LogApi, direction: str) -> None:
    for n in range(10):
        await logs.event(f"e{n}", time=f"2026-01-02T03:04:0{n}Z")
    await logs.project()
    pages = [await logs.get("/events", limit=3, dir=direction)]
    while cursor := pages[-1]["pagination"]["next"]:
        pages.append(await logs.get("/events", limit=3, dir=direction, next=cursor))
    seen = [event["id"] for page in pages for event in page["models"]]
    expected = [f"e{n}" for n in range(10)]
    assert len(pages) == 4
    assert seen == (expected if direction == "asc" else expected[::-1])
    back = await logs.get("/events", limit=3, dir=direction, prev=pages[2]["pagination"]["prev"])
    assert back["models"] == pages[1]["models"]


@pytest.mark.behaviour(118)
async def test_time_filters_and_a_cursor_combine(logs: LogApi) -> None:
    for n in range(6):
        await logs.event(f"e{n}", time=f"2026-01-02T03:04:0{n}Z")
    await logs.project()
    bounds = {"time[gte]": "2026-01-02T03:04:01Z", "time[lt]": "2026-01-02T03:04:05Z"}
    first = await logs.get("/events", limit=3, **bounds)
    rest = await logs.get("/events", limit=3, next=first["pagination"]["next"], **bounds)
    assert [event["id"] for page in (first, rest) for event in page["models"]] == ["e4", "e3", "e2", "e1"]
    assert await logs.ids("/events", **{"time[gt]": "2026-01-02T03:04:01Z", "time[lte]": "2026-01-02"}) == []
    assert await logs.ids("/events", **{"time[lte]": "2026-01-02T03:04:00Z", "time[gte]": "2026-01-02"}) == ["e0"]
    assert await logs.ids("/events", time="2030-01-01") != []


@pytest.mark.behaviour(119)
async def test_events_are_filtered(logs: LogApi) -> None:
    one = await logs.destination()
    await logs.event("e1")
    await logs.event("e2", topic="order.paid")
    await logs.event("e1", "other")
    await logs.project()
    assert sorted(await logs.ids("/events", "tenant_id", id=["e1", "e9"])) == ["acme", "other"]
    assert await logs.ids("/events", tenant_id="other") == ["e1"]
    assert await logs.ids("/events", topic=["order.paid", "x"]) == ["e2"]
    assert await logs.ids("/events", "tenant_id", destination_id=one["id"]) == ["acme"]
    assert await logs.ids("/events", tenant_id="acme", topic="user.deleted") == []


@pytest.mark.behaviour(7)
@pytest.mark.parametrize(
    "query", ["id=e0&id=e2", "id[]=e0&id[]=e2", "id[0]=e0&id[9]=e2", "id[x]=e1&id[0]=e0&id[1]=e2"]
)
async def test_lists_are_understood_in_every_spelling(logs: LogApi, query: str) -> None:
    for n in range(3):
        await logs.event(f"e{n}")
    await logs.project()
    answer = await logs.http.get(f"/events?{query}")
    assert {event["id"] for event in answer.json()["models"]} == {"e0", "e2"}


@pytest.mark.behaviour(120)
async def test_an_event_of_another_tenant_is_not_found(logs: LogApi) -> None:
    await logs.event("e1")
    await logs.project()
    assert (await logs.get("/events/e1", tenant_id="acme"))["id"] == "e1"
    for path in ("/events/e1?tenant_id=other", "/events/e9"):
        answer = await logs.http.get(path)
        assert (answer.status_code, answer.json()) == (404, {"status": 404, "message": "event not found"})


@pytest.mark.behaviour(117)
async def test_a_cursor_of_another_list_is_refused(logs: LogApi) -> None:
    for n in range(2):
        await logs.event(f"e{n}")
        await logs.attempt(f"e{n}")
    await logs.project()
    event = (await logs.get("/events", limit=1))["pagination"]["next"]
    attempt = (await logs.get("/attempts", limit=1))["pagination"]["next"]
    assert event
    assert attempt
    for path, cursor in (("/events", attempt), ("/attempts", event), ("/tenants", event), ("/events", "~")):
        answer = await logs.http.get(path, params={"next": cursor})
        message = "invalid cursor: invalid cursor" if path == "/tenants" else "invalid cursor"
        assert (answer.status_code, answer.json()["message"]) == (400, message)


@pytest.mark.behaviour(121)
async def test_an_attempt_shows_what_was_asked_for(logs: LogApi) -> None:
    made = await logs.destination(id="d1")
    at = await logs.event("e1", metadata={"k": "v"})
    await logs.attempt(
        "e1", at=at, destination="d1", response=b'{"status":500,"body":"no"}', status="failed", code="500"
    )
    await logs.project()
    (plain,) = (await logs.get("/attempts"))["models"]
    assert set(plain) == {
        "id", "tenant_id", "status", "time", "code", "attempt_number", "manual", "destination_type", "event_id",
        "destination_id", "latency_ms",
    }  # fmt: skip
    assert isinstance(plain["latency_ms"], int)
    assert (plain["status"], plain["code"], plain["attempt_number"], plain["manual"]) == (
        "failed",
        "500",
        1,
        False,
    )
    assert (plain["event_id"], plain["destination_id"], plain["destination_type"]) == ("e1", "d1", "webhook")
    includes = {"include": ["event", "response_data", "destination"]}
    shown = await logs.get(f"/attempts/{plain['id']}", **includes)
    assert shown["response_data"] == {"status": 500, "body": "no"}
    assert shown["destination"] == made
    assert shown["event"]["metadata"] == {"k": "v"}
    assert shown["event"]["matched_destination_ids"] == ["d1"]
    assert "data" not in shown["event"]
    full = await logs.get(f"/attempts/{plain['id']}", include="event.data")
    assert full["event"]["data"] == {"n": 1}
    assert {"response_data", "destination"}.isdisjoint(full)
    assert (await logs.get("/attempts", **includes))["models"] == [shown]


@pytest.mark.behaviour(121)
async def test_a_destination_that_is_gone_or_made_anew_is_left_out(logs: LogApi) -> None:
    await logs.destination(id="d1")
    await logs.attempt("e1", destination="d1")
    await logs.project()
    assert "destination" in (await logs.get("/attempts", include="destination"))["models"][0]
    await logs.http.delete("/tenants/acme/destinations/d1")
    assert "destination" not in (await logs.get("/attempts", include="destination"))["models"][0]
    await logs.destination(id="d1")
    assert "destination" not in (await logs.get("/attempts", include="destination"))["models"][0]


@pytest.mark.behaviour(119)
async def test_attempts_are_filtered(logs: LogApi) -> None:
    await logs.attempt("e1", destination="d1")
    await logs.attempt("e1", destination="d2", status="failed", code="500")
    await logs.attempt("e2", destination="d1", topic="order.paid")
    await logs.attempt("e3", "other", destination="d1", type_="kafka")
    await logs.project()

    async def found(**params: object) -> list[object]:
        return sorted(await logs.ids("/attempts", "event_id", **params))

    assert await found() == ["e1", "e1", "e2", "e3"]
    assert await found(tenant_id="other") == ["e3"]
    assert await found(event_id=["e1", "e3"]) == ["e1", "e1", "e3"]
    assert await found(destination_id="d2") == ["e1"]
    assert await found(destination_type="kafka") == ["e3"]
    assert await found(topic="order.paid") == ["e2"]
    assert await found(status="failed") == ["e1"]
    assert await found(status="unknown") == []


@pytest.mark.behaviour(122)
async def test_attempts_of_a_destination_are_those_of_its_tenant(logs: LogApi) -> None:
    await logs.tenant("other")
    await logs.attempt("e1", destination="d1")
    await logs.attempt("e2", destination="d2")
    await logs.attempt("e3", "other", destination="d3")
    await logs.project()
    path = "/tenants/acme/destinations"
    assert await logs.ids(f"{path}/d1/attempts", "event_id", destination_id="d2") == ["e1"]
    assert await logs.ids(f"{path}/d3/attempts") == []
    assert await logs.ids(f"{path}/unknown/attempts") == []
    (one,) = await logs.ids(f"{path}/d1/attempts")
    (foreign,) = await logs.ids("/tenants/other/destinations/d3/attempts")
    assert (await logs.get(f"{path}/d1/attempts/{one}"))["id"] == one
    for missing in (f"{path}/d2/attempts/{one}", f"{path}/d3/attempts/{foreign}", f"{path}/d1/attempts/x"):
        answer = await logs.http.get(missing)
        assert (answer.status_code, answer.json()) == (404, {"status": 404, "message": "attempt not found"})
    answer = await logs.http.get("/tenants/nobody/destinations/d1/attempts")
    assert (answer.status_code, answer.json()["message"]) == (404, "tenant not found")


@pytest.mark.behaviour(120)
async def test_an_attempt_of_another_tenant_is_not_found(logs: LogApi) -> None:
    await logs.attempt("e1")
    await logs.project()
    (id_,) = await logs.ids("/attempts")
    assert (await logs.http.get(f"/attempts/{id_}?tenant_id=acme")).status_code == 200
    for path in (f"/attempts/{id_}?tenant_id=other", "/attempts/unknown", f"/attempts/{id_}x"):
        assert (await logs.http.get(path)).status_code == 404


async def test_a_read_waits_for_the_projection(logs: LogApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "LIMIT_S", 60.0)
    at = await logs.event("e1")
    await logs.attempt("e1", at=at, destination="d1")
    reads = [
        asyncio.create_task(logs.http.get(path))
        for path in ("/events/e1", "/attempts?event_id=e1", "/tenants/acme/destinations/d1/attempts")
    ]
    await asyncio.wait(reads, timeout=0.05)  # they have looked once and found nothing
    await logs.project()
    event, attempts, of_destination = await asyncio.gather(*reads)
    assert event.json()["id"] == "e1"
    assert len(attempts.json()["models"]) == 1
    assert len(of_destination.json()["models"]) == 1


async def test_a_read_does_not_wait_where_the_projection_is_up_to_date(
    logs: LogApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "LIMIT_S", 600.0)
    await logs.event("e1")
    await logs.project()
    async with asyncio.timeout(60):
        assert (await logs.http.get("/events/unknown")).status_code == 404
        assert await logs.ids("/attempts", event_id="e1") == []


async def test_a_read_gives_up_on_a_projection_that_stands_still(logs: LogApi) -> None:
    await logs.event("e1")
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with asyncio.timeout(60):
        assert (await logs.http.get("/events/e1")).status_code == 404
    assert 0.4 < loop.time() - start


async def test_without_postgres_the_log_is_unavailable_and_publishing_goes_on(api: Api) -> None:
    await api.tenant()
    await api.publish()
    for path in ("/events", "/events/e1", "/attempts", "/tenants/acme/destinations/d/attempts"):
        answer = await api.http.get(path)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert answer.json() == {
            "status": 503,
            "message": "postgres is unavailable",
            "data": {"store": "postgres"},
        }
