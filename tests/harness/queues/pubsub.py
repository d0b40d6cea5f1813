"""Pub/Sub as a queue: the stand-in with TLS and accounts, in the place of Google, behind a proxy."""

from __future__ import annotations

import asyncio
import itertools
from typing import Self
from unittest import mock

from outpost.adapters.gcp import calls as gcp_calls
from outpost.adapters.gcp import type as gcp_pubsub
from outpost.queue import broker as brokers
from outpost.queue import pubsub
from outpost.settings import queues
from tests.harness import toxic
from tests.harness.destinations import pubsub as destinations
from tests.harness.destinations import pubsub_server
from tests.harness.queues import world

_numbers = itertools.count(1)
_account = pubsub_server.Account("operator")


class World(world.World):
    """A topic of its own for each test, and a stand-in."""

    name = "pubsub"
    locks = True

    async def __aenter__(self) -> Self:
        self.server = await pubsub_server.Server(tls=destinations.certificate("127.0.0.1")).__aenter__()
        self.account = _account
        self.server.accounts = [_account]
        self.server.owners = {_account.email}
        self.proxy = await toxic.Toxic("127.0.0.1", self.server.port).__aenter__()
        roots = destinations.authority().cert_pem.bytes()
        google = gcp_calls.Service("127.0.0.1", self.proxy.port, roots=roots)
        self._patch = mock.patch.object(gcp_pubsub, "GOOGLE", google)
        self._patch.start()
        self.topic = f"outpost-delivery-{next(_numbers)}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._patch.stop()
        await self.proxy.__aexit__()
        await self.server.__aexit__()

    def is_of_stand_in(self, task: asyncio.Task[object]) -> bool:
        return getattr(task.get_coro(), "__qualname__", "").startswith("AioServer.")

    def path(self, kind: str, name: str) -> str:
        """As the service names it."""
        return f"projects/{destinations.PROJECT}/{kind}/{name}"

    @property
    def subscription(self) -> str:
        """The path of the one that is consumed."""
        return self.path("subscriptions", f"{self.topic}-sub")

    def named(self, **changes: str) -> queues.PubSub:
        """As the settings would name it."""
        fields: dict[str, str] = {
            "project": destinations.PROJECT,
            "credentials": destinations.key_file(self.account),
            "topic": self.topic,
            "subscription": f"{self.topic}-sub",
            "dead_letter_topic": f"{self.topic}-dlq",
            "dead_letter_subscription": f"{self.topic}-dlq-sub",
        }
        return queues.PubSub(**(fields | changes))

    def broker(self) -> pubsub.PubSubBroker:
        return pubsub.open_broker(self.named())

    def missing(self) -> pubsub.PubSubBroker:
        return pubsub.open_broker(self.named(subscription="nowhere"))

    def unauthorized(self) -> pubsub.PubSubBroker:
        unknown = self.account.key_file(known=False)
        return pubsub.open_broker(self.named(credentials=unknown.replace('"key-', '"hunter2-')))

    async def put(self, bodies: list[bytes]) -> None:
        messages = [pubsub_server.pubsub.PubsubMessage(data=body) for body in bodies]
        ids = [f"put-{next(_numbers)}" for _ in bodies]
        self.server.subscriptions.publish(self.path("topics", self.topic), messages, ids)

    async def dead_letters(self) -> list[tuple[bytes, str]]:
        letters = self.server.topics[self.path("topics", f"{self.topic}-dlq")].messages
        return [(letter.data, letter.attributes.get(pubsub.REASON, "")) for letter in letters]

    async def end_locks(self, held: brokers.Broker) -> None:
        await held.close()
        self.server.subscriptions.end_deadlines(self.subscription)

    async def go_away(self) -> None:
        await self.proxy.refuse()

    async def come_back(self) -> None:
        await self.proxy.accept()
