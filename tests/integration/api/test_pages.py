"""Pages end at a number of bytes, their cursors go on from there, and what lies beyond is not fetched."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
from litestar.types import Scope

from outpost.api import reads
from outpost.log.redis import client
from projections.config import query
from projections.logs import migrate
from projections.logs import store as stores
from tests.harness.api_server import SETTINGS
from tests.harness.servers import RedisServer
from tests.integration.api.test_logs import LogApi

PAGE_BYTES = 20_000
LARGE = 6_000  # characters: three of such rows fit into a page
DIRECTIONS = pytest.mark.parametrize("direction", ["asc", "desc"])


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> list[reads.Reads]:
    """The room of each API that is built."""
    made: list[reads.Reads] = []

    def build(max_bytes: int, kind: type[reads.Reads] = reads.Reads) -> reads.Reads:
        made.append(kind(max_bytes))
        return made[-1]

    monkeypatch.setattr(reads, "Reads", build)
    return made


@pytest.fixture
async def logs(redis70: RedisServer, postgres_url: str, rooms: list[reads.Reads]) -> AsyncIterator[LogApi]:
    store = await stores.open_store(postgres_url)
    await migrate.apply_pending(store)
    settings = msgspec.structs.replace(SETTINGS, api_max_page_bytes=PAGE_BYTES)
    started = LogApi(settings, redis70, store)
    started.store = store
    await started.tenant()
    yield started
    await started.close()
    await store.close()


async def forwards(logs: LogApi, path: str, key: str, **params: object) -> tuple[list[list[object]], list[dict]]:
    """Every page from the first one, and the cursors of each."""
    pages, cursors, following = [], [], None
    while True:
        page = await logs.get(path, **params, **({"next": following} if following else {}))
        assert page["models"]
        assert len(json.dumps(page)) < 2 * PAGE_BYTES
        pages.append([model[key] for model in page["models"]])
        cursors.append(page["pagination"])
        following = page["pagination"]["next"]
        if following is None:
            return pages, cursors


async def backwards(
    logs: LogApi, path: str, key: str, previous: str | None, **params: object
) -> list[list[object]]:
    pages = []
    while previous is not None:
        page = await logs.get(path, **params, prev=previous)
        pages.insert(0, [model[key] for model in page["models"]])
        previous = page["pagination"]["prev"]
    return pages


@DIRECTIONS
async def test_a_page_of_large_events_ends_early_and_none_is_left_out(logs: LogApi, direction: str) -> None:
    wanted = []
    for number in range(10):
        time = f"2026-01-02T03:04:{number:02}Z"
        await logs.event(f"e{number}", data={"text": "x" * LARGE}, time=time)
        wanted.append(f"e{number}")
    await logs.project()
    wanted = wanted if direction == "asc" else wanted[::-1]
    pages, cursors = await forwards(logs, "/events", "id", limit=1000, dir=direction)
    assert [3, 3, 3, 1] == [len(page) for page in pages]
    assert wanted == [id_ for page in pages for id_ in page]
    back = await backwards(logs, "/events", "id", cursors[-1]["prev"], limit=1000, dir=direction)
    assert [3, 3, 3] == [len(page) for page in back]
    assert wanted[:9] == [id_ for page in back for id_ in page]


async def test_a_limit_below_the_bytes_counts_as_before(logs: LogApi) -> None:
    for number in range(5):
        await logs.event(f"e{number}", data={"text": "x" * LARGE})
    await logs.project()
    pages, _ = await forwards(logs, "/events", "id", limit=2)
    assert [2, 2, 1] == [len(page) for page in pages]


async def test_an_event_larger_than_a_page_has_one_for_itself(logs: LogApi) -> None:
    for number, size in enumerate([10, 30_000, 40_000, 10, 10]):
        await logs.event(f"e{number}", data={"text": "é" * (size // 2)}, time=f"2026-01-02T03:04:{number:02}Z")
    await logs.project()
    pages, following = [], None
    while True:
        page = await logs.get("/events", dir="asc", **({"next": following} if following else {}))
        pages.append([model["id"] for model in page["models"]])
        if (following := page["pagination"]["next"]) is None:
            break
    assert [["e0"], ["e1"], ["e2"], ["e3", "e4"]] == pages


@pytest.mark.parametrize("include", ["response_data", "event.data"])
@DIRECTIONS
async def test_what_attempts_include_counts(logs: LogApi, include: str, direction: str) -> None:
    large = include == "event.data"
    for number in range(7):
        position = await logs.event(f"e{number}", data={"text": "x" * (LARGE if large else 1)})
        response = b'{"body":"%b"}' % (b"y" * (1 if large else LARGE))
        await logs.attempt(f"e{number}", at=position, response=response)
    await logs.project()
    pages, cursors = await forwards(logs, "/attempts", "event_id", include=include, dir=direction)
    assert [3, 3, 1] == [len(page) for page in pages]
    assert {f"e{number}" for number in range(7)} == {id_ for page in pages for id_ in page}
    back = await backwards(logs, "/attempts", "event_id", cursors[-1]["prev"], include=include, dir=direction)
    assert [3, 3] == [len(page) for page in back]
    assert [7] == [len(page) for page in (await forwards(logs, "/attempts", "event_id", dir=direction))[0]]


@DIRECTIONS
async def test_the_destinations_that_attempts_show_count_each_time(logs: LogApi, direction: str) -> None:
    metadata = {f"k{number}": "v" * 2_000 for number in range(3)}
    made = await logs.destination(metadata=metadata)
    [destination] = (await logs.http.get("/tenants/acme/destinations")).json()
    assert made["id"] == destination["id"]
    for number in range(7):
        position = await logs.event(f"e{number}")
        await logs.attempt(f"e{number}", at=position, destination=str(made["id"]))
    await logs.project()
    found = {"include": "destination", "dir": direction}
    pages, cursors = await forwards(logs, "/attempts", "event_id", **found)
    assert [3, 3, 1] == [len(page) for page in pages]
    assert {f"e{number}" for number in range(7)} == {id_ for page in pages for id_ in page}
    back = await backwards(logs, "/attempts", "event_id", cursors[-1]["prev"], **found)
    assert [id_ for page in pages[:2] for id_ in page] == [id_ for page in back for id_ in page]


async def test_what_is_not_shown_of_a_tenant_is_not_read(logs: LogApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts read the destinations that they show, and a list of named tenants the tenants of its page."""
    made = await logs.destination()
    position = await logs.event("e1")
    await logs.attempt("e1", at=position, destination=str(made["id"]))
    await logs.project()
    assert 201 == (await logs.http.put("/tenants/other", json={})).status_code
    read: list[str] = []
    real = query._hashes

    async def watched(log: client.Log, wanted: Sequence[str]) -> list[dict[bytes, bytes]]:
        read.extend(wanted)
        return await real(log, wanted)

    monkeypatch.setattr(query, "_hashes", watched)
    [attempt] = (await logs.get("/attempts", include="destination"))["models"]
    assert (made["id"], []) == (attempt["destination"]["id"], read)
    found = await logs.get("/tenants", id=["acme", "other"], limit=1)
    assert (2, 1) == (found["count"], len(found["models"]))
    assert [found["models"][0]["id"]] == read


@DIRECTIONS
async def test_a_page_of_large_tenants_ends_early(logs: LogApi, direction: str) -> None:
    metadata = {f"k{number}": "v" * 2_000 for number in range(3)}
    names = [f"t{number}" for number in range(5)]
    for name in names:
        assert 201 == (await logs.http.put(f"/tenants/{name}", json={"metadata": metadata})).status_code
    pages, cursors = await forwards(logs, "/tenants", "id", id=names, dir=direction)
    assert all(1 <= len(page) <= 3 for page in pages)
    assert sorted(names) == sorted(str(id_) for page in pages for id_ in page)
    back = await backwards(logs, "/tenants", "id", cursors[-1]["prev"], id=names, dir=direction)
    assert [id_ for page in pages[:-1] for id_ in page] == [id_ for page in back for id_ in page]
    assert 6 == (await logs.get("/tenants"))["count"]


async def test_every_read_gives_its_room_back(
    logs: LogApi, rooms: list[reads.Reads], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that end with an error, and those whose answer is larger than what they reserved."""
    made = await logs.destination()
    await logs.event("e1", data={"text": "x" * 50_000})
    await logs.project()
    destinations = "/tenants/acme/destinations"
    paths = ["/events", "/events/e1", "/events/none", "/events?next=broken"]
    paths += ["/attempts", "/attempts?include=destination", "/attempts/none"]
    paths += ["/tenants", "/tenants?limit=101", "/tenants/acme", "/tenants/none"]
    paths += [destinations, f"{destinations}/{made['id']}", f"{destinations}/none"]
    for path in paths:
        await logs.http.get(path)
    [room] = rooms
    assert {} == room._held
    monkeypatch.setattr(reads, "MAX_WAITING", 0)
    room._held["elsewhere"] = SETTINGS.api_max_read_bytes_in_flight
    answer = await logs.http.get("/events")
    assert (503, "1") == (answer.status_code, answer.headers["Retry-After"])
    assert "too much reading is under way; try again" == answer.json()["message"]


async def test_one_attempt_reserves_what_its_destination_may_take_beside_its_event(
    logs: LogApi, rooms: list[reads.Reads], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await logs.destination()
    position = await logs.event("e1")
    await logs.attempt("e1", at=position, destination=str(made["id"]))
    await logs.project()
    [attempt] = (await logs.get("/attempts"))["models"]
    [room] = rooms
    reserved: list[int] = []
    real = room.reserve

    async def watched(scope: Scope, size: int, tenant: str | None = None) -> None:
        reserved.append(size)
        await real(scope, size, tenant)

    monkeypatch.setattr(room, "reserve", watched)
    for path in (
        f"/attempts/{attempt['id']}",
        f"/tenants/acme/destinations/{made['id']}/attempts/{attempt['id']}",
    ):
        await logs.get(path)
        await logs.get(path, include="destination")
    alone, whole = SETTINGS.api_max_body_bytes, SETTINGS.api_max_body_bytes + PAGE_BYTES
    assert [alone, whole] * 2 == reserved
