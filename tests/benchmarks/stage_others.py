"""Stages of what is spoken to without a library, and of the stand-ins that the repository has made itself."""

from __future__ import annotations

import asyncio
from typing import Any

from outpost.cli.bench import receiver
from tests.benchmarks.stage import Stage
from tests.benchmarks.stand_ins import Place
from tests.harness.destinations import hookdeck


class Webhook(Stage):
    async def start(self) -> None:
        self._counts: dict[bytes, int] = {}
        loop = asyncio.get_running_loop()
        sheet: Any = self
        self._server = await loop.create_server(lambda: receiver.Hook(sheet), "127.0.0.1", 0, backlog=1024)

    def arrived(self, path: bytes, event_id: bytes) -> None:
        self._counts[path] = self._counts.get(path, 0) + 1

    async def target(self, name: str) -> Place:
        return Place(
            {"url": f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/{name}"}, {}, f"/{name}"
        )

    async def count(self, key: str) -> int:
        return self._counts.get(key.encode(), 0)

    async def close(self) -> None:
        self._server.close()


class Hookdeck(Stage):
    async def start(self) -> None:
        self._world = await hookdeck.World().__aenter__()

    async def target(self, name: str) -> Place:
        made = await self._world.target()
        settings = {**self._world.settings, "hookdeck_events_url": self._world.events.url("")}
        return Place(made.config, made.credentials, made.key, settings)

    async def count(self, key: str) -> int:
        return sum(request.target == f"/{key}" for request in self._world._accepted)

    async def close(self) -> None:
        await self._world.__aexit__()


class ServiceBus(Stage):
    async def start(self) -> None:
        from tests.harness.destinations import servicebus

        self._world = await servicebus.World().__aenter__()
        self._new_key = servicebus._new_key
        self._largest = servicebus.LARGEST

    async def target(self, name: str) -> Place:
        await self._world.told(do="queue", name=name, largest=self._largest)
        key = self._new_key()
        await self._world.told(do="key", name=name, key=key, send=True)
        return Place({"name": name}, self._world.string(self._world.port, name, key), name)

    async def count(self, key: str) -> int:
        return len(await self._world.told(do="received", queue=key))

    async def close(self) -> None:
        await self._world.__aexit__()
        self._world.end_session()


class PubSub(Stage):
    """The emulator: Google's TLS and tokens are for the worlds."""

    async def start(self) -> None:
        from tests.harness.destinations import pubsub_server

        self._topic = pubsub_server.Topic
        self._server = await pubsub_server.Server().__aenter__()

    async def target(self, name: str) -> Place:
        key = f"projects/project-1/topics/{name}"
        self._server.topics[key] = self._topic(set())
        endpoint = f"127.0.0.1:{self._server.port}"
        config = {"project_id": "project-1", "topic": name, "endpoint": endpoint}
        return Place(config, {"service_account_json": "{}"}, key)

    async def count(self, key: str) -> int:
        return len(self._server.topics[key].messages)

    async def close(self) -> None:
        await self._server.__aexit__()
