"""Bodies as clients send them: with a byte order mark, with gzip, beside every route that reads one."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable

import httpx
import msgspec
import pytest

from tests.harness.api_server import KEY, SETTINGS, WEBHOOK, Api
from tests.harness.polling import eventually
from tests.harness.servers import RedisServer

PUBLISH = json.dumps({"tenant_id": "acme", "topic": "user.created", "data": {"n": 1}}).encode()
ROUTES = [
    ("POST", "/publish", PUBLISH, 202),
    ("POST", "/%70ublish", PUBLISH, 202),
    ("POST", "/publish/", PUBLISH, 202),
    ("PUT", "/tenants/acme", b'{"metadata":{"a":"b"}}', 200),
    ("POST", "/tenants/acme/destinations", json.dumps(WEBHOOK).encode(), 201),
    ("PATCH", "/tenants/acme/destinations/d1", b'{"topics":["*"]}', 200),
]
BOM = b"\xef\xbb\xbf"
LIMIT = SETTINGS.api_max_body_bytes


async def statuses(api: Api, change: Callable[[bytes], bytes], headers: dict[str, str]) -> list[int]:
    await api.tenant()
    await api.destination(id="d1")
    found = []
    async with (
        api.listening() as url,
        httpx.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as http,
    ):
        for method, path, body, _ in ROUTES:
            answer = await http.request(method, f"{url}/api/v1{path}", content=change(body), headers=headers)
            found.append(answer.status_code)
            if answer.status_code == 415:
                assert "gzip" in answer.json()["message"]
    return found


RIGHT = [status for *_, status in ROUTES]


@pytest.mark.case(16)
@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip"])
@pytest.mark.parametrize("mark", [b"", BOM])
async def test_a_body_may_be_gzip_and_begin_with_a_mark(api: Api, coding: str, mark: bytes) -> None:
    assert RIGHT == await statuses(api, lambda body: gzip.compress(mark + body), {"Content-Encoding": coding})


@pytest.mark.case(16)
@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "identity"}, {"Content-Encoding": ""}])
async def test_a_mark_is_no_part_of_a_body(api: Api, headers: dict[str, str]) -> None:
    assert RIGHT == await statuses(api, lambda body: BOM + body, headers)


@pytest.mark.case(16)
@pytest.mark.parametrize("coding", ["br", "deflate", "gzip, gzip", "zstd", "gzip;q=1"])
async def test_another_coding_is_told_by_a_sentence(api: Api, coding: str) -> None:
    assert [415] * len(ROUTES) == await statuses(api, lambda body: body, {"Content-Encoding": coding})


@pytest.mark.case(16)
async def test_gzip_that_is_none_is_refused(api: Api) -> None:
    assert [422] * len(ROUTES) == await statuses(api, lambda body: body, {"Content-Encoding": "gzip"})


@pytest.mark.case(16)
async def test_gzip_of_more_than_the_limit_is_too_large(api: Api) -> None:
    large = gzip.compress(b" " * 100 * LIMIT)
    assert len(large) < LIMIT
    assert [413] * len(ROUTES) == await statuses(api, lambda _: large, {"Content-Encoding": "gzip"})


async def test_what_gzip_holds_counts_among_the_bytes_in_flight(
    start: Callable[..., Api], redis70: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two requests of a kilobyte that become as much as all may hold together: the second is told to come
    again."""
    api = start(msgspec.structs.replace(SETTINGS, api_max_body_bytes_in_flight=LIMIT + 20_000), redis70)
    await api.tenant()
    entered, go = asyncio.Event(), asyncio.Event()

    async def slow(*_args: object, **_more: object) -> None:
        entered.set()
        await go.wait()
        raise AssertionError

    monkeypatch.setattr(api.deps.publisher, "publish", slow)
    body = gzip.compress(PUBLISH[:-2] + b',"filler":"' + b"x" * (LIMIT - 200) + b'"}}')
    headers = {"Authorization": f"Bearer {KEY}", "Content-Encoding": "gzip"}
    async with api.listening() as url, httpx.AsyncClient(headers=headers, timeout=60) as http:
        first = asyncio.create_task(http.post(f"{url}/api/v1/publish", content=body))
        await eventually(entered.is_set)
        second = await http.post(f"{url}/api/v1/publish", content=body)
        assert (503, "1") == (second.status_code, second.headers["Retry-After"])
        go.set()
        assert 500 == (await first).status_code
        monkeypatch.undo()
        assert 202 == (await http.post(f"{url}/api/v1/publish", content=body)).status_code
