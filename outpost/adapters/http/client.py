"""The seam of the delivery client: one POST to a judged endpoint, one answer or the word for why there is none.

`tests/contract/test_webhook_delivery.py` is the suite that every implementation has to pass.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from outpost.adapters.http import endpoint as endpoints

BodyFault = Literal["", "too_large", "late", "broken"]
Code = Literal[
    "blocked_address",
    "connection_refused",
    "connection_reset",
    "dns_error",
    "early_answer",
    "network_unreachable",
    "timeout",
    "tls_error",
    "network_error",
]


class Answer(msgspec.Struct, frozen=True):
    """A response whose head came. `fault` says why `body` is empty though there was one: over the cap, not there
    before the deadline, or cut short. `retry_after` is the header of that name as it came; `headers` are all of
    them in their order, where the endpoint wants them; `coding` is Content-Encoding as it came."""

    status: int
    body: bytes
    fault: BodyFault = ""
    retry_after: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    coding: bytes = b""


class Unanswered(msgspec.Struct, frozen=True):
    """No response that counts: the published word for the reason, and a sentence where the word needs one. `final`
    if it will be the same however often it is tried."""

    code: Code
    text: str = ""
    final: bool = False


class Client(Protocol):
    """Sends requests over connections that it keeps and shares."""

    def endpoint(self, url: str, *, tenant: str = "", keep_headers: bool = False) -> endpoints.Endpoint:
        """`url`, judged; `tenant` is who sends there; `keep_headers` if its answers are to have their headers.
        Raises errors.Invalid if it cannot be used."""

    async def post(
        self,
        endpoint: endpoints.Endpoint,
        headers: bytes,
        body: bytes,
        deadline: float,
    ) -> Answer | Unanswered:
        """Sends `body` under exactly `headers` (plus Host, Content-Length), never follows a redirect, is back by
        `deadline` (the loop's clock, seconds). `headers` are whole lines, `Name: value` CR LF each, checked by
        the caller: they go out as they are. Raises nothing but CancelledError; a connection that carried anything
        but a whole exchange is aborted."""

    async def close(self) -> None:
        """Closes all connections; sends under way fail."""
