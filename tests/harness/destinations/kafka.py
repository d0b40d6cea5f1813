"""Kafka: Tansu, with a front for what it lacks (logins, rights, quotas, limits), through a proxy that misbehaves.

A topic of three partitions a test. What arrived is read from Tansu itself, by assignment.
"""

from __future__ import annotations

import itertools
import json
import secrets
import shutil
from typing import Any, Self

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from outpost.adapters import base
from outpost.embedded.brokers import tansu
from outpost.errors import EmbeddedError
from tests.harness import servers
from tests.harness.destinations import kafka_front
from tests.harness.destinations import world as worlds
from tests.harness.toxic import Toxic

PARTITIONS = 3
USER = "outpost"
STEP_MS = 50  # of reading, once more after enough has arrived: what is there twice is to be seen
CUT_BYTES = 6  # of an answer, and so in the middle of it


class World(worlds.World):
    type = "kafka"
    batches = True
    codes = {
        "wrong_credentials": "auth_failed",
        "missing_target": "topic_not_found",
        "no_permission": "access_denied",
        "throttled": "throttled",
        "too_large": "message_too_large",
        "stalled": "timeout",
        "cut": "connection_reset",
        "rotated": "auth_failed",
        "refused_address": "blocked_address",
        "partial": "kafka_error",
    }
    cut_bytes = CUT_BYTES
    _broker: tansu.Tansu | None = None
    _folder: Any = None
    _numbers = itertools.count(1)

    @classmethod
    def missing(cls) -> str:
        try:
            return "" if tansu.binary().exists() else tansu.INSTALL
        except EmbeddedError as error:
            return str(error)

    @classmethod
    def broker(cls) -> tansu.Tansu:
        """The session's Tansu."""
        if cls._broker is None or not cls._broker.server.running():
            cls._folder = servers.new_folder()
            cls._broker = tansu.start(cls._folder)
        return cls._broker

    @classmethod
    def end_session(cls) -> None:
        if cls._broker is not None:
            cls._broker.server.stop()
            shutil.rmtree(cls._folder, ignore_errors=True)
            cls._broker = None

    async def __aenter__(self) -> Self:
        port = self.broker().port
        self.front = await kafka_front.Front(port, {USER: secrets.token_hex(8)}).__aenter__()
        self.proxy = await Toxic(self.front.host, self.front.port).__aenter__()
        self.front.advertised = (self.proxy.host, self.proxy.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.proxy.__aexit__()
        await self.front.__aexit__()

    async def target(self, partitions: int = PARTITIONS) -> worlds.Target:
        topic = f"topic-{next(self._numbers)}"
        await create_topic(self.broker().port, topic, partitions)
        assert self.front.users is not None
        return worlds.Target(
            {
                "brokers": f"{self.proxy.host}:{self.proxy.port}",
                "topic": topic,
                "sasl_mechanism": "scram-sha-256",
                "tls": "false",
            },
            {"username": USER, "password": self.front.users[USER]},
            topic,
        )

    async def arrived(self, target: worlds.Target, count: int, limit_s: float = 10.0) -> list[worlds.Arrived]:
        return await read(self.broker().port, target.key, count, limit_s)

    async def wrong_credentials(self, target: worlds.Target) -> worlds.Target:
        return msgspec.structs.replace(target, credentials={"username": USER, "password": "wrong-password"})

    async def missing_target(self, target: worlds.Target) -> worlds.Target:
        return msgspec.structs.replace(target, config={**target.config, "topic": "nobody-made-it"})

    async def no_permission(self, target: worlds.Target) -> worlds.Target:
        assert self.front.users is not None
        self.front.users["reader"] = "password-of-the-reader"
        self.front.readers.add("reader")
        return msgspec.structs.replace(
            target, credentials={"username": "reader", "password": self.front.users["reader"]}
        )

    async def throttle(self, target: worlds.Target) -> None:
        self.front.throttling = True

    async def too_large(self, target: worlds.Target) -> bytes:
        return json.dumps({"text": "x" * self.front.most_bytes}).encode()

    async def bad(self, target: worlds.Target, event: base.Delivery) -> base.Delivery:
        return msgspec.structs.replace(event, data=await self.refuse_one(target))

    async def refuse_one(self, target: worlds.Target) -> bytes:
        refused = b'{"refused":true}'
        self.front.invalid.add(refused)
        return refused

    async def rotate(self, target: worlds.Target) -> worlds.Target:
        assert self.front.users is not None
        self.front.users[USER] = secrets.token_hex(8)
        return msgspec.structs.replace(target, credentials={"username": USER, "password": self.front.users[USER]})

    async def heal(self) -> None:
        self.front.throttling = False
        self.proxy.heal()

    def refused_address(self, target: worlds.Target) -> worlds.Target:
        return msgspec.structs.replace(target, config={**target.config, "brokers": "169.254.169.254:9092"})


async def create_topic(port: int, topic: str, partitions: int) -> None:
    """Makes it at the broker on `port`."""
    admin = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{port}")
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, partitions, 1)])
    finally:
        await admin.close()


async def read(port: int, topic: str, count: int, limit_s: float = 10.0) -> list[worlds.Arrived]:
    """What the topic holds by the time that it holds `count`."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=f"127.0.0.1:{port}", auto_offset_reset="earliest", fetch_max_wait_ms=STEP_MS
    )
    await consumer.start()
    try:
        partitions = await _partitions(consumer, topic)
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        found: list[worlds.Arrived] = []

        async def enough() -> bool:
            for records in (await consumer.getmany(timeout_ms=STEP_MS)).values():
                found.extend(_arrived(record) for record in records)
            return len(found) >= count

        await servers.eventually(enough, limit_s)
        await enough()
        return found
    finally:
        await consumer.stop()


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    await consumer._client.force_metadata_update()
    return [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]


def _arrived(record: Any) -> worlds.Arrived:
    headers = {name: value.decode() for name, value in record.headers}
    content_type = headers.pop("content-type")
    extra = {"key": record.key.decode(), "partition": record.partition, "content_type": content_type}
    return worlds.Arrived(bytes(record.value), headers, extra)
