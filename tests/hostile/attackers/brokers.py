"""False services of the destination types that are not plain HTTP: each says more than any answer needs.

A `FalseService` is one misbehaviour of one type. It runs in two ways: `opened` gives its port to a test that sends
to it, `run` makes it a tenant's destination of a server under attack. None sends more than `MOST_BYTES` for each
connection, and each reads what it is sent until the other side is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx

from tests.hostile import attack

MOST_BYTES = 16_000_000  # that one connection pours
PIECE = 65_536
TENANT = "false-services"
EMULATOR = {"service_account_json": "{}"}
KEYS = {"key": "key", "secret": "secret"}

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Place = tuple[dict[str, str], dict[str, str]]  # config and credentials of a destination


@dataclasses.dataclass(frozen=True)
class FalseService:
    """`behaviour` answers one connection; `code` is what an attempt at a delivery to it fails with."""

    type: str
    name: str
    code: str
    behaviour: Behaviour

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[Place, asyncio.Event]]:
        """Where it listens, as a destination, and an event that is set once a connection has ended."""
        ended = asyncio.Event()
        tasks: set[asyncio.Task[Any]] = set()

        async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await self.behaviour(reader, writer)
                    while await reader.read(PIECE):
                        continue
            finally:
                tasks.discard(task)
                writer.transport.abort()
                ended.set()

        server = await asyncio.start_server(served, "127.0.0.1", 0)
        try:
            yield place(self.type, server.sockets[0].getsockname()[1]), ended
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def run(self, target: attack.Target, seconds: float) -> None:
        """Is the destination of events that it publishes itself, for so long."""
        until = time.monotonic() + seconds
        base = f"http://{target.host}:{target.port}/api/v1"
        tenant = f"{TENANT}-{self.type}-{self.name}".replace("_", "-")
        headers = {"Authorization": f"Bearer {target.api_key}"}
        async with (
            self.opened() as ((config, credentials), _),
            httpx.AsyncClient(headers=headers, timeout=seconds + 60) as client,
        ):
            made = {"type": self.type, "topics": ["*"], "config": config, "credentials": credentials}
            event = {"tenant_id": tenant, "topic": "order.created", "data": {"n": 1}}
            with contextlib.suppress(httpx.HTTPError):
                await client.put(f"{base}/tenants/{tenant}")
                await client.post(f"{base}/tenants/{tenant}/destinations", json=made)
            while time.monotonic() < until:
                with contextlib.suppress(httpx.HTTPError):
                    await client.post(f"{base}/publish", json=event)
                await asyncio.sleep(min(target.pause_s, max(until - time.monotonic(), 0)))
            with contextlib.suppress(httpx.HTTPError):
                await client.delete(f"{base}/tenants/{tenant}")


def place(type_: str, port: int) -> Place:
    """A destination of that type at that port."""
    url = f"http://127.0.0.1:{port}"
    bus = f"Endpoint=sb://127.0.0.1:{port}/;SharedAccessKeyName=n;SharedAccessKey=a2V5;UseDevelopmentEmulator=true"
    return {
        "aws_sqs": ({"queue_url": f"{url}/1/queue"}, KEYS),
        "aws_kinesis": ({"stream_name": "s", "region": "eu-west-1", "endpoint": url}, KEYS),
        "aws_s3": ({"bucket": "bucket", "region": "eu-west-1", "endpoint": url}, KEYS),
        "aws_eventbridge": ({"event_bus_name": "b", "region": "eu-west-1", "endpoint": url}, KEYS),
        "azure_servicebus": ({"name": "queue"}, {"connection_string": bus}),
        "gcp_pubsub": ({"project_id": "project", "topic": "topic", "endpoint": f"127.0.0.1:{port}"}, EMULATOR),
        "rabbitmq": (
            {"server_url": f"127.0.0.1:{port}", "exchange": "events", "tls": "false"},
            {"username": "user", "password": "password"},
        ),
        "kafka": ({"brokers": f"127.0.0.1:{port}", "topic": "topic", "sasl_mechanism": "none"}, {}),
    }[type_]


async def pour(writer: asyncio.StreamWriter, piece: bytes, most: int = MOST_BYTES) -> None:
    """Sends `piece` again and again, until the other side is gone or `most` bytes are out."""
    block = piece * max(1, PIECE // len(piece))
    for _ in range(0, most, len(block)):
        writer.write(block)
        await writer.drain()


def says(*said: bytes) -> Behaviour:
    """Waits for the first bytes of the other side, and sends these, one after the other."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(PIECE)
        for each in said:
            writer.write(each)
            await writer.drain()

    return behave


def pours(head: bytes, piece: bytes) -> Behaviour:
    """Sends `head` once the other side has said something, and then `piece` for as long as it may."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(PIECE)
        writer.write(head)
        await pour(writer, piece)

    return behave
