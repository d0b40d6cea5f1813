"""The other side of `make bench-destinations`: one call an event through the service's own library, as a
program would make it without Outpost. The body and metadata are the same; nothing is signed, no address is judged.
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import functools
import hashlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from outpost.domain import events
from tests.benchmarks import load
from tests.benchmarks.stand_ins import Place

Call = Callable[[events.Event], Awaitable[object]]
# Call number n is made by the caller of that number; a library that may be shared gives the same to all.
Callers = AbstractAsyncContextManager[list[Call]]

JSON = "application/json"
CLOSE_LIMIT_S = 2.0


class Side:
    """Sends with as many calls under way as there are callers."""

    def __init__(self, callers: list[Call]) -> None:
        self._callers = callers

    async def send(self, waiting: Iterator[events.Event], tally: load.Tally) -> None:
        """See load.Send."""

        async def calls(call: Call) -> None:
            for event in waiting:
                tally.sent += 1
                try:
                    await call(event)
                except Exception as exc:
                    tally.failed[type(exc).__name__] += 1
                else:
                    tally.delivered += 1

        await asyncio.gather(*(calls(call) for call in self._callers))


class Library(msgspec.Struct, frozen=True):
    """`callers` is how many calls at once serve it best: measured with 1, 4, 16, 64 and 250."""

    name: str
    callers: int
    open: Callable[[Place, int], Callers]


@contextlib.asynccontextmanager
async def opened(type_: str, place: Place) -> AsyncIterator[Side]:
    """That of a type."""
    library = LIBRARIES[type_]
    async with library.open(place, library.callers) as found:
        yield Side(found)


def metadata(event: events.Event) -> dict[str, str]:
    """As Outpost adds it."""
    return {"event-id": event.id, "topic": event.topic, "timestamp": event.time}


@contextlib.asynccontextmanager
async def _webhook(place: Place, callers: int) -> AsyncIterator[list[Call]]:
    async with _http(callers) as client:

        async def call(event: events.Event) -> None:
            answer = await client.post(place.config["url"], content=event.data, headers=_headers(event))
            answer.raise_for_status()

        yield [call] * callers


@contextlib.asynccontextmanager
async def _hookdeck(place: Place, callers: int) -> AsyncIterator[list[Call]]:
    token = place.credentials["token"].encode()
    url = f"{place.settings['hookdeck_events_url']}/{place.key}"
    async with _http(callers) as client:

        async def call(event: events.Event) -> None:
            signature = base64.b64encode(hmac.new(token, event.data, hashlib.sha256).digest()).decode()
            headers = {**_headers(event), "X-Hookdeck-Signature": f"v0={signature}"}
            answer = await client.post(url, content=event.data, headers=headers)
            answer.raise_for_status()

        yield [call] * callers


def _http(callers: int) -> Any:
    import httpx

    limits = httpx.Limits(max_connections=callers, max_keepalive_connections=callers)
    return httpx.AsyncClient(trust_env=False, limits=limits, timeout=30.0)


def _headers(event: events.Event) -> dict[str, str]:
    told = {f"X-Outpost-{name}": value for name, value in metadata(event).items()}
    return {"Content-Type": JSON, **told}


Asked = dict[str, Any]


def _sqs(place: Place, event: events.Event) -> Asked:
    attribute = {"DataType": "String", "StringValue": msgspec.json.encode(metadata(event)).decode()}
    return {
        "QueueUrl": place.config["queue_url"],
        "MessageBody": event.data.decode(),
        "MessageAttributes": {"metadata": attribute},
    }


def _kinesis(place: Place, event: events.Event) -> Asked:
    data = b'{"data":%b,"metadata":%b}' % (event.data, msgspec.json.encode(metadata(event)))
    return {"StreamName": place.config["stream_name"], "Data": data, "PartitionKey": event.id}


def _s3(place: Place, event: events.Event) -> Asked:
    key = f"{event.id}.json"
    fixed = {"Bucket": place.config["bucket"], "ContentType": JSON}
    return {**fixed, "Key": key, "Body": event.data, "Metadata": metadata(event)}


def _eventbridge(place: Place, event: events.Event) -> Asked:
    detail = b'{"metadata":%b,"data":%b}' % (msgspec.json.encode(metadata(event)), event.data)
    entry = {"Source": "outpost", "DetailType": event.topic, "Detail": detail.decode()}
    return {"Entries": [{**entry, "EventBusName": place.config["event_bus_name"]}]}


@contextlib.asynccontextmanager
async def _aws(
    service: str, method: str, asked: Callable[[Place, events.Event], Asked], place: Place, callers: int
) -> AsyncIterator[list[Call]]:
    import boto3
    from botocore.config import Config

    config = Config(max_pool_connections=callers, retries={"total_max_attempts": 1}, proxies={})
    session = boto3.Session(place.credentials["key"], place.credentials["secret"])
    region = place.config.get("region", "us-east-1")
    endpoint = place.config.get("endpoint") or place.config["queue_url"].rsplit("/", 2)[0]
    client = session.client(service, region_name=region, endpoint_url=endpoint, config=config)
    with concurrent.futures.ThreadPoolExecutor(callers) as threads:
        loop = asyncio.get_running_loop()
        do = getattr(client, method)

        async def call(event: events.Event) -> None:
            answer = await loop.run_in_executor(threads, lambda: do(**asked(place, event)))
            if answer.get("FailedEntryCount"):
                raise ValueError(answer)

        yield [call] * callers
    client.close()


@contextlib.asynccontextmanager
async def _servicebus(place: Place, callers: int) -> AsyncIterator[list[Call]]:
    """A sender for each caller: none may be used by two at once."""
    from azure.servicebus import ServiceBusMessage
    from azure.servicebus.aio import ServiceBusClient

    async def call(sender: Any, event: events.Event) -> None:
        properties: Any = metadata(event)
        message = ServiceBusMessage(
            event.data, application_properties=properties, message_id=event.id, content_type=JSON
        )
        await sender.send_messages(message)

    client = ServiceBusClient.from_connection_string(place.credentials["connection_string"])
    senders = [client.get_queue_sender(place.config["name"]) for _ in range(callers)]
    try:
        yield [functools.partial(call, sender) for sender in senders]
    finally:
        with contextlib.suppress(TimeoutError):  # each may wait 10 s for a last word
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await asyncio.gather(*(sender.close() for sender in senders))


@contextlib.asynccontextmanager
async def _pubsub(place: Place, callers: int) -> AsyncIterator[list[Call]]:
    import grpc.aio
    from google.pubsub_v1 import PublisherAsyncClient, PubsubMessage
    from google.pubsub_v1.services.publisher import transports

    async with grpc.aio.insecure_channel(place.config["endpoint"]) as channel:
        client = PublisherAsyncClient(transport=transports.PublisherGrpcAsyncIOTransport(channel=channel))

        async def call(event: events.Event) -> None:
            message = PubsubMessage(data=event.data, attributes=metadata(event))
            await client.publish(topic=place.key, messages=[message])

        yield [call] * callers


@contextlib.asynccontextmanager
async def _rabbitmq(place: Place, callers: int) -> AsyncIterator[list[Call]]:
    import aio_pika

    host, _, port = place.config["server_url"].partition(":")
    login, password = place.credentials["username"], place.credentials["password"]
    connection = await aio_pika.connect(host=host, port=int(port), login=login, password=password)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        exchange = await channel.get_exchange(place.config["exchange"])

        async def call(event: events.Event) -> None:
            headers: Any = metadata(event)
            mode = aio_pika.DeliveryMode.PERSISTENT
            message = aio_pika.Message(
                event.data, headers=headers, content_type=JSON, message_id=event.id, delivery_mode=mode
            )
            await exchange.publish(message, event.topic)

        yield [call] * callers


@contextlib.asynccontextmanager
async def _kafka(place: Place, callers: int) -> AsyncIterator[list[Call]]:
    """The library gathers calls that come at the same time into batches of its own."""
    from aiokafka import AIOKafkaProducer

    producer = AIOKafkaProducer(bootstrap_servers=place.config["brokers"], acks="all")
    await producer.start()

    async def call(event: events.Event) -> None:
        headers = [(name, value.encode()) for name, value in metadata(event).items()]
        await producer.send_and_wait(place.config["topic"], event.data, event.id.encode(), headers=headers)

    try:
        yield [call] * callers
    finally:
        await producer.stop()


# httpx looks at all its connections for every request: with 64 of them one takes ten times the CPU time.
LIBRARIES = {
    "webhook": Library("httpx", 4, _webhook),
    "hookdeck": Library("httpx", 4, _hookdeck),
    "aws_sqs": Library("boto3 in threads", 16, functools.partial(_aws, "sqs", "send_message", _sqs)),
    "aws_kinesis": Library("boto3 in threads", 16, functools.partial(_aws, "kinesis", "put_record", _kinesis)),
    "aws_s3": Library("boto3 in threads", 16, functools.partial(_aws, "s3", "put_object", _s3)),
    "aws_eventbridge": Library(
        "boto3 in threads", 16, functools.partial(_aws, "events", "put_events", _eventbridge)
    ),
    "azure_servicebus": Library("azure-servicebus", 16, _servicebus),
    "gcp_pubsub": Library("google-cloud-pubsub", 16, _pubsub),
    "rabbitmq": Library("aio-pika", 64, _rabbitmq),
    "kafka": Library("aiokafka", 64, _kafka),
}
