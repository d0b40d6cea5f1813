"""SQS as a queue: moto's, behind the front and the proxy of the destination tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Self

import botocore.exceptions

from outpost.queue import broker as brokers
from outpost.queue import sqs
from outpost.settings import queues
from tests.harness.destinations import moto
from tests.harness.destinations import sqs as destinations
from tests.harness.queues import world


class World(world.World):
    """A queue of its own for each test."""

    name = "sqs"
    locks = True

    async def __aenter__(self) -> Self:
        self.aws = await destinations.World().__aenter__()
        self.queue = self.aws.fresh("outpost-delivery")
        self.letters = f"{self.queue}-dlq"
        self.admin = self.aws.moto.client("sqs")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aws.__aexit__()

    def named(self, **changes: str) -> queues.SQS:
        """As the settings would name it."""
        fields: dict[str, str] = {
            "region": moto.REGION,
            "endpoint": self.aws.url,
            "access_key_id": self.aws.permitted.id,
            "secret_access_key": self.aws.permitted.secret,
            "queue": self.queue,
            "dead_letters": self.letters,
        }
        return queues.SQS(**(fields | changes))

    def broker(self) -> sqs.SQSBroker:
        return sqs.open_broker(self.named())

    def missing(self) -> sqs.SQSBroker:
        return sqs.open_broker(self.named(queue="nowhere"))

    def unauthorized(self) -> sqs.SQSBroker:
        return sqs.open_broker(self.named(secret_access_key="hunter2"))

    async def put(self, bodies: list[bytes]) -> None:
        for body in bodies:
            await self.call("send_message", QueueUrl=await self.url(self.queue), MessageBody=body.decode())

    async def dead_letters(self) -> list[tuple[bytes, str]]:
        return [
            (message["Body"].encode(), message["MessageAttributes"][sqs.REASON]["StringValue"])
            for message in await self.letters_in(self.letters)
        ]

    async def letters_in(self, queue: str) -> list[dict[str, Any]]:
        """What lies there, taken out."""
        url = await self.url(queue)
        every = {"MessageAttributeNames": ["All"], "AttributeNames": ["All"], "MaxNumberOfMessages": 10}
        messages: list[dict[str, Any]] = (await self.call("receive_message", QueueUrl=url, **every)).get(
            "Messages", []
        )
        for message in messages:
            await self.call("delete_message", QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return messages

    async def end_locks(self, held: brokers.Broker) -> None:
        await held.close()
        url = await self.url(self.queue)
        for asked, reply in self.aws.front.seen:
            if asked.target == "AmazonSQS.ReceiveMessage" and reply.status == 200:
                for message in json.loads(reply.body or b"{}").get("Messages", []):
                    with contextlib.suppress(botocore.exceptions.ClientError):  # settled
                        handle = message["ReceiptHandle"]
                        await self.call(
                            "change_message_visibility", QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0
                        )

    async def go_away(self) -> None:
        await self.aws.proxy.refuse()

    async def come_back(self) -> None:
        await self.aws.proxy.accept()

    async def url(self, queue: str) -> str:
        """Of a queue, past the proxy."""
        return str((await self.call("get_queue_url", QueueName=queue))["QueueUrl"])

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """As the administrator, past front and proxy."""
        answer: dict[str, Any] = await asyncio.to_thread(getattr(self.admin, operation), **parameters)
        return answer
