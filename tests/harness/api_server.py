"""The API over a real Redis, spoken to in process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence

import httpx

from outpost import crypto
from outpost.adapters import registry as registries
from outpost.api import app
from outpost.api import publish as publish_route
from outpost.commands import destinations, publish, writer
from outpost.log import append
from outpost.log.redis import client
from outpost.process.http_server import ports, server
from outpost.settings import Settings
from projections.config import cache
from projections.logs import store as stores
from tests.harness.polling import eventually
from tests.harness.servers import RedisServer

KEY = "test-api-key"
SETTINGS = Settings(
    api_key=KEY,
    api_max_body_bytes=64 * 1024,
    aes_encryption_secret="a secret for tests",
    topics=("user.created", "user.deleted", "order.paid"),
    topics_allow_wildcards=True,
    max_destinations_per_tenant=3,
    destinations_allowed_cidrs=("127.0.0.0/8",),
)
WEBHOOK = {"type": "webhook", "topics": ["user.created"], "config": {"url": "https://example.com/hook"}}


class Health:
    """A process whose state the test decides."""

    def __init__(self) -> None:
        self.states: dict[str, bool] = {"http-server": True}
        self.in_the_way: list[str] = []
        self.in_part: list[str] = []

    def workers(self) -> Mapping[str, bool]:
        return self.states

    def obstacles(self) -> Sequence[str]:
        return self.in_the_way

    def setbacks(self) -> Sequence[str]:
        return self.in_part


class Api:
    """A running API; `http` carries the API key."""

    def __init__(self, settings: Settings, redis: RedisServer, store: stores.Store | None = None) -> None:
        self.health = Health()
        self.ahead_ms = 0  # how far a test has put the clock forward
        self.log = client.open_log(client.RedisAddress(redis.host, redis.port))
        window = append.Window(settings.publish_idempotency_ttl_ms)
        self.commit = append.GroupCommit(self.log, window)
        self._flushing = asyncio.create_task(self.commit.run())
        self.registry = registries.build(settings)
        sealer = crypto.Sealer(settings.aes_encryption_secret)
        changes = writer.Writer(self.log, window)
        self.deps = app.Deps(
            settings=settings,
            log=self.log,
            store=store,
            health=self.health,
            now_ms=lambda: time.time_ns() // 1_000_000 + self.ahead_ms,
            writer=changes,
            destinations=destinations.Destinations(changes, self.registry, sealer, settings),
            publisher=publish.Publisher(
                self.commit, cache.TenantCache(self.log), wildcards=settings.topics_allow_wildcards
            ),
            registry=self.registry,
            sealer=sealer,
        )
        self.app = app.build(self.deps)
        self.http = self.client({"Authorization": f"Bearer {settings.api_key}"})

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """The API behind the HTTP server of the product; its base URL without the prefix."""
        bound = ports.bind("127.0.0.1", 0)
        http = self.http_server()
        serving = asyncio.create_task(http.serve(bound))
        try:
            await eventually(lambda: http.started)
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            http.stop()
            await asyncio.wait_for(serving, 60)
            bound.close()

    def http_server(self) -> server.Server:
        """The HTTP server of the product in front of this API."""
        return server.Server(self.app, self.deps.settings, publish_route.InPlace(self.deps), app.HEALTH_PATHS)

    def client(self, headers: dict[str, str]) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app)  # type: ignore[arg-type]
        return httpx.AsyncClient(transport=transport, base_url="http://outpost/api/v1", headers=headers)

    async def tenant(self, tenant: str = "acme") -> None:
        assert (await self.http.put(f"/tenants/{tenant}")).status_code in (200, 201)

    async def destination(self, tenant: str = "acme", **fields: object) -> dict[str, object]:
        answer = await self.http.post(f"/tenants/{tenant}/destinations", json={**WEBHOOK, **fields})
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def publish(self, tenant: str = "acme", **fields: object) -> dict[str, object]:
        body = {"tenant_id": tenant, "topic": "user.created", "data": {"n": 1}, **fields}
        answer = await self.http.post("/publish", json=body)
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def close(self) -> None:
        await self.http.aclose()
        self.commit.close()
        await asyncio.wait_for(self._flushing, 60)
        await self.registry.close()
        await self.log.close()
