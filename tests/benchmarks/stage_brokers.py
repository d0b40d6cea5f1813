"""Stages of the brokers: a real RabbitMQ, and Tansu, without logins before it."""

from __future__ import annotations

import shutil
from typing import Any

import aio_pika
from aiokafka import AIOKafkaConsumer, TopicPartition

from outpost.embedded.brokers import rabbitmq, tansu
from tests.benchmarks.stage import Stage
from tests.benchmarks.stand_ins import Place
from tests.harness import servers
from tests.harness.destinations import kafka

PARTITIONS = 3
STEP_MS = 200  # of reading


class RabbitMQ(Stage):
    async def start(self) -> None:
        self._folder = servers.new_folder()
        self._broker = rabbitmq.start(self._folder)
        self._login = {"username": self._broker.username, "password": self._broker.password}
        self._connection = await aio_pika.connect(
            host=self._broker.host,
            port=self._broker.port,
            login=self._broker.username,
            password=self._broker.password,
        )
        self._channel = await self._connection.channel()

    async def target(self, name: str) -> Place:
        exchange = await self._channel.declare_exchange(name, "topic", durable=True)
        queue = await self._channel.declare_queue(name, durable=True)
        await queue.bind(exchange, "#")
        return Place(
            {"server_url": f"{self._broker.host}:{self._broker.port}", "exchange": name}, self._login, name
        )

    async def count(self, key: str) -> int:
        queue = await self._channel.declare_queue(key, passive=True)
        return queue.declaration_result.message_count or 0

    async def close(self) -> None:
        await self._connection.close()
        self._broker.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


class Kafka(Stage):
    """What is there is read: where a partition ends Tansu tells a batch too early."""

    async def start(self) -> None:
        self._folder = servers.new_folder()
        self._broker = tansu.start(self._folder)
        self._brokers = f"{self._broker.host}:{self._broker.port}"
        self._readers: dict[str, Any] = {}
        self._counts: dict[str, int] = {}

    async def target(self, name: str) -> Place:
        await kafka.create_topic(self._broker.port, name, PARTITIONS)
        config = {"brokers": self._brokers, "topic": name, "sasl_mechanism": "none", "tls": "false"}
        return Place(config, {}, name)

    async def count(self, key: str) -> int:
        if key not in self._readers:
            reader = self._readers[key] = AIOKafkaConsumer(bootstrap_servers=self._brokers)
            await reader.start()
            partitions = [TopicPartition(key, number) for number in range(PARTITIONS)]
            reader.assign(partitions)
            await reader.seek_to_beginning(*partitions)
        while found := await self._readers[key].getmany(timeout_ms=STEP_MS):
            self._counts[key] = self._counts.get(key, 0) + sum(map(len, found.values()))
        return self._counts.get(key, 0)

    async def close(self) -> None:
        for reader in self._readers.values():
            await reader.stop()
        self._broker.server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
