"""An application of Microsoft Entra ID: its tokens, by client credentials, and what it asks of Azure's management.

The operator's own: any address is permitted. A token is renewed before its end, by whoever asks for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from outpost.adapters.codes import Code, cleaned
from outpost.adapters.http import failures
from outpost.adapters.shared import trust

if TYPE_CHECKING:
    import httpx
    from azure.core.credentials import AccessToken

CALL_S = 5.0
MAX_ANSWER_BYTES = 262_144  # a token has 2 kB, an entity 1 kB
EARLY_S = 600  # before its end a token is renewed, or at half of its life where that is later

_SERVICE_BUS = "https://servicebus.azure.net/.default"
_REFUSED = (400, 401)  # of a request for a token
_BY_STATUS = {
    401: Code.INVALID_CREDENTIALS,
    403: Code.ACCESS_DENIED,
    404: Code.TARGET_NOT_FOUND,
    408: Code.TIMEOUT,
    429: Code.THROTTLED,
}


class Cloud(msgspec.Struct, frozen=True):
    """Where Azure is. `domain` is that of the namespaces, `port` and `tls` are how they are spoken to."""

    login: str = "https://login.microsoftonline.com"
    management: str = "https://management.azure.com"
    domain: str = "servicebus.windows.net"
    port: int = 5671
    tls: bool = True


class Failed(Exception):
    """A call failed. `text` is one sentence without secrets."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Application:
    """`directory` is the id of the tenant of Entra ID."""

    def __init__(
        self,
        cloud: Cloud,
        directory: str,
        client_id: str,
        client_secret: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cloud = cloud
        self._url = f"{cloud.login}/{directory}/oauth2/v2.0/token"
        self._client_id = client_id
        self._client_secret = client_secret
        self._clock = clock
        self._tokens: dict[str, tuple[str, float, float]] = {}  # by scope: token, when to renew it, its end
        self._asking = asyncio.Lock()
        self._opened: httpx.AsyncClient | None = None

    async def token(self, scope: str = _SERVICE_BUS) -> tuple[str, float]:
        """A token and its end, in Unix seconds. Raises Failed."""
        async with self._asking:
            known = self._tokens.get(scope)
            if known is None or self._clock() >= known[1]:
                try:
                    known = self._tokens[scope] = await self._new_token(scope)
                except Failed:
                    if known is None or self._clock() >= known[2]:
                        raise
            return known[0], known[2]

    async def get_token(self, *_: str, **__: Any) -> AccessToken:
        """As the library asks for one. The scope that it names has a slash more, and is the same."""
        from azure.core.credentials import AccessToken

        token, end = await self.token()
        return AccessToken(token, int(end))

    async def get(self, path: str) -> dict[str, Any]:
        """What management says of a resource. Raises Failed."""
        return await self._managed("GET", path, None)

    async def put(self, path: str, properties: Mapping[str, Any]) -> None:
        """Makes a resource. Raises Failed."""
        await self._managed("PUT", path, {"properties": properties})

    async def close(self) -> None:
        """Ends every connection; they are opened again where they are needed."""
        client, self._opened = self._opened, None
        if client is not None:
            await client.aclose()

    async def _managed(self, method: str, path: str, content: object) -> dict[str, Any]:
        token, _ = await self.token(f"{self._cloud.management}/.default")
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        body = None if content is None else msgspec.json.encode(content)
        async with self._answer(method, self._cloud.management + path, headers=headers, content=body) as (
            status,
            found,
        ):
            if status // 100 == 2:
                return found
            fault = found.get("error")
            told = fault if isinstance(fault, dict) else {}
            text = f"{told.get('code', '')}: {told.get('message', '')}" if told else f"HTTP status {status}"
            raise Failed(_BY_STATUS.get(status, Code.ERR), cleaned(text, (token, self._client_secret)))

    async def _new_token(self, scope: str) -> tuple[str, float, float]:
        form = {
            "grant_type": "client_credentials",
            "client_id": self._client_id,
            "client_secret": self._client_secret,
            "scope": scope,
        }
        now = self._clock()
        async with self._answer("POST", self._url, data=form) as (status, found):
            token, life = found.get("access_token"), found.get("expires_in")
            if status == 200 and isinstance(token, str) and isinstance(life, int | float) and life > 0:
                return token, now + max(life / 2, life - EARLY_S), now + life
            text = str(found.get("error_description") or found.get("error") or f"HTTP status {status}")
            code = Code.INVALID_CREDENTIALS if status in _REFUSED else _BY_STATUS.get(status, Code.ERR)
            raise Failed(code, f"Microsoft Entra ID: {cleaned(text, (self._client_secret,))}")

    @contextlib.asynccontextmanager
    async def _answer(self, method: str, url: str, **asked: Any) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        """The status, and the object in the body, {} where there is none. Raises Failed."""
        import httpx  # takes 100 ms

        if self._opened is None:
            self._opened = httpx.AsyncClient(trust_env=False, verify=trust.http(), timeout=CALL_S)
        said = b""
        try:
            async with asyncio.timeout(CALL_S), self._opened.stream(method, url, **asked) as answer:
                async for part in answer.aiter_bytes():
                    said += part
                    if len(said) > MAX_ANSWER_BYTES:
                        raise Failed(
                            Code.ANSWER_TOO_LARGE, f"Azure answered with more than {MAX_ANSWER_BYTES:,} bytes"
                        )
                status = answer.status_code
        except (TimeoutError, httpx.TimeoutException):
            raise Failed(Code.TIMEOUT, f"Azure did not answer within {CALL_S:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
            cause = exc.__cause__ or exc.__context__ or exc
            code = failures.code_of(cause) if isinstance(cause, OSError) else Code.NETWORK_ERROR
            raise Failed(Code(code), f"Azure cannot be reached: {type(exc).__name__}") from None
        try:
            found = msgspec.json.decode(said)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            found = {}
        yield status, found if isinstance(found, dict) else {}
