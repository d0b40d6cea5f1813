"""The brokers of `outpost demo`: each is started in a folder of its own and gets a place that takes events, which
are read back with the library of the type. Stopped and deleted at the end, whatever happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import msgspec

from outpost import errors
from outpost.adapters import extras
from outpost.cli.demo.services import Arrived, Proof, Service
from outpost.embedded.brokers import moto, rabbitmq, tansu

T = TypeVar("T")

NAME = "orders"  # of the exchange, the queue, the topic
TOPICS = "order.#"
LONG_POLL_S = 1


class _Read:
    """What the brokers have in common: there is a code for all that was delivered, and what is read is shown."""

    code = "OK"
    type: str
    received: str
    read_back: str  # the step that tells what was checked of what was read

    def __init__(self, name: str, where: str, config: dict[str, str], credentials: dict[str, str]) -> None:
        self.name = name
        self.where = where
        self.config = config
        self.credentials = credentials

    async def next(self, limit_s: float) -> Arrived | None:
        """The next message; None if none comes in time."""
        try:
            async with asyncio.timeout(limit_s):
                return await self._message()
        except TimeoutError:
            return None

    def verify(self, credentials: dict[str, str]) -> Proof:  # noqa: ARG002 (only webhooks are signed)
        """Nothing more has to hold: whoever reads from a broker believes it."""
        return Proof(self.read_back, "")

    async def _message(self) -> Arrived:
        raise NotImplementedError


class _RabbitMQ(_Read):
    type = "rabbitmq"
    received = "message consumed from a queue bound to the exchange"
    read_back = "body byte for byte, event id and topic in headers"

    def __init__(self, broker: rabbitmq.RabbitMQ, queue: Any) -> None:
        where = f"{broker.host}:{broker.port}"
        config = {"server_url": where, "exchange": NAME}
        super().__init__("RabbitMQ", where, config, {"username": broker.username, "password": broker.password})
        self._messages: asyncio.Queue[Arrived] = asyncio.Queue()
        self._queue = queue

    async def begin(self) -> None:
        """From now on messages are consumed."""
        await self._queue.consume(self._take, no_ack=True)

    async def _take(self, message: Any) -> None:
        headers = {name: str(value) for name, value in message.headers.items()}
        shown = {
            "exchange": message.exchange,
            "routing key": message.routing_key,
            "message id": message.message_id,
        }
        self._messages.put_nowait(Arrived(message.body, headers, monotonic(), shown))

    async def _message(self) -> Arrived:
        return await self._messages.get()


class _Kafka(_Read):
    type = "kafka"
    received = "record consumed from the Kafka topic"
    read_back = "value byte for byte, event id, topic in headers"

    def __init__(self, broker: tansu.Tansu, consumer: Any) -> None:
        where = f"{broker.host}:{broker.port}"
        config = {"brokers": where, "topic": NAME, "sasl_mechanism": "none", "tls": "false"}
        super().__init__("Tansu, a Kafka broker,", where, config, {})
        self._consumer = consumer

    async def _message(self) -> Arrived:
        record = await self._consumer.getone()
        headers = {name: value.decode() for name, value in record.headers}
        shown = {"Kafka topic": record.topic, "partition": str(record.partition), "offset": str(record.offset)}
        return Arrived(bytes(record.value), headers, monotonic(), {**shown, "key": record.key.decode()})


class _Sqs(_Read):
    type = "aws_sqs"
    received = "message received from the queue"
    read_back = "body byte for byte, event id, topic in an attribute"

    def __init__(self, server: moto.Moto, queue_url: str) -> None:
        credentials = server.user(moto.EVERYTHING).credentials()
        super().__init__("moto, a stand-in for Amazon SQS,", queue_url, {"queue_url": queue_url}, credentials)
        self._client = server.client("sqs")
        self._wanted = {"QueueUrl": queue_url, "MessageAttributeNames": ["All"], "WaitTimeSeconds": LONG_POLL_S}

    async def _message(self) -> Arrived:
        while True:
            answer = await asyncio.to_thread(self._client.receive_message, **self._wanted)
            for message in answer.get("Messages", ()):
                metadata = msgspec.json.decode(
                    message["MessageAttributes"]["metadata"]["StringValue"], type=dict[str, str]
                )
                shown = {"message id": message["MessageId"]}
                return Arrived(message["Body"].encode(), metadata, monotonic(), shown)


@contextlib.asynccontextmanager
async def rabbit_mq() -> AsyncIterator[Service]:
    """The RabbitMQ of the machine, with a topic exchange and a queue."""
    require("rabbitmq", "aio_pika", "rabbitmq")
    with running("rabbitmq", rabbitmq.start, rabbitmq.RabbitMQ.kill) as broker:
        import aio_pika

        connection = await aio_pika.connect(
            host=broker.host, port=broker.port, login=broker.username, password=broker.password
        )
        async with connection:
            channel = await connection.channel()
            exchange = await channel.declare_exchange(NAME, aio_pika.ExchangeType.TOPIC, durable=True)
            queue = await channel.declare_queue(NAME, durable=True)
            await queue.bind(exchange, TOPICS)
            service = _RabbitMQ(broker, queue)
            await service.begin()
            yield service


@contextlib.asynccontextmanager
async def kafka() -> AsyncIterator[Service]:
    """Tansu, with a topic of one partition."""
    require("kafka", "aiokafka", "kafka")
    with running("kafka", tansu.start, lambda broker: broker.server.stop()) as broker:
        from aiokafka import AIOKafkaConsumer, TopicPartition
        from aiokafka.admin import AIOKafkaAdminClient, NewTopic

        address = f"{broker.host}:{broker.port}"
        admin = AIOKafkaAdminClient(bootstrap_servers=address)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(NAME, 1, 1)])
        finally:
            await admin.close()
        consumer = AIOKafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest")
        await consumer.start()
        try:
            consumer.assign([TopicPartition(NAME, 0)])
            yield _Kafka(broker, consumer)
        finally:
            await consumer.stop()


@contextlib.asynccontextmanager
async def sqs() -> AsyncIterator[Service]:
    """moto, which checks signatures, with a queue and a user."""
    require("aws_sqs", "botocore", "aws")
    with running("aws-sqs", moto.start, lambda server: server.server.stop()) as server:
        made = await asyncio.to_thread(server.client("sqs").create_queue, QueueName=NAME)
        yield _Sqs(server, made["QueueUrl"])


def require(type_: str, module: str, extra: str) -> None:
    """Raises errors.EmbeddedError where the library is missing."""
    if sentence := extras.missing(type_, module, extra):
        raise errors.EmbeddedError(sentence)


@contextlib.contextmanager
def running(name: str, start: Callable[[Path], T], stop: Callable[[T], None]) -> Iterator[T]:
    """What `start` starts, in a folder that is deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix=f"outpost-demo-{name}-")).resolve()
    try:
        started = start(folder)
        try:
            yield started
        finally:
            stop(started)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
