"""The webhook destination type: an event becomes a signed POST, the answer an outcome.

Only 2xx is success. Redirects are not followed: counting a 301 as delivered would lose events, and following it
would defeat the address guard. Everything else is retried, but for a 410, by which a receiver says that it is gone
for good, and for an address that the guard refuses.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from outpost import errors
from outpost.adapters import base, codes, descriptions
from outpost.adapters.http import body as bodies
from outpost.adapters.http import client as clients
from outpost.adapters.http import endpoint as endpoints
from outpost.adapters.http import retry_after
from outpost.adapters.shared import metadata
from outpost.adapters.shared import resources as shared_
from outpost.adapters.webhook import headers as webhook_headers
from outpost.adapters.webhook import save as webhook_save
from outpost.adapters.webhook import signing
from outpost.domain import delivery

TYPE = "webhook"
GONE = 410


class Options(msgspec.Struct, frozen=True):
    """What all webhooks of a deployment have in common. `max_body_bytes` caps the stored response (0: no cap)."""

    names: webhook_headers.Names
    signer: signing.Signer
    user_agent: str
    max_body_bytes: int
    milliseconds: bool = False


class Webhook:
    """The type; see base.Adapter. `clock_ns` is Unix time in nanoseconds."""

    max_open = 10_000  # a publisher is no more than a few strings: connections are the client's

    def __init__(
        self,
        client: clients.Client,
        options: Options,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.description = descriptions.load(TYPE)
        self._client = client
        self._options = options
        self._clock_ns = clock_ns

    async def verify(self, save: base.Save) -> base.Verified:
        """Nobody is asked."""
        return base.NOT_VERIFIED

    def prepare(self, save: base.Save) -> base.Prepared:
        """Checks config, headers and secrets; makes or replaces the secret."""
        return webhook_save.prepare(save, self.description.config_fields)

    def target(self, destination: base.OpenDestination) -> tuple[str, str | None]:
        """The URL as saved; there is no page to show."""
        return destination.config.get("url", ""), None

    def shown_credentials(self, credentials: Mapping[str, str], now_ms: int) -> dict[str, str]:
        """Webhook secrets are shown in clear, since receivers need them; expired ones are left out."""
        return webhook_save.shown(dict(credentials), now_ms)

    async def connect(self, destination: base.OpenDestination) -> Publisher:
        """A publisher; opens no connection yet. Raises errors.Invalid where what is stored cannot be used."""
        endpoint = self._client.endpoint(destination.config.get("url", ""), tenant=destination.tenant)
        custom, problems = webhook_headers.parse_custom(destination.config.get("custom_headers", ""))
        if problems:
            raise errors.Invalid(problems)
        headers = webhook_headers.Headers(
            self._options.names,
            user_agent=self._options.user_agent,
            authorization=endpoint.authorization,
            custom=custom,
            delivery_metadata=destination.delivery_metadata,
            milliseconds=self._options.milliseconds,
        )
        signer = signing.KeyedSigner(self._options.signer, signing.secrets_of(destination.credentials))
        return Publisher(self._client, endpoint, headers, signer, self._options, self._clock_ns)

    async def close(self) -> None:
        """The connections belong to the client, which other types use as well."""


def build(shared: shared_.Shared) -> Webhook:
    """The type as the settings want it."""
    settings = shared.settings
    names = webhook_headers.Names(
        settings.webhook_header_prefix,
        {
            metadata.EVENT_ID: settings.webhook_event_id_header,
            metadata.TOPIC: settings.webhook_topic_header,
            metadata.TIMESTAMP: settings.webhook_timestamp_header,
            webhook_headers.SIGNATURE: settings.webhook_signature_header,
        },
    )
    options = Options(
        names=names,
        signer=signing.signer(settings.webhook_signature_algorithm, settings.webhook_signature_encoding),
        user_agent=settings.http_user_agent,
        max_body_bytes=settings.webhook_max_response_body_bytes,
        milliseconds=settings.include_millisecond_timestamp,
    )
    return Webhook(shared.http, options)


class Publisher:
    """Sends to one webhook; see base.Publisher."""

    max_batch = 1

    def __init__(
        self,
        client: clients.Client,
        endpoint: endpoints.Endpoint,
        headers: webhook_headers.Headers,
        signer: signing.KeyedSigner,
        options: Options,
        clock_ns: Callable[[], int],
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._headers = headers
        self._signer = signer
        self._options = options
        self._clock_ns = clock_ns

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        """One POST an event, at once; one outcome each, in order."""
        if len(batch) == 1:
            return [await self._post(batch[0], deadline)]
        return await asyncio.gather(*(self._post(event, deadline) for event in batch))

    async def close(self) -> None:
        """Nothing is held here: the connections belong to the type."""

    async def _post(self, event: base.Delivery, deadline: float) -> delivery.Outcome:
        now_ns = self._clock_ns()
        signature = ""
        if self._headers.signed:
            signature = self._signer.header(now_ns // 1_000_000, event.data)
        headers = self._headers.render(event, now_ns, signature)
        answer = await self._client.post(self._endpoint, headers, event.data, deadline)
        if isinstance(answer, clients.Unanswered):
            return codes.failed(codes.Code(answer.code), answer.text, final=answer.final)
        text, remark = bodies.text(answer, self._options.max_body_bytes)
        response: dict[str, object] = {"status": answer.status, "body": text}
        if remark:
            response["error"] = remark
        if 200 <= answer.status < 300:
            return delivery.Delivered(str(answer.status), response)
        gone = answer.status == GONE
        asked_ms = None
        if answer.retry_after and not gone:
            asked_ms = retry_after.delay_ms(answer.retry_after, self._clock_ns() // 1_000_000)
        return delivery.Failed(
            str(answer.status), response, retryable=not gone, gone=gone, retry_after_ms=asked_ms
        )
