"""What a request leaves in memory: nothing that waits for the garbage collector, whatever became of it.

On uvloop, as the product runs; a connection of asyncio's own loop is a cycle by itself.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import uvloop

from outpost import errors
from outpost.log import append
from tests.harness import framing
from tests.harness.api_server import KEY, Api

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture is deprecated")

REQUESTS = 60
TRIES = 3
EVENT = b'{"tenant_id":"acme","topic":"user.created","data":{"x":"%b"}}'


def request(method: str, path: str, body: bytes = b"", key: str = KEY, *lines: str) -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: h", f"Authorization: Bearer {key}", *lines]
    if body and not any("chunked" in line for line in lines):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


def publish(size: int = 10, key: str = KEY, *lines: str) -> bytes:
    return request("POST", "/api/v1/publish", EVENT % (b"y" * size), key, *lines)


class Kind(NamedTuple):
    """`sent` on one connection again and again, or on a new one each time; with `answered` each is waited for."""

    sent: bytes
    keeps: bool = True
    answered: bool = True


CHUNKED = "Transfer-Encoding: chunked"
EVENT_IN_CHUNKS = b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (EVENT[:5], len(EVENT) - 5, EVENT[5:])
KINDS = {
    "publish": Kind(publish()),
    "publish of 50 kB": Kind(publish(50_000)),
    "publish in chunks": Kind(request("POST", "/api/v1/publish", EVENT_IN_CHUNKS, KEY, CHUNKED)),
    "publish over ASGI": Kind(request("POST", "/api/v1/%70ublish", EVENT % b"y")),
    "publish through Litestar": Kind(request("POST", "/api/v1/publish/", EVENT % b"y")),
    "publish that is no JSON": Kind(request("POST", "/api/v1/publish", b"{")),
    "publish for a new tenant": Kind(request("POST", "/api/v1/publish", EVENT.replace(b"acme", b"other") % b"y")),
    "publish without a key": Kind(publish(10, "wrong")),
    "publish sent ahead": Kind(publish() * 3, keeps=False),
    "publish whose client is gone": Kind(publish(), keeps=False, answered=False),
    "half a publish": Kind(publish()[:-5], keeps=False, answered=False),
    "half a head": Kind(b"POST /api", keeps=False, answered=False),
    "an upgrade": Kind(publish(10, KEY, "Connection: Upgrade", "Upgrade: h2c")),
    "a broken head": Kind(framing.REFUSED[0].sent, keeps=False),
    "a read": Kind(request("GET", "/api/v1/tenants/acme")),
    "HEAD": Kind(request("HEAD", "/api/v1/healthz")),
    "health": Kind(request("GET", "/healthz")),
    "nothing there": Kind(request("GET", "/nothing")),
    "a read without a key": Kind(request("GET", "/api/v1/topics", b"", "wrong")),
    "a write": Kind(request("PUT", "/api/v1/tenants/acme", b'{"metadata":{"a":"b"}}')),
    "a bad write": Kind(request("POST", "/api/v1/tenants/acme/destinations", b'{"type":"webhook"}')),
    "half a write": Kind(request("PUT", "/api/v1/tenants/acme", b"{}")[:-1], keeps=False, answered=False),
    "a store that is away": Kind(request("GET", "/api/v1/events")),
}


def exchange(port: int, kind: Kind, count: int) -> None:
    """Blocking, so that nothing of the client is garbage."""
    client: socket.socket | None = None
    for _ in range(count):
        if client is None:
            client = socket.create_connection(("127.0.0.1", port), timeout=60)
        client.sendall(kind.sent)
        if kind.answered:
            read_answer(client, has_body=not kind.sent.startswith(b"HEAD"))
        if not kind.keeps:
            client.close()
            client = None
    if client is not None:
        client.close()


def read_answer(client: socket.socket, *, has_body: bool) -> None:
    found = b""
    while (end := found.find(b"\r\n\r\n")) < 0:
        found += client.recv(65_536)
    length = found[:end].lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    while len(found) < end + 4 + int(length) * has_body:
        if not (data := client.recv(65_536)):
            return
        found += data


@pytest.fixture
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    return uvloop.EventLoopPolicy()


@pytest.fixture
def collecting_by_hand() -> Iterator[Callable[[], int]]:
    """Without collections; calling it collects, and says how many objects it found in cycles."""
    gc.collect()
    gc.disable()
    yield gc.collect
    gc.enable()


async def left_behind(port: int, kind: Kind, collect: Callable[[], int]) -> int:
    """How many objects `REQUESTS` requests leave in cycles: the least of three tries.

    What a request leaves is there after each try; what something else in this process leaves once, such as a first
    use or a timer that ends, is not.
    """
    found = []
    for _ in range(TRIES):
        collect()
        await asyncio.to_thread(exchange, port, kind, REQUESTS)
        await asyncio.sleep(0)
        found.append(collect())
        if found[-1] < REQUESTS:
            break
    return min(found)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_no_request_leaves_a_cycle_behind(
    api: Api, kind: Kind, collecting_by_hand: Callable[[], int]
) -> None:
    await api.tenant()
    async with api.listening() as url:
        port = int(url.rpartition(":")[2])
        await asyncio.to_thread(exchange, port, kind, 3)
        assert await left_behind(port, kind, collecting_by_hand) < REQUESTS


@pytest.mark.parametrize("failure", [errors.StoreUnavailable("redis", "away"), None], ids=["failed", "cancelled"])
async def test_no_append_that_fails_leaves_a_cycle_behind(
    api: Api, collecting_by_hand: Callable[[], int], failure: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.tenant()
    async with api.listening() as url:
        port = int(url.rpartition(":")[2])
        await asyncio.to_thread(exchange, port, KINDS["publish"], 3)

        def put(partition: int, item: append.Item) -> asyncio.Future[append.Answer]:
            future: asyncio.Future[append.Answer] = asyncio.get_running_loop().create_future()
            if failure is None:
                future.cancel()
            else:
                future.set_exception(type(failure)("redis", "away"))
            return future

        monkeypatch.setattr(api.commit, "put", put)
        await asyncio.to_thread(exchange, port, KINDS["publish"], 3)
        assert await left_behind(port, KINDS["publish"], collecting_by_hand) < REQUESTS


async def test_memory_stays_flat_without_collections(api: Api, collecting_by_hand: Callable[[], int]) -> None:
    """500 bodies of 50 kB are 25 MB; what remains of them is less than twenty of them."""
    await api.tenant()
    kind = KINDS["publish of 50 kB"]
    async with api.listening() as url:
        port = int(url.rpartition(":")[2])
        await asyncio.to_thread(exchange, port, kind, 20)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await asyncio.to_thread(exchange, port, kind, 500)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert after - before < 20 * 50_000
