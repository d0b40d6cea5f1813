"""Two plain attacks: a client that connects and says nothing, and a receiver whose answer has no end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools

import httpx

from tests.hostile.attack import Target

PIECE = b"x" * 65_536
ANSWER_S = 60.0  # for any answer, beside every other attack


@dataclasses.dataclass(frozen=True)
class SilentClients:
    """Opens connections and says nothing; one that the server closes is opened again after a pause."""

    name: str = "silent clients"
    connections: int = 100
    pause_s: float = 0.5

    async def run(self, target: Target, seconds: float) -> None:
        await asyncio.gather(*(self._one(target, seconds) for _ in range(self.connections)))

    async def _one(self, target: Target, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    with contextlib.suppress(OSError):
                        reader, writer = await asyncio.open_connection(target.host, target.port)
                        try:
                            await reader.read()
                        finally:
                            writer.transport.abort()
                    await asyncio.sleep(self.pause_s)


@dataclasses.dataclass(frozen=True)
class EndlessAnswers:
    """Is the receiver of events that it publishes, and answers each with a body that goes on for `most_bytes`."""

    name: str = "endless answers"
    tenant: str = "endless-answers"
    most_bytes: int = 20_000_000

    async def run(self, target: Target, seconds: float) -> None:
        serving: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            serving.add(task)
            try:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await self._answer(reader, writer)
            finally:
                serving.discard(task)
                writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._publish(target, server.sockets[0].getsockname()[1])
        finally:
            server.close()
            for task in list(serving):
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(0, self.most_bytes, len(PIECE)):
            writer.write(b"%x\r\n%s\r\n" % (len(PIECE), PIECE))
            await writer.drain()
        await reader.read()

    async def _publish(self, target: Target, port: int) -> None:
        base, headers = f"http://{target.host}:{target.port}/api/v1", {"Authorization": f"Bearer {target.api_key}"}
        async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False, timeout=ANSWER_S) as client:
            config = {"url": f"http://127.0.0.1:{port}/"}
            await client.put(f"/tenants/{self.tenant}")
            made = {"type": "webhook", "topics": ["*"], "config": config}
            await client.post(f"/tenants/{self.tenant}/destinations", json=made)
            for n in itertools.count():
                event = {"tenant_id": self.tenant, "topic": "user.created", "data": {"n": n}}
                with contextlib.suppress(httpx.HTTPError):
                    await client.post("/publish", json=event)
                await asyncio.sleep(target.pause_s)
