"""Clients whose requests are small and ask for much work: costly bodies, costly filters, large pages.

They share one way of asking: a client with the API key sends requests one after the other over a few connections,
and reads every answer, whatever it says. Between two requests each connection pauses for `PAUSE_S`: who asks
without a pause gets what the server can do, and others wait for as long, whatever it is that is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from tests.hostile.attack import Target

BODY_BYTES = 1_000_000
PAUSE_S = 0.2  # between the requests of one connection
ANSWER_S = 60.0  # for any answer
PUBLISH, TENANTS = "/api/v1/publish", "/api/v1/tenants"
JSON = {"Content-Type": "application/json"}


def _event(data: bytes, metadata: bytes = b"{}") -> bytes:
    return b'{"tenant_id":"costly-bodies","data":%b,"metadata":%b}' % (data, metadata)


def _many(value: bytes, count: int) -> bytes:
    return b'{"a":[' + (value + b",") * count + b"0]}"


def _members(value: bytes, count: int) -> bytes:
    return b"{" + b",".join(b'"%06x":%b' % (number, value) for number in range(count)) + b"}"


# Bodies of a publish, by what is costly about them. The first one took 8 s in 64 kB.
COSTLY_BODIES: dict[str, Callable[[], bytes]] = {
    "quotes that open nothing": lambda: b'\\"' * 500_000 + b"[" * 300,
    "brackets in texts": lambda: _event(_many(b'"["', 250_000)),
    "empty arrays": lambda: _event(_many(b"[]", 330_000)),
    "deep arrays": lambda: _event(b'{"a":' * 250 + _many(b"[]", 300_000) + b"}" * 250),
    "floats that are hard to round": lambda: _event(_many(b"8.988465674311580e307", 45_000)),
    "long integers": lambda: _event(_many(b"9" * 4_299, 230)),
    "one integer": lambda: _event(b'{"a":' + b"9" * 900_000 + b"}"),
    "wrong metadata": lambda: _event(b"{}", _members(b"0", 90_000)),
    "many keys": lambda: _event(_members(b"0", 90_000)),
    "open arrays": lambda: b"[" * BODY_BYTES,
}


@contextlib.asynccontextmanager
async def _client(target: Target) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {target.api_key}"}
    base = f"http://{target.host}:{target.port}"
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=ANSWER_S) as client:
        yield client


async def _ask(client: httpx.AsyncClient, method: str, path: str, **more: Any) -> int:
    """The status of the answer; 0 if there is none."""
    try:
        return (await client.request(method, path, **more)).status_code
    except httpx.HTTPError:
        return 0


@dataclasses.dataclass(frozen=True)
class CostlyBodies:
    """Publishes each of `COSTLY_BODIES`, over and over."""

    name: str = "costly bodies"

    async def run(self, target: Target, seconds: float) -> None:
        bodies = [make() for make in COSTLY_BODIES.values()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), _client(target) as client:
                for body in itertools.cycle(bodies):
                    await _ask(client, "POST", PUBLISH, content=body, headers=JSON)
                    await asyncio.sleep(PAUSE_S)


@dataclasses.dataclass(frozen=True)
class CostlyFilters:
    """A tenant of twenty destinations, each with a filter as costly as it may save, publishes events of 3 kB to
    them over several connections. They go nowhere: the filters match none of them."""

    name: str = "costly filters"
    tenant: str = "costly-filters"
    destinations: int = 20
    alternatives: int = 700
    elements: int = 800
    connections: int = 8

    def filter(self) -> dict[str, object]:
        return {"data": {"$or": [{"a": -number} for number in range(1, self.alternatives)]}}

    def event(self) -> bytes:
        return json.dumps({"tenant_id": self.tenant, "data": {"a": [*range(self.elements)]}}).encode()

    async def set_up(self, client: httpx.AsyncClient) -> None:
        """Makes the tenant and what destinations it is allowed."""
        await _ask(client, "PUT", f"{TENANTS}/{self.tenant}")
        made = {
            "type": "webhook",
            "topics": ["*"],
            "config": {"url": "http://127.0.0.1:9/"},
            "filter": self.filter(),
        }
        for _ in range(self.destinations):
            await _ask(client, "POST", f"{TENANTS}/{self.tenant}/destinations", json=made)

    async def run(self, target: Target, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), _client(target) as client:
                await self.set_up(client)
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.connections):
                        group.create_task(self._publish(client))

    async def _publish(self, client: httpx.AsyncClient) -> None:
        while True:
            await _ask(client, "POST", PUBLISH, content=self.event(), headers=JSON)
            await asyncio.sleep(PAUSE_S)


@dataclasses.dataclass(frozen=True)
class LargePages:
    """Publishes `events` of 1 MB, then asks for pages of a thousand of them over several connections at once."""

    name: str = "large pages"
    tenant: str = "large-pages"
    events: int = 20
    clients: int = 6

    async def run(self, target: Target, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), _client(target) as client:
                await self.publish(client)
                async with asyncio.TaskGroup() as group:
                    for number in range(self.clients):
                        group.create_task(self._read(client, number))

    async def publish(self, client: httpx.AsyncClient) -> None:
        """Fills the log."""
        await _ask(client, "PUT", f"{TENANTS}/{self.tenant}")
        data = {"text": "\U0001f600" * (BODY_BYTES // 4 - 100)}
        body = json.dumps({"tenant_id": self.tenant, "data": data}, ensure_ascii=False).encode()
        for _ in range(self.events):
            await _ask(client, "POST", PUBLISH, content=body, headers=JSON)

    async def _read(self, client: httpx.AsyncClient, number: int) -> None:
        paths = (f"/api/v1/events?limit=1000&tenant_id={self.tenant}", "/api/v1/events?limit=1000")
        while True:
            async with contextlib.AsyncExitStack() as stack:
                with contextlib.suppress(httpx.HTTPError):
                    answer = await stack.enter_async_context(client.stream("GET", paths[number % 2]))
                    async for _ in answer.aiter_raw():  # nothing of it is kept
                        await asyncio.sleep(0)
            await asyncio.sleep(PAUSE_S)


ALL = (CostlyBodies(), CostlyFilters(), LargePages())
