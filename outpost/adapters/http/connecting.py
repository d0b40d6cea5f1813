"""From an endpoint to an open connection: the judged addresses of its name, one after the other."""

from __future__ import annotations

import asyncio
import ssl

from outpost.adapters.egress import connecting, names
from outpost.adapters.egress import guard as egress
from outpost.adapters.http import client, failures, pool
from outpost.adapters.http import connection as connections
from outpost.adapters.http import endpoint as endpoints
from outpost.adapters.shared import trust

MAX_REMEMBERED = 10_000  # origins whose last good address is known


class Connector:
    """Connects to judged addresses only, under the TLS identity of the name. Belongs to one event loop."""

    def __init__(
        self,
        known: names.Names,
        kept: pool.Pool,
        context: ssl.SSLContext | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._names = known
        self._pool = kept
        self._context = context
        self._reached: dict[str, str] = {}

    async def connect(
        self,
        endpoint: endpoints.Endpoint,
        deadline: float,
    ) -> connections.Connection | client.Unanswered:
        """An open connection by `deadline`, or why there is none."""
        addresses = await self._addresses(endpoint)
        if isinstance(addresses, client.Unanswered):
            return addresses

        async def attempt(address: str) -> connections.Connection:
            connection = await self._attempt(endpoint, address, deadline - self._loop.time())
            if len(addresses) > 1:
                self._remember(endpoint.origin, address)
            return connection

        try:
            return await connecting.first_reachable(addresses, attempt, deadline)
        except TimeoutError as exc:
            return failures.TIMEOUT if exc.errno is None else failures.unanswered(exc)
        except (OSError, ValueError) as exc:  # ValueError: a name that TLS cannot encode
            return failures.unanswered(exc)

    async def _addresses(self, endpoint: endpoints.Endpoint) -> tuple[str, ...] | client.Unanswered:
        if endpoint.literal:
            return (endpoint.host,)
        match await self._names.resolve(endpoint.host, endpoint.tenant):
            case names.Unresolved():
                return failures.UNRESOLVED
            case egress.Refused():
                return failures.BLOCKED_NAME
            case names.Resolved(addresses):
                good = self._reached.get(endpoint.origin)
                if good in addresses:
                    return (good, *(address for address in addresses if address != good))
                return addresses

    async def _attempt(
        self,
        endpoint: endpoints.Endpoint,
        address: str,
        seconds: float,
    ) -> connections.Connection:
        connection = self._pool.new(endpoint.origin, keep_headers=endpoint.keep_headers)
        try:
            if endpoint.tls:
                await self._loop.create_connection(
                    lambda: connection,
                    address,
                    endpoint.port,
                    ssl=self._context or trust.http(),
                    server_hostname=endpoint.host.rstrip("."),
                    ssl_handshake_timeout=max(seconds, 0) + 1,
                )
            else:
                await self._loop.create_connection(lambda: connection, address, endpoint.port)
        except BaseException:
            connection.abort()
            self._pool.forget(connection)
            raise
        return connection

    def _remember(self, origin: str, address: str) -> None:
        if len(self._reached) >= MAX_REMEMBERED:
            self._reached.clear()
        self._reached[origin] = address
