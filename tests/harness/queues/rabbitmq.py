"""A real RabbitMQ as a queue, behind a proxy that can go away; the broker is that of the destination tests."""

from __future__ import annotations

import itertools
from typing import Any, Self

import aiormq

from outpost.queue import broker, rabbitmq
from outpost.settings import queues
from tests.harness.destinations import rabbitmq as destinations
from tests.harness.queues import world
from tests.harness.toxic import Toxic

_numbers = itertools.count(1)


class World(world.World):
    """A queue of its own for each test."""

    name = "rabbitmq"
    dead_letter_reasons = False

    async def __aenter__(self) -> Self:
        server = destinations.World.broker()
        self._proxy = await Toxic(server.host, server.port).__aenter__()
        self._login = f"{server.username}:{server.password}"
        self._admin = await aiormq.connect(f"amqp://{self._login}@{server.host}:{server.port}/")
        number = next(_numbers)
        self._exchange, self._queue = f"outpost-{number}", f"outpost-delivery-{number}"
        return self

    async def __aexit__(self, *_: object) -> None:
        channel = await self._admin.channel()
        for queue in (self._queue, self._letters):
            await channel.queue_delete(queue)
        await channel.exchange_delete(self._exchange)
        await self._admin.close()
        await self._proxy.__aexit__()

    @property
    def _letters(self) -> str:
        return f"{self._queue}.dlq"

    def named(self, **changes: str) -> queues.RabbitMQ:
        """As the settings would name it."""
        fields: dict[str, str] = {
            "server_url": f"amqp://{self._login}@{self._proxy.host}:{self._proxy.port}/",
            "exchange": self._exchange,
            "queue": self._queue,
            "dead_letters": self._letters,
        }
        return queues.RabbitMQ(**(fields | changes))

    def broker(self) -> rabbitmq.RabbitMQBroker:
        return rabbitmq.open_broker(self.named())

    def missing(self) -> rabbitmq.RabbitMQBroker:
        return rabbitmq.open_broker(self.named(queue="nowhere"))

    def unauthorized(self) -> rabbitmq.RabbitMQBroker:
        user, _, _ = self._login.partition(":")
        url = f"amqp://{user}:hunter2@{self._proxy.host}:{self._proxy.port}/"
        return rabbitmq.open_broker(self.named(server_url=url))

    async def put(self, bodies: list[bytes]) -> None:
        channel = await self._admin.channel()
        for number, body in enumerate(bodies):
            properties = aiormq.spec.Basic.Properties(message_id=f"m-{number}")
            await channel.basic_publish(body, routing_key=self._queue, properties=properties)
        await channel.close()

    async def dead_letters(self) -> list[tuple[bytes, str]]:
        channel = await self._admin.channel()
        found: list[tuple[bytes, str]] = []
        while True:
            message: Any = await channel.basic_get(self._letters, no_ack=True)
            if not isinstance(message.delivery, aiormq.spec.Basic.GetOk):
                break
            found.append((message.body, ""))
        await channel.close()
        return found

    async def end_locks(self, held: broker.Broker) -> None:
        await held.close()

    async def go_away(self) -> None:
        await self._proxy.refuse()

    async def come_back(self) -> None:
        await self._proxy.accept()
