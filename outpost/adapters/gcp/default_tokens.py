"""Google's application default credentials: those that this process has where its operator gives it no key.

google-auth looks for them (GOOGLE_APPLICATION_CREDENTIALS, gcloud's file, the metadata service) and renews them,
in a thread, since it blocks. Only for the operator's own queues: a tenant's destination never has them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import time
from typing import Any

import msgspec

from outpost.adapters.gcp.calls import Unauthenticated
from outpost.adapters.gcp.key import RENEWED_S

SCOPE = "https://www.googleapis.com/auth/pubsub"
ANSWER_S = 5.0  # what each request for a token may take
UNTOLD_S = 600.0  # how long a token is used that does not say when it ends
AGAIN_S = 10.0  # after a renewal that failed while the token before it is still good


class _Token(msgspec.Struct, frozen=True):
    text: str
    ends: float


class DefaultTokens:
    """See `calls.Tokens`. Asks in `threads`, once at a time."""

    def __init__(self, threads: concurrent.futures.Executor) -> None:
        self._threads = threads
        self._credentials: Any = None
        self._token = _Token("", 0.0)
        self._renew_at = 0.0
        self._asking: asyncio.Future[_Token] | None = None

    async def fresh(self) -> str:
        """See `calls.Tokens`. While a token is still good, one that cannot be renewed goes on being used."""
        if time.time() >= self._renew_at:
            if self._asking is None:
                self._asking = asyncio.get_running_loop().run_in_executor(self._threads, self._ask)
                self._asking.add_done_callback(self._asked)
            asking = self._asking
            try:
                await asyncio.shield(asking)  # one who gives up must not take the others with it
            except Unauthenticated:
                if time.time() >= self._token.ends:
                    raise
            finally:
                del asking  # it has the error, whose traceback has this frame
        return self._token.text

    def _asked(self, asking: asyncio.Future[_Token]) -> None:
        self._asking = None
        if asking.cancelled():
            return
        if asking.exception() is None:
            self._token = asking.result()
            self._renew_at = self._token.ends - RENEWED_S
        elif time.time() < self._token.ends:
            self._renew_at = time.time() + AGAIN_S

    def _ask(self) -> _Token:
        """In a thread. What google-auth says may quote what it was answered, so only its kind is told."""
        import google.auth
        from google.auth import exceptions
        from google.auth.transport import requests

        request: Any = functools.partial(requests.Request(), timeout=ANSWER_S)
        try:
            if self._credentials is None:
                self._credentials, _ = google.auth.default(scopes=[SCOPE], request=request)
            self._credentials.refresh(request)
        except exceptions.DefaultCredentialsError as exc:
            text = "this process has no application default credentials"
            raise Unauthenticated(f"{text}: {type(exc).__name__}", certain=True) from None
        except exceptions.GoogleAuthError as exc:
            text = "the application default credentials could not be renewed"
            certain = isinstance(exc, exceptions.RefreshError) and not exc.retryable
            raise Unauthenticated(f"{text}: {type(exc).__name__}", certain=certain) from None
        except Exception as exc:  # noqa: BLE001 -- whatever the sources raise: there is no token
            text = "asking for the application default credentials failed"
            raise Unauthenticated(f"{text}: {type(exc).__name__}", certain=False) from None
        expiry = self._credentials.expiry  # UTC, though it does not say so
        return _Token(str(self._credentials.token), time.time() + UNTOLD_S if expiry is None else _unix(expiry))


def _unix(moment: Any) -> float:
    import datetime as dt

    found: float = moment.replace(tzinfo=dt.UTC).timestamp()
    return found
