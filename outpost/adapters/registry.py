"""The one place that lists the destination types."""

from __future__ import annotations

from collections.abc import Iterable

from outpost import settings as settings_
from outpost.adapters import base, egress, signing, webhook, webhook_headers
from outpost.adapters.http import protocol_client


class Registry:
    """The types of this process, in the order in which the API shows them."""

    def __init__(self, adapters: Iterable[base.Adapter]) -> None:
        self._adapters = {adapter.description.type: adapter for adapter in adapters}

    def get(self, type_: str) -> base.Adapter | None:
        """The type of that name, or None."""
        return self._adapters.get(type_)

    def types(self) -> list[base.DestinationType]:
        """What each type says of itself."""
        return [adapter.description for adapter in self._adapters.values()]

    async def close(self) -> None:
        """Frees what the types hold; to be called on the loop that sent."""
        for adapter in self._adapters.values():
            await adapter.close()


def build(settings: settings_.Settings) -> Registry:
    """Every type, set up as `settings` say. Opens nothing, needs no running loop.

    Raises errors.ConfigurationError where an allowed network is none.
    """
    guard = egress.Guard(settings.destinations_allowed_cidrs)
    return Registry([_webhook(settings, guard)])


def _webhook(settings: settings_.Settings, guard: egress.Guard) -> base.Adapter:
    client = protocol_client.ProtocolClient(
        guard,
        max_body_bytes=settings.webhook_max_response_body_bytes,
        connections=settings.delivery_max_concurrency,
    )
    names = webhook_headers.Names(
        settings.webhook_header_prefix,
        {
            webhook_headers.EVENT_ID: settings.webhook_event_id_header,
            webhook_headers.TOPIC: settings.webhook_topic_header,
            webhook_headers.TIMESTAMP: settings.webhook_timestamp_header,
            webhook_headers.SIGNATURE: settings.webhook_signature_header,
        },
    )
    return webhook.Webhook(
        client,
        webhook.Options(
            names=names,
            signer=signing.signer(settings.webhook_signature_algorithm, settings.webhook_signature_encoding),
            user_agent=settings.http_user_agent,
            max_body_bytes=settings.webhook_max_response_body_bytes,
            milliseconds=settings.include_millisecond_timestamp,
        ),
    )
