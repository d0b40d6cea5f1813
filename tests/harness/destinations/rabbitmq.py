"""A real RabbitMQ for the session: each test has an exchange, a queue and a user of its own, behind a proxy.

Users are made over the HTTP API of the management plugin, since each `rabbitmqctl` takes a second.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import ssl
import time
from pathlib import Path
from typing import Any, ClassVar, Self

import aiormq
import httpx
import msgspec
import trustme
from aiormq import spec

from outpost.adapters import base
from outpost.embedded import look, process
from outpost.embedded.brokers import rabbitmq
from tests.harness import servers
from tests.harness.destinations import world
from tests.harness.toxic import Toxic

LARGEST_MESSAGE = 1 << 20
LARGEST_QUEUE = 1 << 19  # whatever does not fit is refused with a nack, and fails alone
PASSWORD = "p@ss:w/o rd%41?#\\ü"
CONTROL = rabbitmq.SCRIPT.with_name("rabbitmqctl")
ALARM = "{resource_limit, memory, node()}"
TLS_NAME = "broker.test"  # of the certificate
NEVER, EVERYTHING = "^$", ".*"


class World(world.World):
    type = "rabbitmq"
    codes = {
        "wrong_credentials": "auth_failed",
        "missing_target": "exchange_not_found",
        "no_permission": "access_denied",
        "throttled": "throttled",
        "too_large": "message_too_large",
        "stalled": "timeout",
        "cut": "connection_reset",
        "rotated": "auth_failed",
        "refused_address": "blocked_address",
        "partial": "throttled",
    }
    cut_bytes = 5  # of the confirm
    batches = True

    _broker: ClassVar[rabbitmq.RabbitMQ | None] = None
    _folder: ClassVar[Path]
    _numbers = itertools.count(1)
    tls_port: ClassVar[int]
    trust: ClassVar[ssl.SSLContext]  # of a client that believes the broker's certificate

    @classmethod
    def missing(cls) -> str:
        return "" if rabbitmq.present() else rabbitmq.INSTALL

    @classmethod
    def broker(cls) -> rabbitmq.RabbitMQ:
        """The session's broker, started when it is first wanted."""
        if cls._broker is None:
            cls._folder = servers.new_folder()
            settings = {"max_message_size": str(LARGEST_MESSAGE), **cls._tls()}
            cls._broker = rabbitmq.start(cls._folder, management=True, settings=settings)
        return cls._broker

    @classmethod
    def _tls(cls) -> dict[str, str]:
        authority = trustme.CA()
        certificate = authority.issue_cert(TLS_NAME)
        chain, key = cls._folder / "chain.pem", cls._folder / "key.pem"
        for pem in certificate.cert_chain_pems:
            pem.write_to_path(chain, append=True)
        certificate.private_key_pem.write_to_path(key)
        cls.trust = ssl.create_default_context()
        authority.configure_trust(cls.trust)
        cls.tls_port = process.free_port()
        return {
            "listeners.ssl.1": f"{rabbitmq.HOST}:{cls.tls_port}",
            "ssl_options.certfile": str(chain),
            "ssl_options.keyfile": str(key),
            "ssl_options.verify": "verify_none",
        }

    @classmethod
    def end_session(cls) -> None:
        broker, cls._broker = cls._broker, None
        if broker is not None:
            broker.kill()
            shutil.rmtree(cls._folder, ignore_errors=True)

    async def __aenter__(self) -> Self:
        broker = self.broker()
        self.proxy = await Toxic(broker.host, broker.port).__aenter__()
        url = f"http://{broker.host}:{broker.management_port}/api/"
        self._api = httpx.AsyncClient(base_url=url, auth=(broker.username, broker.password), trust_env=False)
        self._admin = await aiormq.connect(
            f"amqp://{broker.username}:{broker.password}@{broker.host}:{broker.port}/"
        )
        self._arrived: dict[str, list[world.Arrived]] = {}
        self._full: set[str] = set()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.proxy.__aexit__()
        await self._admin.close()
        await self._api.aclose()

    async def target(self) -> world.Target:
        name = f"events-{next(self._numbers)}"
        async with _channel(self._admin) as channel:
            await channel.exchange_declare(name, exchange_type="topic", durable=True)
            limits = {"x-max-length-bytes": LARGEST_QUEUE, "x-overflow": "reject-publish"}
            await channel.queue_declare(name, durable=True, arguments=limits)
            await channel.queue_bind(name, name, routing_key="order.#")
        return world.Target(
            {"server_url": f"{self.proxy.host}:{self.proxy.port}", "exchange": name},
            {"username": await self.user(), "password": PASSWORD},
            name,
        )

    async def user(self, password: str = PASSWORD, write: str = EVERYTHING, vhost: str = "%2F") -> str:
        """A new user who may write to what `write` matches. The name is short: it is no secret, and stands in
        what the broker says, where the suite looks for credentials of more than three letters."""
        name = f"u{next(self._numbers) % 100}"
        await self.put(f"users/{name}", {"password": password, "tags": ""})
        rights = {"configure": NEVER, "write": write, "read": NEVER}
        await self.put(f"permissions/{vhost}/{name}", rights)
        return name

    async def put(self, path: str, body: dict[str, str]) -> None:
        """A call of the HTTP API."""
        (await self._api.put(path, json=body)).raise_for_status()

    async def arrived(self, target: world.Target, count: int, limit_s: float = 10.0) -> list[world.Arrived]:
        found = self._arrived.setdefault(target.key, [])
        deadline = time.monotonic() + limit_s
        async with _channel(self._admin) as channel:
            while True:
                message = await channel.basic_get(target.key, no_ack=True)
                if isinstance(message.delivery, spec.Basic.GetOk):
                    found.append(_arrived(message))
                elif len(found) >= count or time.monotonic() > deadline:
                    return list(found)

    async def wrong_credentials(self, target: world.Target) -> world.Target:
        return world.Target(target.config, {**target.credentials, "password": "another"}, target.key)

    async def missing_target(self, target: world.Target) -> world.Target:
        return world.Target({**target.config, "exchange": "nowhere"}, target.credentials, target.key)

    async def no_permission(self, target: world.Target) -> world.Target:
        user = await self.user(write=NEVER)
        return world.Target(target.config, {**target.credentials, "username": user}, target.key)

    async def throttle(self, target: world.Target) -> None:
        async with _channel(self._admin) as channel:
            await channel.basic_publish(b"x" * (LARGEST_QUEUE - 1), routing_key=target.key)
        self._full.add(target.key)

    async def too_large(self, target: world.Target) -> bytes:
        return json.dumps("x" * LARGEST_MESSAGE).encode()

    async def bad(self, target: world.Target, event: base.Delivery) -> base.Delivery:
        """Of a topic to which the user may not write; the broker closes the channel over it."""
        rights = {"exchange": target.key, "write": "^order[.]", "read": EVERYTHING}
        await self.put(f"topic-permissions/%2F/{target.credentials['username']}", rights)
        return msgspec.structs.replace(event, topic="user.forbidden")

    async def refuse_one(self, target: world.Target) -> bytes | None:
        return json.dumps("x" * LARGEST_QUEUE).encode()

    async def rotate(self, target: world.Target) -> world.Target:
        await self.put(f"users/{target.credentials['username']}", {"password": "fresh-one", "tags": ""})
        return world.Target(target.config, {**target.credentials, "password": "fresh-one"}, target.key)

    async def heal(self) -> None:
        self.proxy.heal()
        async with _channel(self._admin) as channel:
            while self._full:
                await channel.queue_purge(self._full.pop())

    async def alarm(self, *, on: bool) -> None:
        """As if the broker ran out of memory: it takes no more messages, and says so to those that publish."""
        call = f"rabbit_alarm:set_alarm({{{ALARM}, []}})" if on else f"rabbit_alarm:clear_alarm({ALARM})"
        epmd = look.command_line(self.broker().epmd.pid).split()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder / "rabbitmq"),
            "ERL_EPMD_PORT": epmd[epmd.index("-port") + 1],
            "LC_ALL": "C.UTF-8",
        }
        words = [CONTROL, "--quiet", "-n", "outpost@localhost", "eval", f"{call}."]
        started = await asyncio.create_subprocess_exec(*words, env=environment)
        assert await started.wait() == 0

    async def force(self) -> bool:
        """Closes the connections of publishers, as an operator does; whether there was one (it takes the broker a
        moment to list them)."""
        found = (await self._api.get("connections")).raise_for_status().json()
        names = [c["name"] for c in found if c["client_properties"].get("connection_name") == "Outpost"]
        for name in names:
            await self.remove(f"connections/{name}")
        return bool(names)

    async def remove(self, path: str) -> None:
        """A DELETE of the HTTP API."""
        (await self._api.delete(path)).raise_for_status()

    def refused_address(self, target: world.Target) -> world.Target:
        config = {**target.config, "server_url": "169.254.169.254:5672"}
        return world.Target(config, target.credentials, target.key)


class _channel:
    """A channel for a few calls."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def __aenter__(self) -> Any:
        self._channel = await self._connection.channel()
        return self._channel

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()


def _arrived(message: Any) -> world.Arrived:
    properties = message.header.properties
    extra = {
        "routing_key": message.delivery.routing_key,
        "content_type": properties.content_type,
        "message_id": properties.message_id,
        "delivery_mode": properties.delivery_mode,
    }
    return world.Arrived(message.body, dict(properties.headers), extra)
