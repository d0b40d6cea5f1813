"""The delivery client: HTTP/1.1 on a protocol of our own and httptools' parser.

Delivering over HTTP is what this project is for, and a general client spends most of its time on what deliveries
never use. `tests/harness/aiohttp_client.py` does the same and is the one to compare with.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

from outpost.adapters.egress import guard as egress
from outpost.adapters.egress import names
from outpost.adapters.http import client, connecting, connection, failures, pool
from outpost.adapters.http import endpoint as endpoints


class ProtocolClient:
    """See client.Client. `max_body_bytes` caps a response body (0: no cap), `connections` those in use and kept
    together; `trust` defaults to the system's. Bound to the loop of its first `post`."""

    def __init__(
        self,
        guard: egress.Guard,
        known: names.Names,
        *,
        max_body_bytes: int,
        connections: int,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._guard = guard
        self._max_body = max_body_bytes
        self._limit = connections
        self._trust = trust
        self._names = known
        self._slots = asyncio.Semaphore(connections)
        self._waits: set[asyncio.Timeout] = set()  # for a slot or a connection
        self._bound: _Bound | None = None
        self._closed = False

    def endpoint(self, url: str, *, tenant: str = "", keep_headers: bool = False) -> endpoints.Endpoint:
        """See client.Client."""
        return endpoints.judge(url, self._guard, tenant=tenant, keep_headers=keep_headers)

    async def post(
        self,
        endpoint: endpoints.Endpoint,
        headers: bytes,
        body: bytes,
        deadline: float,
    ) -> client.Answer | client.Unanswered:
        """See client.Client."""
        bound = self._bound or self._bind()
        if endpoint.refused:
            return failures.BLOCKED
        if bound.loop.time() >= deadline:
            return failures.TIMEOUT
        if self._slots.locked():
            try:
                async with self._waiting(deadline):
                    await self._slots.acquire()
            except TimeoutError:
                return self._ended()
        else:
            await self._slots.acquire()  # at once
        try:
            if self._closed:
                return failures.CLOSED
            request = _request(endpoint, headers, body)
            taken = bound.pool.take(endpoint.origin)
            if taken is not None:
                outcome, unheard = await _exchange(bound.pool, taken, request, deadline)
                if not unheard or self._closed:
                    return outcome
            made = await self._connect(bound, endpoint, deadline)
            if isinstance(made, client.Unanswered):
                return made
            outcome, _ = await _exchange(bound.pool, made, request, deadline)
            return outcome
        finally:
            self._slots.release()

    async def close(self) -> None:
        """Closes all connections; sends under way fail."""
        self._closed = True
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(0)
        if self._bound is not None:
            await self._bound.pool.close()

    async def _connect(
        self,
        bound: _Bound,
        endpoint: endpoints.Endpoint,
        deadline: float,
    ) -> connection.Connection | client.Unanswered:
        try:
            async with self._waiting(deadline):
                return await bound.connector.connect(endpoint, deadline)
        except TimeoutError:
            return self._ended()

    @contextlib.asynccontextmanager
    async def _waiting(self, deadline: float) -> AsyncIterator[None]:
        """Raises TimeoutError at `deadline`, or when the client is closed."""
        async with asyncio.timeout_at(deadline) as wait:
            self._waits.add(wait)
            try:
                yield
            finally:
                self._waits.discard(wait)

    def _ended(self) -> client.Unanswered:
        return failures.CLOSED if self._closed else failures.TIMEOUT

    def _bind(self) -> _Bound:
        self._bound = _Bound(self._names, self._limit, self._max_body, self._trust)
        return self._bound


class _Bound:
    """What belongs to the running event loop."""

    def __init__(
        self,
        known: names.Names,
        limit: int,
        max_body: int,
        trust: ssl.SSLContext | None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.pool = pool.Pool(self.loop, limit, max_body)
        self.connector = connecting.Connector(known, self.pool, trust)


async def _exchange(
    pool: pool.Pool, taken: connection.Connection, request: bytes, deadline: float
) -> tuple[connection.Outcome, bool]:
    """What came of it, and whether the request is to go out once more: it got no answer, and the connection had
    been used before, so that the peer may have closed it while the request was on its way."""
    try:
        outcome = await taken.exchange(request, deadline)
        return outcome, taken.unheard(outcome)
    finally:
        pool.give_back(taken)


def _request(endpoint: endpoints.Endpoint, headers: bytes, body: bytes) -> bytes:
    """In one piece: one write, one packet where it fits."""
    return b"%b%bContent-Length: %d\r\n\r\n%b" % (endpoint.head, headers, len(body), body)
