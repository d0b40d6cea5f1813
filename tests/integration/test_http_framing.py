"""No bytes of one request are taken for another: alone, behind nginx and behind HAProxy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.harness import framing, proxies, raw_http
from tests.harness.api_server import KEY, SETTINGS, Api
from tests.harness.servers import RedisServer

VICTIMS = 3  # clients behind each attack; a proxy has one connection to the server for all
Proxy = Callable[[int, Path], AbstractAsyncContextManager[int]]


class Recorded(NamedTuple):
    port: int
    paths: list[str]


@pytest.fixture
async def server(redis70: RedisServer) -> AsyncIterator[Recorded]:
    """The API, and every path that reached its application."""
    api = Api(SETTINGS, redis70)
    app, paths = api.app, []

    async def recorder(scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])
        await app(scope, receive, send)

    api.app = recorder
    async with api.listening() as url:
        yield Recorded(int(url.rpartition(":")[2]), paths)
    await api.close()


def victim(number: int) -> bytes:
    """A request whose answer shows that it is its own: the id is in the path, and in no other's."""
    line = f"GET /api/v1/destination-types/victim{number} HTTP/1.1\r\n"
    return f"{line}Host: x\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()


async def attack_and_look(port: int, server: Recorded, sent: bytes) -> None:
    """An attacker sends, and clients who come behind get what belongs to them."""
    async with raw_http.connect(port) as attacker:
        attacker.send(sent)
        with contextlib.suppress(raw_http.Closed, ValueError):  # a proxy may answer in HTTP/0.9
            await attacker.answer()
        for number in range(VICTIMS):
            server.paths.clear()
            answer = await raw_http.ask(port, victim(number))
            assert (404, b"destination type not found") == (
                answer.status,
                answer.body.partition(b'"message":"')[2].partition(b'"')[0],
            )
            assert [f"/api/v1/destination-types/victim{number}"] == server.paths


@pytest.mark.parametrize("attack", framing.REFUSED, ids=lambda attack: attack.name)
async def test_alone_it_is_refused_and_its_connection_ends(server: Recorded, attack: framing.Framing) -> None:
    async with raw_http.connect(server.port) as client:
        client.send(attack.sent)
        assert attack.status == (await client.answer()).status
        client.send(b"\r\n\r\n" + victim(1))
        assert b"" == await client.closed()
    assert [] == server.paths


@pytest.mark.parametrize("attack", framing.UNAUTHORIZED, ids=lambda attack: attack.name)
async def test_alone_nothing_behind_an_early_answer_is_taken(server: Recorded, attack: framing.Framing) -> None:
    async with raw_http.connect(server.port) as client:
        client.send(attack.sent)
        assert attack.status == (await client.answer()).status
        client.send(b"\r\n\r\n" + victim(1))
        client.writer.write_eof()
        await client.closed()
    assert framing.SMUGGLED.decode() not in server.paths


@pytest.mark.parametrize("proxy", [proxies.nginx, proxies.haproxy], ids=["nginx", "haproxy"])
async def test_behind_a_proxy_no_client_gets_the_answer_of_another(
    server: Recorded, proxy: Proxy, tmp_path: Path
) -> None:
    async with proxy(server.port, tmp_path) as port:
        for attack in [*framing.REFUSED, *framing.UNAUTHORIZED]:
            async with asyncio.timeout(raw_http.LIMIT_S):
                try:
                    await attack_and_look(port, server, attack.sent)
                except (AssertionError, ValueError, raw_http.Closed) as exc:
                    raise AssertionError(attack.name) from exc


@pytest.mark.parametrize("coding", ["length", "chunks"])
async def test_a_valid_publish_with_an_upgrade_works_and_its_connection_goes_on(
    server: Recorded, coding: str
) -> None:
    event = b'{"tenant_id":"acme","topic":"user.created","data":{}}'
    framed = framing.post(
        b"Authorization: Bearer " + KEY.encode(),
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        *([b"Content-Length: %d" % len(event)] if coding == "length" else [framing.CHUNKED]),
        body=event if coding == "length" else b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event),
    )
    async with raw_http.connect(server.port) as client:
        for _ in range(3):
            client.send(framed)
            assert 202 == (await client.answer()).status


@pytest.mark.parametrize(("size", "kept"), [(40_000, True), (200_000, False)])
async def test_a_body_that_is_answered_early_is_dropped_or_ends_its_connection(
    server: Recorded, size: int, kept: bool
) -> None:
    sent = framing.post(b"Content-Length: %d" % size, body=framing.INNER)
    async with raw_http.connect(server.port) as client:
        client.send(sent)
        refused = await client.answer()
        assert (401, None if kept else "close") == (refused.status, refused.headers.get("connection"))
        smuggled = b"GET " + framing.SMUGGLED + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        client.send(smuggled + b"a" * (size - len(framing.INNER) - len(smuggled)) + victim(1))
        if kept:
            assert 404 == (await client.answer()).status
        else:
            assert b"" == await client.closed()
    assert framing.SMUGGLED.decode() not in server.paths


async def test_a_client_that_closes_its_half_gets_its_answer(server: Recorded) -> None:
    async with raw_http.connect(server.port) as client:
        client.send(victim(1))
        client.writer.write_eof()
        assert 404 == (await client.answer()).status
        assert b"" == await client.closed()


async def test_blanks_around_the_key_are_no_part_of_it(server: Recorded) -> None:
    sent = victim(1).replace(KEY.encode(), KEY.encode() + b" \t ")
    assert 404 == (await raw_http.ask(server.port, sent)).status
