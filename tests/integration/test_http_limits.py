"""What one client, or all of them together, can take from the HTTP server: bytes, time, connections."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import uvloop

from outpost.process.http_server import connection, connections, wire
from tests.harness import raw_http, stub_http
from tests.harness.polling import eventually
from tests.harness.stub_http import get, post

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture is deprecated")

ROOT = Path(__file__).parents[2]
PARTIAL_HEAD = b"GET / HTTP/1.1\r\nX-A: "


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return request.param()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\nX-A: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX-A: " + b"a" * 5_000_000, 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: a\r\n" * 100_000, 431),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
        (b"GET /" + b"a" * 5_000_000, 414),
        (post(length=2_000_000), 413),
        (post(b"a" * 2_000, b"Transfer-Encoding: chunked", length=-1), 400),
        (post(b"%x\r\n" % 1_100_000 + b"a" * 1_100_000, b"Transfer-Encoding: chunked", length=-1), 413),
        (post(length=2_000_000, key=b"none"), 401),
        (post(length=2_000_000, key=b"none", path=b"/other"), 401),
        (post(b"a" * 500_000, key=b"none"), 401),
        (get(b"/a", b"Expect: a"), 417),
    ],
    ids=lambda each: str(each)[:40],
)
@pytest.mark.invariant("B1")
async def test_a_request_beyond_a_limit_is_answered_and_its_connection_closed(sent: bytes, status: int) -> None:
    async with stub_http.serving() as stub, raw_http.connect(stub.port) as client:
        client.send(sent)
        answer = await client.answer()
        assert (status, "close") == (answer.status, answer.headers["connection"])
        assert b"" == await client.closed()
        assert [] == stub.route.bodies
        assert (0, 0) == (stub.server.body_bytes.held, stub.server.waiting_bytes.held)


async def test_nothing_of_a_body_is_kept_before_the_key_is_checked() -> None:
    async with stub_http.serving() as stub, raw_http.connect(stub.port) as client:
        client.send(post(length=1_000_000, key=b"none", body=b""))
        assert 401 == (await client.answer()).status
        assert 0 == stub.server.body_bytes.held


@pytest.mark.invariant("B1")
async def test_the_bodies_of_all_clients_have_one_budget() -> None:
    async with (
        stub_http.serving(api_max_body_bytes_in_flight=250_000) as stub,
        contextlib.AsyncExitStack() as stack,
    ):
        stub.route.held = []
        clients = [await stack.enter_async_context(raw_http.connect(stub.port)) for _ in range(3)]
        for client in clients[:2]:
            client.send(post(b"a" * 100_000))
        await eventually(lambda: len(stub.route.bodies) == 2)
        clients[2].send(post(b"a" * 100_000))
        refused = await clients[2].answer()
        assert (503, "1") == (refused.status, refused.headers["retry-after"])
        assert 200_000 == stub.server.body_bytes.held
        assert 200 == (await raw_http.ask(stub.port, get(b"/healthz"))).status
        stub.route.release()
        assert [202, 202] == [(await client.answer()).status for client in clients[:2]]
        assert 0 == stub.server.body_bytes.held
        assert 202 == (await raw_http.ask(stub.port, post(b"a" * 100_000))).status


async def test_bodies_that_come_slowly_count_in_the_budget_and_are_given_back() -> None:
    async with stub_http.serving(api_max_body_bytes_in_flight=250_000) as stub:
        for path in (b"/publish", b"/other"):
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(2):
                    client = await stack.enter_async_context(raw_http.connect(stub.port))
                    client.send(post(b"a" * 100_000, length=500_000, path=path))
                await eventually(lambda: stub.server.body_bytes.held == 200_000)
                assert 503 == (await raw_http.ask(stub.port, post(b"a" * 100_000, path=path))).status
            await eventually(lambda: stub.server.body_bytes.held == 0)


async def test_partial_heads_of_all_clients_have_one_budget_and_those_of_one_address_half_of_it() -> None:
    async with stub_http.serving() as stub, contextlib.AsyncExitStack() as stack:
        stub.server.waiting_bytes.limit = 100_000
        clients = [await stack.enter_async_context(raw_http.connect(stub.port)) for _ in range(3)]
        for client in clients:
            client.send(PARTIAL_HEAD + b"a" * 20_000)
        answered = asyncio.as_completed([client.answer() for client in clients])
        assert 503 == (await next(iter(answered))).status
        assert stub.server.waiting_bytes.held <= 50_000
        assert 202 == (await raw_http.ask(stub.port, post())).status
        for client in clients:
            client.writer.transport.abort()
        await eventually(lambda: stub.server.waiting_bytes.held == 0)


@pytest.mark.parametrize(
    ("sent", "seconds", "status"),
    [
        (b"", 10, None),
        (PARTIAL_HEAD, 10, 408),
        (post(b"a" * 4_096, length=10_000), 21, 408),
        (post(b"a" * 4_096, length=10_000, path=b"/other"), 21, 408),
        (get(), 75, 200),
    ],
    ids=["silent", "half a head", "half a body in place", "half a body", "idle"],
)
@pytest.mark.invariant("B2")
async def test_a_deadline_passes_and_not_before(sent: bytes, seconds: float, status: int | None) -> None:
    async with stub_http.serving() as stub, raw_http.connect(stub.port) as client:
        client.send(sent)
        await eventually(lambda: len(stub.server.connections.open) == 1)
        [member] = stub.server.connections.open
        if status == 200:
            assert 200 == (await client.answer()).status
        elif sent:
            await eventually(lambda: member._buffer or member._held or (member._call and member._call._held))
        deadline = member.deadline
        stub.server.sweep(deadline - 1)
        assert member in stub.server.connections.open
        assert seconds - 1.5 < deadline - asyncio.get_running_loop().time() <= seconds
        stub.server.sweep(deadline + 1)
        if status == 408:
            assert 408 == (await client.answer()).status
        assert b"" == await client.closed()


async def test_a_head_that_drips_gets_no_more_time() -> None:
    async with stub_http.serving() as stub, raw_http.connect(stub.port) as client:
        client.send(PARTIAL_HEAD)
        await eventually(lambda: any(member._buffer for member in stub.server.connections.open))
        [member] = stub.server.connections.open
        first = member.deadline
        for count in range(5):
            client.send(b"a")
            await eventually(lambda count=count: len(member._buffer) == len(PARTIAL_HEAD) + count + 1)
        assert first == member.deadline


async def test_a_client_that_does_not_take_its_answers_is_closed() -> None:
    async with stub_http.serving(api_max_pipelined_requests=10_000) as stub, raw_http.connect(stub.port) as client:
        client.writer.transport.pause_reading()
        long = get(b"/" + b"a" * 8_000)
        client.send(long * 2_000)
        await eventually(lambda: any(m.write_deadline != wire.NEVER for m in stub.server.connections.open))
        [member] = stub.server.connections.open
        seen = len(stub.paths)
        assert seen < 2_000
        stub.server.sweep(member.write_deadline + 1)
        await eventually(lambda: not stub.server.connections.open)
        await eventually(lambda: stub.server.body_bytes.held == stub.server.waiting_bytes.held == 0)


async def test_the_longest_idle_connection_makes_room_and_those_of_use_last() -> None:
    async with stub_http.serving(api_max_connections=10) as stub, contextlib.AsyncExitStack() as stack:
        useful = await stack.enter_async_context(raw_http.connect(stub.port))
        useful.send(post())
        assert 202 == (await useful.answer()).status
        silent = [await stack.enter_async_context(raw_http.connect(stub.port)) for _ in range(9)]
        await eventually(lambda: len(stub.server.connections.open) == 10)
        for _ in range(5):
            late = await stack.enter_async_context(raw_http.connect(stub.port))
            late.send(post())
            assert 202 == (await late.answer()).status
        for client in silent[:5]:
            assert b"" == await client.closed()
        useful.send(post())
        assert 202 == (await useful.answer()).status
        assert len(stub.server.connections.open) <= 10


async def test_beyond_the_limit_a_health_check_is_answered_and_others_get_503() -> None:
    async with stub_http.serving(api_max_connections=10) as stub, contextlib.AsyncExitStack() as stack:
        stub.route.held = []
        for _ in range(10):
            client = await stack.enter_async_context(raw_http.connect(stub.port))
            client.send(post())
        await eventually(lambda: len(stub.route.bodies) == 10)
        for _ in range(connections.MAX_SPARE * 2):
            await stack.enter_async_context(raw_http.connect(stub.port))
        for _ in range(3):
            health = await raw_http.ask(stub.port, get(b"/healthz"))
            assert (200, "close") == (health.status, health.headers["connection"])
        for sent in (post(), get()):
            assert 503 == (await raw_http.ask(stub.port, sent)).status
        assert len(stub.server.connections.open) <= 10 + connections.MAX_SPARE


@pytest.mark.invariant("B4")
async def test_one_address_has_a_share_of_the_connections() -> None:
    async with stub_http.serving(api_max_connections_per_address=3) as stub, contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(raw_http.connect(stub.port))
        await eventually(lambda: len(stub.server.connections.open) == 3)
        assert 503 == (await raw_http.ask(stub.port, post())).status
        _, writer = await asyncio.open_connection("127.0.0.1", stub.port, local_addr=("127.0.0.2", 0))
        reader_of_another = raw_http.RawClient(_, writer)
        reader_of_another.send(post())
        assert 202 == (await reader_of_another.answer()).status
        writer.close()
        await writer.wait_closed()


async def test_a_client_that_sends_too_far_ahead_is_closed_after_its_share() -> None:
    async with stub_http.serving(api_max_pipelined_requests=20) as stub, raw_http.connect(stub.port) as client:
        client.send(get(b"/a") * 50)
        found = [await client.answer() for _ in range(21)]
        assert [*[None] * 20, "close"] == [each.headers.get("connection") for each in found]
        assert b"" == await client.closed()
        assert 21 == len(stub.paths)


@pytest.mark.invariant("B3")
async def test_requests_sent_ahead_share_the_event_loop() -> None:
    """What is answered at once, such as a refusal, is answered for a few requests in each turn."""
    async with stub_http.serving(api_max_pipelined_requests=1_000) as stub, raw_http.connect(stub.port) as client:
        at_once = []
        stub.route.refusal = lambda _: at_once.append(turn) or stub_http.http_in_place.Answer(401, b"{}", {})
        turn = 0

        def count() -> None:
            nonlocal turn
            turn += 1
            asyncio.get_running_loop().call_soon(count)

        count()
        client.send(post(b"") * 200)
        assert [401] * 200 == [(await client.answer()).status for _ in range(200)]
        assert max(at_once.count(each) for each in set(at_once)) <= 2 * connection.MAX_REQUESTS_AT_ONCE


async def test_what_is_sent_ahead_beyond_the_budget_is_dropped_with_the_connection() -> None:
    async with stub_http.serving() as stub, raw_http.connect(stub.port) as client:
        stub.server.waiting_bytes.limit = 50_000
        stub.route.held = []
        client.send(post())
        await eventually(lambda: stub.route.held)
        client.send(get(b"/a") * 5_000)
        await eventually(lambda: all(not member._keep for member in stub.server.connections.open))
        assert stub.server.waiting_bytes.held <= 50_000
        stub.route.release()
        assert 202 == (await client.answer()).status
        assert b"" == await client.closed()
        assert [] == stub.paths


async def test_a_stop_closes_idle_connections_and_answers_open_requests() -> None:
    async with stub_http.serving() as stub, contextlib.AsyncExitStack() as stack:
        idle, busy = [await stack.enter_async_context(raw_http.connect(stub.port)) for _ in range(2)]
        idle.send(get())
        assert 200 == (await idle.answer()).status
        stub.route.held = []
        busy.send(post())
        await eventually(lambda: stub.route.held)
        stub.server.stop()
        assert b"" == await idle.closed()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", stub.port)
        stub.route.release()
        answer = await busy.answer()
        assert (202, "close") == (answer.status, answer.headers["connection"])
        assert b"" == await busy.closed()


SCARCE = """
import asyncio, resource, sys
from outpost import telemetry
from outpost.process.http_server import descriptors
from outpost.settings import Settings
from tests.harness import stub_http

telemetry.configure("error")

async def main():
    limit = descriptors.raise_limit()
    async with stub_http.serving(descriptors.max_connections(Settings(service="api"), limit)) as stub:
        print(stub.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 256))
asyncio.run(main())
"""


async def test_silent_connections_never_take_the_last_descriptor() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SCARCE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = int(await asyncio.wait_for(process.stdout.readline(), raw_http.LIMIT_S))
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(400):
                await stack.enter_async_context(raw_http.connect(port))
            assert 200 == (await raw_http.ask(port, get(b"/healthz"))).status
            _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
            other = raw_http.RawClient(_, writer)
            other.send(post())
            assert 202 == (await other.answer()).status
            writer.transport.abort()
    finally:
        process.stdin.close()
        assert 0 == await asyncio.wait_for(process.wait(), raw_http.LIMIT_S)
