"""A receiver that says back everything that it got: in the body, in the headers and in the status text.

What it wants is its destination's own secrets in the attempts, where more people read them than know them, and the
time that it takes to find them: some bodies are full of secrets, others of what nearly is one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import html
import itertools
import json
import time
import urllib.parse

import httpx

from tests.hostile import attack

TENANT = "echo"
MARK = "Qz7~"  # stands in every secret, and nowhere else
USER, PASSWORD, TOKEN, HEADER = (MARK + text for text in ("user", 'pass"/&ü', "token+/=", "header <1>"))
SECRET = f"{MARK}whsec-0123456789"
LOGIN = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode().rstrip("=")
MOST_BODY_BYTES = 131_072  # what an attempt keeps at most
MOST_HEAD_BYTES = 65_536
PUBLISH_EVERY_S = 0.05
SLOW = "/slow"  # the path of the destination whose secrets are slow to look for
# Values for which a search that compares from the front looks at half of them at every place of `aaaa..`.
NEARLY = {f"x-nearly-{n}": "a" * n + "b" + "a" * (98 - n) for n in range(30, 58)}
BLANK = b"\r\n\r\n"
ENDINGS = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError)


class Echo:
    """See `attack.Attack`. `served` counts the requests that it has answered."""

    name = "echo"

    def __init__(self) -> None:
        self.served = 0
        self._kinds = itertools.cycle((self._spellings, self._full, self._nearly))
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self, target: attack.Target, seconds: float) -> None:
        """Publishes to its own receiver until `seconds` have passed."""
        until = time.monotonic() + seconds
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=MOST_HEAD_BYTES)
        port = server.sockets[0].getsockname()[1]
        headers = {"Authorization": f"Bearer {target.api_key}"}
        url = f"http://{target.host}:{target.port}/api/v1"
        try:
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30.0, trust_env=False) as client:
                await client.put(f"/tenants/{TENANT}")
                for body in destinations(port):
                    await client.post(f"/tenants/{TENANT}/destinations", json=body)
                while time.monotonic() < until:
                    event = {"tenant_id": TENANT, "topic": "user.created", "data": {"n": self.served}}
                    await client.post("/publish", json=event)
                    await asyncio.sleep(PUBLISH_EVERY_S)
                await client.delete(f"/tenants/{TENANT}")
        except httpx.HTTPError:
            pass  # the target refuses
        finally:
            server.close()
            for task in list(self._connections):
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(*ENDINGS):
                while True:
                    head = await reader.readuntil(BLANK)
                    await reader.readexactly(_length(head))
                    writer.write(self._answer(head))
                    await writer.drain()
                    self.served += 1
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    def _answer(self, head: bytes) -> bytes:
        lines = head.removesuffix(BLANK).split(b"\r\n")
        status = b"200" if self.served % 2 else b"500"
        kind = self._nearly if SLOW.encode() in lines[0] else next(self._kinds)
        body = kind(head)[:MOST_BODY_BYTES]
        echoed = [b"x-echo-" + line for line in lines[1:]]
        length = b"content-length: %d" % len(body)
        return b"\r\n".join([b"HTTP/1.1 %s %s" % (status, lines[0]), *echoed, length, b"", b""]) + body

    def _spellings(self, head: bytes) -> bytes:
        """Everything, in the spellings of servers."""
        known = (*head.decode("latin-1").split("\r\n"), USER, PASSWORD, TOKEN, HEADER, SECRET, LOGIN)
        told = [*known, *map(html.escape, known), *map(urllib.parse.quote_plus, known)]
        return json.dumps({"you sent": told, "that is": json.dumps(known, ensure_ascii=False)}).encode()

    def _full(self, head: bytes) -> bytes:
        """Nothing but secrets."""
        return f"{PASSWORD} {SECRET} {LOGIN} ".encode() * (MOST_BODY_BYTES // 60)

    def _nearly(self, head: bytes) -> bytes:
        """Nothing but what is nearly a secret."""
        return b"a" * MOST_BODY_BYTES


def destinations(port: int) -> list[dict[str, object]]:
    """Bodies that create them: one has a secret in every place, the secrets of the other are slow to look for."""
    user, password, token = (urllib.parse.quote(text, safe="") for text in (USER, PASSWORD, TOKEN))
    custom = json.dumps({"X-Own": HEADER, "X-Key": f"Bearer {SECRET}"})
    return [
        {
            "type": "webhook",
            "topics": "*",
            "config": {
                "url": f"http://{user}:{password}@127.0.0.1:{port}/hook?token={token}",
                "custom_headers": custom,
            },
            "credentials": {"secret": SECRET},
        },
        {
            "type": "webhook",
            "topics": "*",
            "config": {"url": f"http://127.0.0.1:{port}{SLOW}", "custom_headers": json.dumps(NEARLY)},
        },
    ]


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return min(int(line.partition(b":")[2]), MOST_BODY_BYTES)
    return 0
