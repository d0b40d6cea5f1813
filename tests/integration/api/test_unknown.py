"""Fields and query parameters that are not known refuse their request, since one that was meant to narrow it would
widen it unseen; `API_UNKNOWN_FIELDS=ignore` is for who needs the published way."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import msgspec
import pytest

from outpost.log import partition as partitions
from outpost.log import read
from tests.harness.api_server import KEY, SETTINGS, WEBHOOK, Api
from tests.harness.servers import RedisServer

PUBLISH = {"tenant_id": "acme", "topic": "user.created", "data": {}}
WRITES = [
    ("POST", "/publish", {**PUBLISH, "destinationId": "d1"}, "destinationId"),
    ("POST", "/publish/", {**PUBLISH, "destinationId": "d1"}, "destinationId"),
    ("PUT", "/tenants/acme", {"meta": {"a": "b"}}, "meta"),
    ("POST", "/tenants/acme/destinations", {**WEBHOOK, "filters": {"data": {"a": 1}}}, "filters"),
    ("PATCH", "/tenants/acme/destinations/d1", {"filters": {"data": {"a": 1}}}, "filters"),
]
QUERIES = [
    ("POST", "/publish?destination_id=d1", "destination_id"),
    ("POST", "/publish/?destination_id=d1", "destination_id"),
    ("POST", "/retry?tenant_id=acme", "tenant_id"),
    ("DELETE", "/tenants/acme?destination_id=d1", "destination_id"),
    ("GET", "/tenants?name=acme", "name"),
    ("GET", "/tenants/acme/destinations?topic=user.created", "topic"),
    ("GET", "/events?tenant=acme", "tenant"),
    ("GET", "/events?tenant[]=acme", "tenant[]"),
    ("GET", "/attempts?event=e1&limit=3", "event"),
    ("GET", "/topics?a", "a"),
    ("GET", "/events/e1?tenant=acme", "tenant"),
]


@pytest.fixture
async def acme(api: Api) -> Api:
    await api.tenant()
    await api.destination(id="d1")
    return api


async def events(api: Api) -> int:
    return len(await read.between(api.log, "evt", partitions.partition_of("acme")))


@pytest.mark.parametrize(("method", "path", "body", "field"), WRITES)
async def test_an_unknown_field_is_named_and_nothing_done(
    acme: Api, method: str, path: str, body: object, field: str
) -> None:
    before = (await acme.http.get("/tenants/acme/destinations")).json()
    answer = await acme.http.request(method, path, json=body)
    assert (422, [f"{field} is not known here"]) == (answer.status_code, answer.json()["data"])
    assert (0, before) == (await events(acme), (await acme.http.get("/tenants/acme/destinations")).json())


@pytest.mark.parametrize(("method", "path", "name"), QUERIES)
async def test_an_unknown_parameter_is_named_and_nothing_done(
    acme: Api, method: str, path: str, name: str
) -> None:
    answer = await acme.http.request(method, path, json=PUBLISH if method == "POST" else None)
    told = {f"query.{name}": f"query.{name} is not known here"}
    assert (422, told) == (answer.status_code, answer.json()["data"])
    assert 0 == await events(acme)
    assert 200 == (await acme.http.get("/tenants/acme")).status_code


async def test_the_route_in_place_says_the_same(acme: Api) -> None:
    async with acme.listening() as url, httpx.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}) as http:
        for path, body, name in [
            ("/publish", {**PUBLISH, "destinationId": "d1"}, "destinationId"),
            ("/publish?destination_id=d1", PUBLISH, "query.destination_id"),
        ]:
            answer = await http.post(f"{url}/api/v1{path}", json=body)
            assert 422 == answer.status_code
            assert f"{name} is not known here" in str(answer.json()["data"])
    assert 0 == await events(acme)


@pytest.mark.parametrize("path", ["/healthz?probe=1", "/readyz?x", "/topics?"])
async def test_probes_may_say_what_they_like(acme: Api, path: str) -> None:
    assert (await acme.http.get(path)).status_code < 300 or path.startswith("/readyz")


async def test_without_a_key_nothing_is_told_of_parameters(acme: Api) -> None:
    async with acme.client({}) as http:
        assert 401 == (await http.get("/tenants?name=acme")).status_code
        assert 401 == (await http.post("/publish?destination_id=d", json=PUBLISH)).status_code


async def test_all_of_them_are_ignored_where_that_is_set(start: Callable[..., Api], redis70: RedisServer) -> None:
    api = start(msgspec.structs.replace(SETTINGS, api_unknown_fields="ignore"), redis70)
    await api.tenant()
    await api.destination(id="d1")
    for method, path, body, _ in WRITES:
        assert (await api.http.request(method, path, json=body)).status_code < 300
    for method, path, _ in QUERIES:
        if path.startswith(("/publish", "/tenants", "/topics")) and method != "DELETE":
            answer = await api.http.request(method, path, json=PUBLISH if method == "POST" else None)
            assert answer.status_code < 300
