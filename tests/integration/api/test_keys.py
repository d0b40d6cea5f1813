"""How a client may write its API key, on every way to an answer."""

from __future__ import annotations

import asyncio

import pytest

from tests.harness.api_server import KEY, Api

RIGHT = [
    "Bearer {}",
    "bearer {}",
    "BEARER {}",
    "bEaReR {}",
    "Bearer   {}",
    "Bearer\t{}",
    "Bearer \t {}",
    "Bearer {} ",
]
WRONG = [
    "Bearer{}",
    "Basic {}",
    "{}",
    "Bearer",
    "Bearer ",
    "Bearer {}x",
    "Bearer x{}",
    "Bearer {} {}",
    "Bearer, {}",
    "Bearer  ",
    "Token {}",
    " {}",
]
BODY = b'{"tenant_id":"acme","topic":"user.created","data":{}}'
# Answered in place, through ASGI because of the spelling and of HTTP/1.0, and by Litestar.
WAYS = [
    ("POST /api/v1/publish HTTP/1.1", 202),
    ("POST /api/v1/%70ublish HTTP/1.1", 202),
    ("POST /api/v1/publish HTTP/1.0", 202),
    ("GET /api/v1/tenants/acme HTTP/1.1", 200),
]


async def statuses(api: Api, values: list[str]) -> dict[tuple[str, str], int]:
    """The status of each way with each value of the header."""
    await api.tenant()
    found = {}
    async with api.listening() as url, asyncio.timeout(120):
        for line, _ in WAYS:
            for value in values:
                reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
                body = BODY if line.startswith("POST") else b""
                header = f"Authorization: {value.replace('{}', KEY)}"
                lines = [line, "Host: x", header, "Connection: close", f"Content-Length: {len(body)}"]
                writer.write("\r\n".join([*lines, "", ""]).encode() + body)
                found[line, value] = int((await reader.read()).split()[1])
                writer.close()
    return found


@pytest.mark.case(25)
async def test_the_scheme_is_read_in_any_case(api: Api) -> None:
    expected = {(line, value): status for line, status in WAYS for value in RIGHT}
    assert expected == await statuses(api, RIGHT)


@pytest.mark.case(25)
async def test_the_key_is_exact(api: Api) -> None:
    values = [*WRONG, f"Bearer {KEY.upper()}", f"Bearer {KEY[:-1]}"]
    assert {(line, value): 401 for line, _ in WAYS for value in values} == await statuses(api, values)
