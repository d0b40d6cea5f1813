"""Service Bus as a queue: the stand-in of the destination tests, behind its proxy."""

from __future__ import annotations

import itertools
from typing import Any, Self

from outpost.adapters.azure import application
from outpost.queue import broker as brokers
from outpost.queue import servicebus
from outpost.settings import queues
from tests.harness import servers
from tests.harness.destinations import servicebus as destinations
from tests.harness.queues import world

_numbers = itertools.count(1)
DIRECTORY = "11111111-1111-1111-1111-111111111111"
CLIENT = "22222222-2222-2222-2222-222222222222"


class World(world.World):
    """A topic and a subscription of their own for each test."""

    name = "servicebus"
    locks = True

    async def __aenter__(self) -> Self:
        self.service = await destinations.World().__aenter__()
        await servers.wait_for_port(self.service.http_port)
        number = next(_numbers)
        self.topic, self.subscription = f"topic-{number}", f"sub-{number}"
        self.string = await self.key(f"root-{number}")
        await self.asked("make", topic=self.topic, subscription=self.subscription, max_deliveries=6)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.asked("delete", topic=self.topic)
        await self.service.__aexit__()

    @property
    def path(self) -> str:
        return f"{self.topic}/Subscriptions/{self.subscription}"

    def named(self, **changes: Any) -> queues.ServiceBus:
        """As the settings would name it."""
        fields: dict[str, Any] = {
            "connection_string": self.string,
            "topic": self.topic,
            "subscription": self.subscription,
        }
        return queues.ServiceBus(**(fields | changes))

    def by_application(self, **changes: Any) -> queues.ServiceBus:
        """With the six values in place of a connection string."""
        six = {
            "connection_string": "",
            "tenant_id": DIRECTORY,
            "client_id": CLIENT,
            "client_secret": "s3cret",
            "subscription_id": "33333333-3333-3333-3333-333333333333",
            "resource_group": "group",
            "namespace": "outpost-test",
        }
        return self.named(**(six | changes))

    @property
    def cloud(self) -> application.Cloud:
        """The stand-in's, its AMQP behind the proxy."""
        http = f"http://127.0.0.1:{self.service.http_port}"
        return application.Cloud(http, http, "127.0.0.1", self.service.proxy.port, False)

    def broker(self) -> servicebus.ServiceBusBroker:
        return servicebus.open_broker(self.named())

    def missing(self) -> servicebus.ServiceBusBroker:
        return servicebus.open_broker(self.named(subscription="nowhere"))

    def unauthorized(self) -> servicebus.ServiceBusBroker:
        name = self.string.partition("SharedAccessKeyName=")[2].partition(";")[0]
        string = self.service.string(self.service.proxy.port, name, "hunter2")["connection_string"]
        return servicebus.open_broker(self.named(connection_string=string))

    async def put(self, bodies: list[bytes]) -> None:
        await self.asked("put", topic=self.topic, bodies=[body.decode() for body in bodies])

    async def dead_letters(self) -> list[tuple[bytes, str]]:
        return [(body.encode("latin-1"), reason) for body, reason, _ in (await self.told())["dead"]]

    async def end_locks(self, held: brokers.Broker) -> None:
        await held.close()
        await self.asked("end_locks", path=self.path)

    async def go_away(self) -> None:
        await self.service.proxy.refuse()

    async def come_back(self) -> None:
        await self.service.proxy.accept()

    async def told(self) -> dict[str, Any]:
        """What the subscription has."""
        found: dict[str, Any] = await self.asked("told", path=self.path)
        return found

    async def key(self, name: str, *, send: bool = True, listen: bool = True) -> str:
        """A connection string with a new key."""
        key = "c2VjcmV0LW9mLXRoZS1zdGFuZC1pbg=="
        await self.service.told(do="key", name=name, key=key, send=send, listen=listen)
        return self.service.string(self.service.proxy.port, name, key)["connection_string"]

    async def asked(self, call: str, **arguments: Any) -> Any:
        """The answer of the stand-in's topics."""
        return await self.service.told(do="topics", call=call, **arguments)
