"""Publish as the HTTP server answers it in place: the same answers as through ASGI, whatever a client does."""

from __future__ import annotations

import asyncio
import json
import types
from collections.abc import AsyncIterator
from typing import NamedTuple

import httpx
import pytest

from outpost import telemetry
from outpost.log import partition as partitions
from outpost.log import read
from outpost.process.http_server import server as http_server
from tests.harness.api_server import KEY, Api
from tests.integration.api import test_bad_requests as bad

PATH = "/api/v1/publish"
ASGI_PATH = "/api/v1/%70ublish"  # the same, spelt so that it goes the long way
BODY = b'{"tenant_id":"acme","topic":"user.created","data":{"n": 1}}'


class Listening(NamedTuple):
    api: Api
    url: str
    port: int


@pytest.fixture
async def server(api: Api) -> AsyncIterator[Listening]:
    await api.http.put("/tenants/acme")
    async with api.listening() as url:
        yield Listening(api, url, int(url.rpartition(":")[2]))


def request(body: bytes = BODY, *more: str, path: str = PATH, version: str = "1.1", method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: x", f"Authorization: Bearer {KEY}", *more]
    if not any(line.lower().startswith("transfer-encoding") for line in more) and method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


async def answers(server: Listening, sent: list[bytes], count: int) -> list[tuple[int, dict[str, str], bytes]]:
    """Sends pieces over one connection, and reads `count` answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    found = []
    async with asyncio.timeout(60):
        for piece in sent:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        for _ in range(count):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:-2])
            body = await reader.readexactly(int(headers["content-length"]))
            found.append((int(head[0].split()[1]), headers, body))
        writer.close()
        await writer.wait_closed()
    return found


async def stored(server: Listening) -> int:
    p = partitions.partition_of("acme")
    return len(await read.between(server.api.log, "evt", p))


async def test_an_event_is_accepted_with_every_header(server: Listening) -> None:
    [(status, headers, body)] = await answers(server, [request()], 1)
    assert 202 == status
    assert {"id", "duplicate", "destination_ids"} == set(json.loads(body))
    assert "application/json" == headers["content-type"]
    assert headers["x-outpost-position"].startswith("evt.")
    assert headers["x-request-id"]
    assert "date" in headers
    assert 1 == await stored(server)


@pytest.mark.parametrize("pieces", [1, 7, 60])
async def test_a_request_may_come_in_pieces(server: Listening, pieces: int) -> None:
    whole = request()
    cuts = [whole[i : i + pieces] for i in range(0, len(whole), pieces)]
    [(status, _, _)] = await answers(server, cuts, 1)
    assert 202 == status


async def test_a_chunked_body_is_read_to_its_end(server: Listening) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:10], BODY[10:])) + b"0\r\n\r\n"
    [(status, _, _)] = await answers(server, [request(chunks, "Transfer-Encoding: chunked")], 1)
    assert 202 == status


async def test_pipelined_requests_are_answered_in_order(server: Listening) -> None:
    sent = request() + request(path="/api/v1/topics", method="GET", body=b"") + request(b"{}") + request()
    found = await answers(server, [sent], 4)
    assert [202, 200, 422, 202] == [status for status, *_ in found]


async def test_one_connection_serves_many_requests_of_both_kinds(server: Listening) -> None:
    async with httpx.AsyncClient(base_url=server.url, headers={"Authorization": f"Bearer {KEY}"}) as http:
        for _ in range(5):
            assert 202 == (await http.post(PATH, content=BODY)).status_code
            assert 200 == (await http.get("/api/v1/tenants/acme")).status_code


@pytest.mark.parametrize("body", [BODY, b"{}"])
async def test_a_client_that_wants_to_close_is_closed(server: Listening, body: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request(body, "Connection: close"))
    async with asyncio.timeout(60):
        answer = await reader.read()
    assert b"connection: close" in answer.lower()
    writer.close()


async def test_http_1_0_and_expect_go_the_long_way_to_the_same_answer(server: Listening) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request(version="1.0"))
    async with asyncio.timeout(60):
        assert b" 202 " in (await reader.read()).split(b"\r\n")[0]
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        request(b"", "Expect: 100-continue").replace(b"Content-Length: 0", b"Content-Length: %d" % len(BODY))
    )
    async with asyncio.timeout(60):
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == await reader.readuntil(b"\r\n\r\n")
        writer.write(BODY)
        assert b" 202 " in await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def test_a_body_over_the_limit_is_cut_off_announced_or_not(server: Listening) -> None:
    limit = server.api.deps.settings.api_max_body_bytes
    big = b'{"tenant_id":"acme","data":{"x":"' + b"y" * limit + b'"}}'
    for sent in (request(big), request(b"%x\r\n%s" % (len(big) + 5, big), "Transfer-Encoding: chunked")):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        async with asyncio.timeout(60):
            assert b" 413 " in (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]
        writer.close()
    assert 0 == await stored(server)


async def test_a_body_near_the_limit_passes_the_flow_control_of_the_server(server: Listening) -> None:
    filler = "z" * (server.api.deps.settings.api_max_body_bytes - 200)
    body = json.dumps({"tenant_id": "acme", "topic": "user.created", "data": {"x": filler}}).encode()
    [(status, _, _)] = await answers(server, [request(body)], 1)
    assert 202 == status


async def test_a_client_that_goes_half_way_leaves_nothing_behind(server: Listening) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request()[:-5])
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    [(status, _, _)] = await answers(server, [request()], 1)
    assert 202 == status
    assert 1 == await stored(server)


async def test_a_tenant_that_changed_elsewhere_is_matched_again(server: Listening) -> None:
    await answers(server, [request()], 1)  # now the tenant is in memory
    made = await server.api.http.post(
        "/tenants/acme/destinations",
        json={"type": "webhook", "topics": ["user.created"], "config": {"url": "https://example.com/"}},
    )
    [(_, _, body)] = await answers(server, [request()], 1)
    assert [made.json()["id"]] == json.loads(body)["destination_ids"]


async def test_every_bad_publish_is_answered_as_through_asgi(server: Listening) -> None:
    async with httpx.AsyncClient(
        base_url=server.url + "/api/v1", headers={"Authorization": f"Bearer {KEY}"}
    ) as http:
        rows = [row for row in bad.TABLE if row.path == "/publish"]
        assert 40 < len(rows)
        for row in rows:
            expected = await bad.send(server.api.http, row)
            found = await bad.send(http, row)
            assert (row.name, expected.status_code, expected.json()) == (row.name, found.status_code, found.json())


async def test_a_wrong_key_is_refused(server: Listening) -> None:
    [(status, _, body)] = await answers(server, [request().replace(KEY.encode(), b"wrong")], 1)
    assert (401, {"status": 401, "message": "unauthorized"}) == (status, json.loads(body))


async def test_a_head_that_was_sent_before_is_answered_the_same_whatever_comes_behind_it(
    server: Listening,
) -> None:
    once, again = request(), request(BODY.replace(b"1", b"2"))
    assert len(once) == len(again)
    found = await answers(server, [once, again, once], 3)
    assert [202, 202, 202] == [status for status, *_ in found]
    assert 3 == len({headers["x-request-id"] for _, headers, _ in found})
    in_pieces = [once[:-7], once[-7:], once + again, once[:40], once[40:]]
    assert [202] * 4 == [status for status, *_ in await answers(server, in_pieces, 4)]
    wrong = request(b"!" + BODY[1:])
    assert [202, 422, 202] == [status for status, *_ in await answers(server, [once, wrong, once], 3)]
    closing = request(BODY, "Connection: close")
    for _ in range(2):
        [(_, headers, _)] = await answers(server, [closing], 1)
        assert "close" == headers["connection"]


async def test_heads_that_vary_for_ever_do_not_fill_the_memory(
    server: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "MAX_KNOWN_HEADS", 3)
    sent = [request(BODY, f"X-Trace: {number}") for number in range(10)]
    assert [202] * 10 == [status for status, *_ in await answers(server, sent, 10)]
    long = request(BODY, "X-Long: " + "x" * http_server.MAX_KNOWN_HEAD_BYTES)
    assert [202, 202] == [status for status, *_ in await answers(server, [long, long], 2)]


LONG = b'{"tenant_id":"acme","topic":"user.created","data":{"a":[%b]}}' % b",".join(
    b"%d" % n for n in range(1_500)
)


@pytest.mark.parametrize("path", [PATH, ASGI_PATH], ids=["in place", "through ASGI"])
async def test_costly_filters_are_matched_nevertheless(server: Listening, path: str) -> None:
    """Twenty such destinations and an event of 3 kB held the loop for seconds."""
    last, absent = ({"$or": [*({"a": -number} for number in range(1, 5)), {"a": at}]} for at in (1_499, -9))
    made = [await server.api.destination(filter={"data": each}) for each in (last, absent)]
    [(status, _, body)] = await answers(server, [request(LONG, path=path)], 1)
    assert 202 == status
    assert [made[0]["id"]] == json.loads(body)["destination_ids"]


@pytest.mark.parametrize("path", [PATH, ASGI_PATH], ids=["in place", "through ASGI"])
async def test_filters_beyond_their_budget_refuse_the_publish(server: Listening, path: str) -> None:
    await server.api.destination(filter={"data": {"$or": [{"a": -number} for number in range(1, 200)]}})
    [(status, _, body)] = await answers(server, [request(LONG, path=path)], 1)
    assert 422 == status
    assert "the filters of the tenant need more than 250000 steps over this event" == json.loads(body)["message"]
    [(status, _, _)] = await answers(server, [request(path=path)], 1)
    assert 202 == status


async def test_broken_requests_are_counted_and_logged_once_a_second(
    server: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    emitted: list[dict[str, object]] = []

    def emit(event: str, level: str, **fields: object) -> None:
        emitted.append({"event": event, **fields})

    monkeypatch.setattr(telemetry, "emit", emit)
    monkeypatch.setattr(telemetry, "_samples", {})  # of other tests
    monkeypatch.setattr(telemetry, "time", types.SimpleNamespace(monotonic=lambda: 1_000_000.0))
    before = telemetry.counters["http_refused.400"]
    for _ in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"broken\r\n\r\n")
        assert b" 400 " in (await reader.read()).split(b"\r\n")[0]
        writer.close()
    assert 20 == telemetry.counters["http_refused.400"] - before
    assert [{"event": "request_refused", "status": 400}] == emitted
