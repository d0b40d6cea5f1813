"""The delivery client on aiohttp: not the one in use but the reference that `protocol_client` is compared with.

aiohttp never asks its resolver about address literals, so `endpoint` judges those; names are judged here, in the
resolver, when a connection is made, and the connection goes to a judged address under the name's own TLS identity.
"""

from __future__ import annotations

import asyncio
import io
import socket
import ssl

import aiohttp
import yarl
from aiohttp import abc, client_proto, client_reqrep
from multidict import CIMultiDict

from outpost.adapters.egress import guard as egress
from outpost.adapters.egress import names
from outpost.adapters.http import client, failures
from outpost.adapters.http import endpoint as endpoints
from outpost.adapters.shared import trust

IDLE_SECONDS = 15.0  # how long an unused connection is kept
MAX_LINE_BYTES = 16_384  # a status line or a header's name
MAX_HEADER_BYTES = 65_536  # the value of one response header: long policies and cookies are common
MAX_HEADERS = 256
MAX_STALE = 3  # connections found closed in a row before a send fails
LARGE_BODY_BYTES = 1_000_000  # aiohttp warns of a plain bytes body over 1 MiB

_NO_LIMIT = aiohttp.ClientTimeout(total=None, connect=None, sock_read=None, sock_connect=None)


class AiohttpClient:
    """See client.Client. `max_body_bytes` caps a response body (0: no cap), `connections` those in use at once;
    `trust` defaults to the system's. Bound to the loop of its first `post`."""

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
        self._connections = connections
        self._trust = trust
        self._names = known
        self._session: aiohttp.ClientSession | None = None
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
        if endpoint.refused:
            return failures.BLOCKED
        if self._closed:
            return failures.CLOSED
        session = self._session or self._open()
        response: aiohttp.ClientResponse | None = None
        try:
            async with asyncio.timeout_at(deadline):
                response = await _exchange(session, endpoint.url, _parsed(headers), body)
                return self._answer(endpoint, response, *await self._read(response))
        except TimeoutError:
            if response is not None:
                return self._answer(endpoint, response, b"", "late")
            return failures.TIMEOUT
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as exc:
            # RuntimeError: closed meanwhile. ValueError: aiohttp's word for a request that it cannot write.
            if response is not None:
                return self._answer(endpoint, response, b"", "broken")
            return client.Unanswered(code_of(exc))
        finally:
            if response is not None and not response.closed:
                response.close()

    async def close(self) -> None:
        """Closes all connections; sends under way fail."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    def _answer(
        self, endpoint: endpoints.Endpoint, response: aiohttp.ClientResponse, body: bytes, fault: client.BodyFault
    ) -> client.Answer:
        headers = tuple(response.raw_headers) if endpoint.keep_headers else ()
        return client.Answer(response.status, body, fault, _retry_after(response), headers)

    async def _read(self, response: aiohttp.ClientResponse) -> tuple[bytes, client.BodyFault]:
        content, cap = response.content, self._max_body
        chunks: list[bytes] = []
        size = 0
        while chunk := await content.readany():
            chunks.append(chunk)
            size += len(chunk)
            if cap and size > cap:
                return b"", "too_large"
        return chunks[0] if len(chunks) == 1 else b"".join(chunks), ""

    def _open(self) -> aiohttp.ClientSession:
        connector = _Connector(
            resolver=_Resolver(self._names),
            use_dns_cache=False,
            ssl=self._trust or trust.http(),
            limit=self._connections,
            keepalive_timeout=IDLE_SECONDS,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=_NO_LIMIT,
            trust_env=False,
            auto_decompress=False,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
        )
        return self._session


async def _exchange(
    session: aiohttp.ClientSession,
    url: yarl.URL,
    headers: CIMultiDict[str],
    body: bytes,
) -> aiohttp.ClientResponse:
    """The head of the answer. Where the peer closed a kept connection before we wrote to it, another is taken:
    nothing was sent, so nothing can arrive twice."""
    if len(body) >= LARGE_BODY_BYTES:
        return await session.post(url, headers=headers, allow_redirects=False, data=io.BytesIO(body))
    for _ in range(MAX_STALE):
        try:
            return await session.post(url, headers=headers, allow_redirects=False, data=body)
        except aiohttp.ClientOSError as exc:
            if not _unsent(exc):
                raise
    return await session.post(url, headers=headers, allow_redirects=False, data=body)


def _parsed(lines: bytes) -> CIMultiDict[str]:
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines.decode().split("\r\n")[:-1]:
        name, _, value = line.partition(": ")
        headers.add(name, value)
    return headers


def _retry_after(response: aiohttp.ClientResponse) -> bytes:
    """Of several headers the last, as in `reading`."""
    return next((value for name, value in reversed(response.raw_headers) if name.lower() == b"retry-after"), b"")


def _unsent(exc: aiohttp.ClientOSError) -> bool:
    """aiohttp writes head and body at once, and says this where the transport was closing before that."""
    return isinstance(exc.__cause__, aiohttp.ClientConnectionResetError)


def code_of(exc: BaseException) -> client.Code:
    """The published word for why there was no response."""
    match exc:
        case aiohttp.ClientConnectorDNSError(os_error=_Unusable(code=code)):
            return code
        case aiohttp.ClientConnectorDNSError():
            return "dns_error"
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return "tls_error"
        case aiohttp.ServerDisconnectedError():
            return "connection_reset"
        case aiohttp.ClientConnectorError(os_error=error):
            return failures.code_of(error)
        case aiohttp.ClientOSError() if _unsent(exc):
            return "connection_reset"
        case OSError():
            return failures.code_of(exc)
        case _:
            return "network_error"


class _Unusable(OSError):
    """How the resolver tells aiohttp, which expects an OSError, that it gives no address; never leaves here."""

    def __init__(self, code: client.Code) -> None:
        super().__init__(code)
        self.code = code


class _Resolver(abc.AbstractResolver):
    """Answers judged addresses only."""

    def __init__(self, known: names.Names) -> None:
        self._names = known

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,
    ) -> list[abc.ResolveResult]:
        verdict = await self._names.resolve(host, "")
        if isinstance(verdict, names.Unresolved):
            raise _Unusable("dns_error")
        if isinstance(verdict, egress.Refused):
            raise _Unusable("blocked_address")
        return [
            abc.ResolveResult(
                hostname=host,
                host=address,
                port=port,
                proto=0,
                flags=socket.AI_NUMERICHOST,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
            )
            for address in verdict.addresses
        ]

    async def close(self) -> None:
        """The names belong to whoever made them."""


class _Connector(aiohttp.TCPConnector):
    """aiohttp closes a connection gracefully even when it gives it up: one with unsent bytes to a peer that does
    not read would hold its socket for minutes. Ours is aborted."""

    def _release(
        self,
        key: client_reqrep.ConnectionKey,
        protocol: client_proto.ResponseHandler,
        *,
        should_close: bool = False,
    ) -> None:
        if should_close or protocol.should_close:
            protocol.abort()
            should_close = True
        super()._release(key, protocol, should_close=should_close)
