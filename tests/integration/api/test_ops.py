"""Health, readiness, topics, destination types; and what becomes of errors that are not the client's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest

from outpost import errors
from outpost.api import app
from outpost.domain import times
from projections.logs import store as stores
from tests.harness.api_server import SETTINGS, WEBHOOK, Api
from tests.harness.polling import eventually
from tests.harness.servers import PostgresServer, RedisServer

ROOT = "http://outpost"


@pytest.mark.behaviour(11)
@pytest.mark.parametrize("path", ["/healthz", f"{ROOT}/healthz"])
async def test_health_needs_no_key_and_tells_of_every_worker(api: Api, path: str) -> None:
    api.health.states = {"http-server": True, "log-projector": True}
    async with api.client({}) as http:
        healthy = await http.get(path)
        assert healthy.status_code == 200
        assert healthy.json()["status"] == "healthy"
        assert healthy.json()["workers"]["log-projector"] == {"status": "healthy"}
        assert times.parse(healthy.json()["timestamp"]) is not None
        api.health.states["log-projector"] = False
        failed = await http.get(path)
        assert failed.status_code == 503
        assert failed.json()["status"] == "failed"
        assert failed.json()["workers"]["log-projector"] == {"status": "failed"}


@pytest.mark.parametrize("path", ["/readyz", f"{ROOT}/readyz"])
async def test_readiness_names_what_is_in_the_way(api: Api, path: str) -> None:
    async with api.client({}) as http:
        assert (await http.get(path)).json() == {"status": "ready", "reasons": []}
        api.health.in_the_way = ["config is halted before cfg.07.1-0"]
        answer = await http.get(path)
        assert answer.status_code == 503
        assert answer.json() == {"status": "not_ready", "reasons": ["config is halted before cfg.07.1-0"]}


async def test_without_redis_the_process_is_not_ready_and_says_so_to_clients(
    own_redis: RedisServer, start: Callable[..., Api]
) -> None:
    api = start(SETTINGS, own_redis)
    await api.tenant()
    own_redis.kill9()
    ready = await api.http.get("/readyz")
    assert (ready.status_code, ready.json()["reasons"]) == (503, ["redis is unavailable"])
    requests: list[tuple[str, str, object]] = [
        ("GET", "/tenants/acme", None),
        ("GET", "/tenants", None),
        ("PUT", "/tenants/acme", None),
        ("POST", "/tenants/acme/destinations", WEBHOOK),
        ("POST", "/publish", {"tenant_id": "acme", "topic": "user.created", "data": {}}),
    ]
    answers = await asyncio.gather(*(api.http.request(method, path, json=body) for method, path, body in requests))
    for answer in answers:
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert answer.json() == {"status": 503, "message": "redis is unavailable", "data": {"store": "redis"}}
    own_redis.start()
    method, path, body = requests[-1]
    await eventually(lambda: accepted(api.http, method, path, body))


@pytest.mark.parametrize(("service", "status", "word"), [("all", 200, "degraded"), ("log", 503, "not_ready")])
async def test_without_postgres_only_the_role_that_writes_it_is_not_ready(
    redis70: RedisServer,
    own_postgres: PostgresServer,
    start: Callable[..., Api],
    service: str,
    status: int,
    word: str,
) -> None:
    store = await stores.open_store(own_postgres.url)
    api = start(msgspec.structs.replace(SETTINGS, service=service), redis70, store)
    await eventually(lambda: is_ready(api.http))
    own_postgres.kill9()

    async def told() -> bool:  # a connection may outlive the server for a moment
        answer = await api.http.get("/readyz")
        expected = {"status": word, "reasons": ["postgres is unavailable"]}
        return (status, expected) == (answer.status_code, answer.json())

    await eventually(told)
    assert (await api.http.get("/events")).status_code == 503
    await api.tenant()
    assert (await api.publish())["duplicate"] is False
    await store.close()


async def accepted(http: httpx.AsyncClient, method: str, path: str, body: object) -> bool:
    return (await http.request(method, path, json=body)).status_code == 202


async def is_ready(http: httpx.AsyncClient) -> bool:
    return (await http.get("/readyz")).json()["status"] == "ready"


async def test_the_other_roles_serve_health_and_readiness_alone(api: Api) -> None:
    deps = api.deps
    probes = app.Probes(
        settings=deps.settings, log=deps.log, store=deps.store, health=deps.health, now_ms=deps.now_ms
    )
    transport = httpx.ASGITransport(app.build_health(probes))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url=ROOT) as http:
        for path in ("/healthz", "/readyz", "/api/v1/healthz", "/api/v1/readyz"):
            assert (await http.get(path)).status_code == 200
        for path in ("/api/v1/topics", "/api/v1/publish", "/openapi.json", "/"):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()) == (404, {"status": 404, "message": "not found"})


@pytest.mark.behaviour(12)
async def test_topics_are_those_of_the_deployment_in_order(api: Api, api_without_topics: Api) -> None:
    assert (await api.http.get("/topics")).json() == ["user.created", "user.deleted", "order.paid"]
    assert (await api_without_topics.http.get("/topics")).json() == []


@pytest.mark.behaviour(13)
async def test_destination_types_are_shown_with_their_fields(api: Api) -> None:
    webhook, *others = (await api.http.get("/destination-types")).json()
    assert webhook["type"] == "webhook"
    assert {"label", "description", "icon", "instructions", "config_fields", "credential_fields"} <= set(others[0])
    assert webhook["icon"].startswith("<svg")
    assert webhook["config_fields"][0]["key"] == "url"
    assert (await api.http.get("/destination-types/webhook")).json() == webhook


async def test_without_a_key_everybody_is_let_in(redis70: RedisServer, start: Callable[..., Api]) -> None:
    api = start(msgspec.structs.replace(SETTINGS, api_key="", insecure=True), redis70)
    async with api.client({"Authorization": "Basic whatever"}) as http:
        assert (await http.get("/topics")).status_code == 200
        assert (await http.put("/tenants/acme")).status_code == 201


@pytest.mark.behaviour(1)
@pytest.mark.parametrize(
    ("raised", "status", "body"),
    [
        (errors.Contended("acme"), 503, {"message": "the tenant is being changed concurrently; try again"}),
        (
            errors.Halted("cfg.07.1-0"),
            503,
            {
                "message": "the config projection is halted before cfg.07.1-0; see `outpost streams skip`",
                "data": {"position": "cfg.07.1-0"},
            },
        ),
        (errors.StoreFull("redis", "used up"), 503, {"message": "redis is full", "data": {"store": "redis"}}),
        (errors.UnsealError("x"), 500, {"message": "internal server error"}),
        (ValueError("a secret"), 500, {"message": "internal server error"}),
        (RecursionError("a secret"), 500, {"message": "internal server error"}),
    ],
)
async def test_errors_that_are_not_the_clients_have_their_status(
    api: Api, capsys: pytest.CaptureFixture[str], raised: Exception, status: int, body: dict[str, Any]
) -> None:
    async def fail(*_: object) -> None:
        raise raised

    object.__setattr__(api.deps.publisher, "publish", fail)
    request = {"tenant_id": "acme", "topic": "user.created", "data": {"secret": "payload"}}
    for path in ("/publish", "/publish/"):
        answer = await api.http.post(path, json=request)
        assert (answer.status_code, answer.json()) == (status, {"status": status, **body})
    shown = "".join(capsys.readouterr())
    assert "payload" not in shown
    assert "a secret" not in shown
    if status == 500:
        assert type(raised).__name__ in shown
