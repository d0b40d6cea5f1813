"""The server under test as an API client sees it: sets up and removes the run's tenants and destinations,
and reads the log. Every request has a limit; what the target refuses in the set-up ends the bench with a
sentence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Self

import httpx
import msgspec

from outpost import errors
from outpost.cli.bench import wire

REQUEST_LIMIT_S = 30.0
SETUP_IN_FLIGHT = 8
PAGE_LIMIT = 1_000
FALLBACK_TOPIC = "bench.event"


class Event(msgspec.Struct, frozen=True):
    """What the check needs of an event of GET /events."""

    id: str


class Attempt(msgspec.Struct, frozen=True):
    """What the check needs of an attempt of GET /attempts."""

    event_id: str
    destination_id: str
    status: str
    attempt_number: int = 0


class Cursors(msgspec.Struct, frozen=True):
    """The part of the pagination block that leads on."""

    next: str | None = None


class Events(msgspec.Struct, frozen=True):
    """A page of GET /events."""

    models: list[Event]
    pagination: Cursors


class Attempts(msgspec.Struct, frozen=True):
    """A page of GET /attempts."""

    models: list[Attempt]
    pagination: Cursors


Query = list[tuple[str, str | int | float | bool | None]]  # as httpx has it


class Target:
    """An Outpost-compatible API at `url`. Use as an async context manager."""

    def __init__(self, url: str, key: str, run: str) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # `trust_env` off: a proxy of the environment must not stand between the bench and the server.
        self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=REQUEST_LIMIT_S, trust_env=False)
        self._run = run

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def topic(self) -> str:
        """The first configured topic, or one of our own where any is taken."""
        configured = msgspec.json.decode(await self._ask("GET", "/topics"))
        if isinstance(configured, list) and configured and isinstance(configured[0], str):
            return configured[0]
        return FALLBACK_TOPIC

    async def set_up(self, tenants: int, fan_out: int, receiver: str) -> None:
        """Create the tenants, each with `fan_out` webhook destinations under the base URL `receiver`."""
        await self.create_tenants(wire.tenant_id(self._run, n) for n in range(tenants))
        run = self._run
        await self.create_webhooks(
            (wire.tenant_id(run, n // fan_out), wire.destination_id(run, n), receiver + wire.hook_path(n))
            for n in range(tenants * fan_out)
        )

    async def remove(self, tenants: int) -> None:
        """Delete the run's tenants."""
        await self.delete_tenants(wire.tenant_id(self._run, n) for n in range(tenants))

    async def create_tenants(self, ids: Iterable[str]) -> None:
        """Create these tenants."""
        await _all(self._ask("PUT", f"/tenants/{one}", {}) for one in ids)

    async def delete_tenants(self, ids: Iterable[str]) -> None:
        """Delete these tenants with all they own."""
        await _all(self._ask("DELETE", f"/tenants/{one}") for one in ids)

    async def create_webhooks(self, wanted: Iterable[tuple[str, str, str]]) -> None:
        """Create destinations for every topic, each given as tenant, id and URL."""
        await _all(
            self._ask(
                "POST",
                f"/tenants/{tenant}/destinations",
                {
                    "id": one,
                    "type": "webhook",
                    "topics": "*",
                    "config": {"url": url},
                },
            )
            for tenant, one, url in wanted
        )

    async def publish(self, bodies: Iterable[dict[str, object]]) -> None:
        """Publish these events, as they come; for what is not measured."""
        await _all(self._ask("POST", "/publish", body) for body in bodies)

    async def events(self, query: Query) -> Events:
        """A page of GET /events."""
        return msgspec.json.decode(await self._ask("GET", "/events", query=query), type=Events)

    async def attempts(self, query: Query) -> Attempts:
        """A page of GET /attempts."""
        return msgspec.json.decode(await self._ask("GET", "/attempts", query=query), type=Attempts)

    async def _ask(self, method: str, path: str, body: object = None, query: Query | None = None) -> bytes:
        params = httpx.QueryParams(query or [])
        try:
            answer = await self._client.request(method, path, json=body, params=params)
        except httpx.HTTPError as error:
            raise errors.StartRefused(f"{method} {path}: no answer ({type(error).__name__})") from error
        if not answer.is_success:
            raise errors.StartRefused(f"{method} {path} answered {answer.status_code}: {answer.text[:200]}")
        return answer.content


async def _all(calls: Iterable[Coroutine[None, None, bytes]]) -> None:
    """Run the calls, a few at a time; the first failure ends them."""
    slots = asyncio.Semaphore(SETUP_IN_FLIGHT)

    async def one(call: Coroutine[None, None, bytes]) -> None:
        async with slots:
            await call

    try:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(one(call))
    except* errors.StartRefused as refused:
        raise refused.exceptions[0] from None
