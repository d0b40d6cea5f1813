"""The hookdeck destination type: an event becomes a signed POST to the tenant's source at Hookdeck.

The token names the source and is the key of the signature. Every answer but 2xx is retried, and so is no answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from outpost import errors
from outpost.adapters import base, codes, declared
from outpost.adapters.hookdeck import save as hookdeck_save
from outpost.adapters.http import body as bodies
from outpost.adapters.http import client as clients
from outpost.adapters.http import endpoint as endpoints
from outpost.adapters.http import retry_after
from outpost.adapters.shared import resources as shared_
from outpost.adapters.webhook import headers as webhook_headers
from outpost.adapters.webhook import signing
from outpost.domain import delivery

TYPE = "hookdeck"
PREFIX = "X-Outpost-"
SIGNATURE = "X-Hookdeck-Signature"
DASHBOARD = "https://dashboard.hookdeck.com/sources/"
MOST_HEADER_BYTES = 8_192  # of an answer's headers that an attempt keeps


class Hookdeck(declared.Declared):
    """The type; see base.Adapter."""

    def __init__(self, shared: shared_.Shared) -> None:
        super().__init__(TYPE, shared)
        self._names = webhook_headers.Names(PREFIX, {})

    async def verify(self, save: base.Save) -> base.Verified:
        """Asks Hookdeck about a token that is not the stored one."""
        settings = self._shared.settings
        return await hookdeck_save.verify(save, settings.hookdeck_api_url, settings.destinations_ca_file)

    def prepare(self, save: base.Save) -> base.Prepared:
        """Only a token that Hookdeck knows is stored, with what it says of the source."""
        return hookdeck_save.prepare(save)

    def target(self, destination: base.OpenDestination) -> tuple[str, str | None]:
        """The source's name and its page."""
        name = destination.config.get(hookdeck_save.NAME)
        source = destination.config.get(hookdeck_save.ID)
        if name and source:
            return name, DASHBOARD + source
        token = destination.credentials.get(hookdeck_save.CREDENTIAL, "")
        if not token:
            return "Hookdeck (no token)", None
        source = hookdeck_save.source_of(token)
        if source is None:
            return "Hookdeck (invalid token)", None
        return f"Hookdeck source ID: {source}", DASHBOARD + source

    async def connect(self, destination: base.OpenDestination) -> Publisher:
        """A publisher; opens no connection yet. Raises errors.Invalid where what is stored cannot be used."""
        token = destination.credentials.get(hookdeck_save.CREDENTIAL, "")
        source = hookdeck_save.source_of(token)
        if source is None:
            raise errors.Invalid([hookdeck_save.problem("invalid_token_format")])
        settings, http = self._shared.settings, self._shared.http
        url = f"{settings.hookdeck_events_url}/{source}"
        endpoint = http.endpoint(url, tenant=destination.tenant, keep_headers=True)
        headers = webhook_headers.Headers(
            self._names,
            user_agent=settings.http_user_agent,
            authorization=endpoint.authorization,
            custom={},
            delivery_metadata=destination.delivery_metadata,
            milliseconds=settings.include_millisecond_timestamp,
            signature=SIGNATURE,
        )
        signer = signing.KeyedSigner(signing.Signer(base64=True), signing.Secrets(token.encode("ascii")))
        return Publisher(http, endpoint, headers, signer, settings.webhook_max_response_body_bytes)


def build(shared: shared_.Shared) -> Hookdeck:
    """The type as the settings want it."""
    return Hookdeck(shared)


class Publisher:
    """Sends to one source; see base.Publisher."""

    max_batch = 1

    def __init__(
        self,
        client: clients.Client,
        endpoint: endpoints.Endpoint,
        headers: webhook_headers.Headers,
        signer: signing.KeyedSigner,
        max_body_bytes: int,
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._headers = headers
        self._signer = signer
        self._max_body_bytes = max_body_bytes

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        """One POST an event, at once; one outcome each, in order."""
        if len(batch) == 1:
            return [await self._post(batch[0], deadline)]
        return await asyncio.gather(*(self._post(event, deadline) for event in batch))

    async def close(self) -> None:
        """Nothing is held here: the connections belong to the client."""

    async def _post(self, event: base.Delivery, deadline: float) -> delivery.Outcome:
        now_ns = time.time_ns()
        headers = self._headers.render(event, now_ns, self._signer.header(now_ns // 1_000_000, event.data))
        answer = await self._client.post(self._endpoint, headers, event.data, deadline)
        if isinstance(answer, clients.Unanswered):
            if answer.code == "blocked_address":
                return codes.failed(codes.Code.BLOCKED_ADDRESS, final=answer.final)
            return codes.failed(codes.Code.ERROR, f"Request failed: {answer.text or answer.code}")
        text, remark = bodies.text(answer, self._max_body_bytes)
        response: dict[str, object] = {
            "status_code": answer.status,
            "body": text,
            "headers": shown_headers(answer.headers),
        }
        if remark:
            response["error"] = remark
        if 200 <= answer.status < 300:
            return delivery.Delivered(str(answer.status), response)
        asked_ms = None
        if answer.retry_after:
            asked_ms = retry_after.delay_ms(answer.retry_after, time.time_ns() // 1_000_000)
        return delivery.Failed(str(answer.status), response, retry_after_ms=asked_ms)


def shown_headers(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, object]:
    """As published: names in the canonical spelling, one value as a text and several as a list. Those beyond
    `MOST_HEADER_BYTES` are left out."""
    found: dict[str, list[str]] = {}
    room = MOST_HEADER_BYTES
    for name, value in headers:
        room -= len(name) + len(value)
        if room < 0:
            break
        spelt = "-".join(part.capitalize() for part in name.decode("latin-1").split("-"))
        found.setdefault(spelt, []).append(value.decode("utf-8", "replace"))
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}
