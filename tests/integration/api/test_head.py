"""HEAD: what a probe that wants no body hears."""

from __future__ import annotations

import asyncio

import pytest

from tests.harness.api_server import KEY, Api

ROUTES = [
    "/healthz",
    "/readyz",
    "/openapi.json",
    "/api/v1/healthz",
    "/api/v1/readyz",
    "/api/v1/topics",
    "/api/v1/destination-types",
    "/api/v1/destination-types/webhook",
    "/api/v1/destination-types/none",
    "/api/v1/tenants",
    "/api/v1/tenants/acme",
    "/api/v1/tenants/nobody",
    "/api/v1/tenants/acme/destinations",
    "/api/v1/tenants/acme/destinations/d1",
    "/api/v1/tenants/acme/destinations/d2",
    "/api/v1/events",
    "/api/v1/events/e1",
    "/api/v1/attempts",
    "/api/v1/attempts/a1",
    "/api/v1/tenants/acme/destinations/d1/attempts",
    "/api/v1/nowhere",
    "/",
]


async def ask(url: str, method: str, path: str) -> tuple[list[bytes], bytes]:
    """Status line and headers without those of the moment, and the body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {KEY}", "Connection: close"]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    async with asyncio.timeout(60):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return [line for line in head.split(b"\r\n") if not line.startswith((b"date", b"x-request-id"))], body


@pytest.mark.case(26)
@pytest.mark.parametrize("path", ROUTES)
async def test_head_is_answered_as_get_without_a_body(api: Api, path: str) -> None:
    """Reads of the log are 503 here, which HEAD says as GET does."""
    await api.tenant()
    await api.destination(id="d1")
    async with api.listening() as url:
        got, body = await ask(url, "GET", path)
        assert body
        assert (got, b"") == await ask(url, "HEAD", path)


@pytest.mark.case(26)
async def test_head_says_503_where_get_does(api: Api) -> None:
    api.health.states["http-server"] = False
    async with api.listening() as url:
        got, _ = await ask(url, "GET", "/healthz")
        assert b"503" in got[0]
        assert (got, b"") == await ask(url, "HEAD", "/healthz")


@pytest.mark.case(26)
async def test_head_of_a_route_that_writes_is_not_found(api: Api) -> None:
    async with api.listening() as url:
        for path in ("/api/v1/publish", "/api/v1/retry", "/api/v1/tenants/acme/destinations/d1/enable"):
            found, _ = await ask(url, "HEAD", path)
            assert b"404" in found[0]
