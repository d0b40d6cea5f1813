"""The azure_servicebus destination type: an event becomes a message in a queue or topic.

The body is the event's data, its application properties the metadata, its message id the event's id, so that
duplicate detection works. Any host is taken: its addresses are judged, and the library connects to a judged one
while TLS checks the name (`servicebus_link`). Events that wait together go as one batch, which succeeds or fails
as a whole; one that the link does not take fails alone.

One batch at a time is under way, so that events keep their order. Those of different sessions go in batches of
their own: a batch has the session of its first message. Where a queue demands sessions and no template names them,
the tenant is the session, which is learned from the first refusal.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from outpost import errors
from outpost.adapters import base, codes, declared, extras
from outpost.adapters.azure import connection_string as servicebus_string
from outpost.adapters.azure import link as servicebus_link
from outpost.adapters.shared import batches, long_lived_client, metadata, templates, trust
from outpost.adapters.shared import resources as shared_
from outpost.domain import delivery

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch
    from azure.servicebus._common.message import PrimitiveTypes

TYPE = "azure_servicebus"
STRING = "connection_string"
CONTENT_TYPE = "application/json"
TEMPLATE = "session_id_template"
LONGEST_ID = 128  # characters of a message id, or of a session's; the service's limit
# What the service says of a message without a session, where a queue demands one.
_DEMANDED = re.compile(r"SessionId was not set", re.IGNORECASE)
TOO_LARGE = "The message is larger than the {} bytes that the queue or topic takes"


class AzureServiceBus(declared.Declared):
    """The type; see base.Adapter. `trust` is whom TLS believes."""

    # Each is a connection: one file descriptor, 61 KB with TLS, 26 KB without. What counts are the descriptors:
    # many systems give a process 1,024. A destination that comes after another one's eviction pays 8 ms of CPU
    # and half a second, until the library, which looks at its connection 20 times a second, finds it open.
    max_open = 500

    def __init__(self, shared: shared_.Shared, unavailable: str = "", trust: ssl.SSLContext | None = None) -> None:
        super().__init__(TYPE, shared, unavailable)
        self._trust = trust

    def completed(
        self, config: dict[str, str], credentials: dict[str, str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Without the white space that comes with pasting."""
        if "name" in config:
            config["name"] = config["name"].strip()
        if STRING in credentials:
            credentials[STRING] = credentials[STRING].strip()
        return config, credentials

    def problems(self, config: Mapping[str, str], credentials: Mapping[str, str]) -> list[errors.Problem]:
        """The template, and the connection string as far as it can be judged without asking the service."""
        if found := templates.problems(config, TEMPLATE):
            return found
        rule = servicebus_string.parse(credentials[STRING])
        if isinstance(rule, servicebus_string.Namespace):
            if rule.entity in ("", config["name"]):
                return []
            rule = "entity_path"
        path = f"credentials.{STRING}"
        return [errors.Problem(path, rule, text=f"{path} {servicebus_string.RULES[rule]}")]

    def target(self, destination: base.OpenDestination) -> tuple[str, str | None]:
        """The namespace and the queue or topic in it."""
        name = destination.config.get("name", "")
        parsed = servicebus_string.parse(destination.credentials.get(STRING, ""))
        return name if isinstance(parsed, str) else f"{parsed.label}/{name}", None

    async def connect(self, destination: base.OpenDestination) -> Publisher:
        """A publisher; opens no connection yet. Raises errors.Invalid where what is stored cannot be used."""
        parsed = servicebus_string.parse(destination.credentials.get(STRING, ""))
        if isinstance(parsed, str):
            raise errors.Invalid([errors.Problem(f"credentials.{STRING}", parsed)])
        await self._shared.imported("outpost.adapters.azure.frames")
        await self._shared.imported("azure.servicebus.aio")
        context = self._trust or trust.plain(self._shared.settings.destinations_ca_file)
        merger = self._metadata(destination)
        template = destination.config.get(TEMPLATE, "")
        sessions = templates.compiled(template) if template else None
        entity = destination.config["name"]
        return Publisher(self._shared, destination.tenant, parsed, entity, merger, context, sessions)


def build(shared: shared_.Shared) -> AzureServiceBus:
    """The type as the settings want it."""
    return AzureServiceBus(shared, extras.missing(TYPE, "azure.servicebus", "azure"))


class Publisher:
    """Sends to one queue or topic over one link; see base.Publisher."""

    max_batch = 100  # of a batch of small events this is some 40 kB, and the service commits it as one transaction

    def __init__(
        self,
        shared: shared_.Shared,
        tenant: str,
        namespace: servicebus_string.Namespace,
        entity: str,
        merger: metadata.Merger,
        trust: ssl.SSLContext,
        template: templates.Template | None = None,
    ) -> None:
        self._tenant = tenant
        self._template = template
        self._demanded = template is not None  # whether every message has a session
        self._addresses = shared.addresses.for_tenant(tenant)
        self._namespace = namespace
        self._entity = entity
        self._merger = merger
        self._trust = trust
        self._limit_s = limit_s = shared.settings.delivery_timeout_ms / 1000
        self._held = long_lived_client.LongLivedClient(self._open, servicebus_link.Link.close, limit_s)
        self._together = batches.Batches(self._post, self.max_batch)

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        """One outcome an event, in order, before `deadline`; what waits meanwhile goes with the next batch."""
        return await self._together.send(batch, deadline)

    async def close(self) -> None:
        """Ends the link; sends under way fail."""
        await self._together.close()
        await self._held.close()

    async def _open(self) -> servicebus_link.Link:
        judged = await self._addresses.of(self._namespace.host)
        return await servicebus_link.open_link(self._namespace, self._entity, judged, self._trust, self._limit_s)

    async def _post(self, events: list[base.Delivery]) -> list[delivery.Outcome]:
        outcomes = await self._posted(events)
        if self._demanded:
            return outcomes
        again = [number for number, outcome in enumerate(outcomes) if _demands_session(outcome)]
        if again:
            self._demanded = True
            sent = await self._posted([events[number] for number in again])
            for number, outcome in zip(again, sent, strict=True):
                outcomes[number] = outcome
        return outcomes

    async def _posted(self, events: list[base.Delivery]) -> list[delivery.Outcome]:
        try:
            link = await self._held.get()
            if link.lost:
                self._held.discard(link)
                link = await self._held.get()
        except Exception as exc:  # noqa: BLE001 -- whatever the library raises is a failed attempt
            return [self._failed(exc)] * len(events)
        try:
            return await self._through(link, events)
        except BaseException as exc:
            self._held.discard(link)
            if isinstance(exc, Exception):
                return [self._failed(exc)] * len(events)
            raise

    async def _through(self, link: servicebus_link.Link, events: list[base.Delivery]) -> list[delivery.Outcome]:
        messages = [self._message(event) for event in events]
        sessions: dict[str | None, list[int]] = {}
        for number, message in enumerate(messages):
            sessions.setdefault(message.session_id, []).append(number)
        outcomes: dict[int, delivery.Outcome] = {}
        for numbers in sessions.values():
            if link.lost:
                found: list[delivery.Outcome] = [self._failed(ConnectionResetError())] * len(numbers)
            else:
                found = await self._sent(link, [messages[number] for number in numbers])
            outcomes.update(zip(numbers, found, strict=True))
        return [outcomes[number] for number in range(len(events))]

    async def _sent(self, link: servicebus_link.Link, messages: list[ServiceBusMessage]) -> list[delivery.Outcome]:
        too_large = codes.failed(codes.Code.MESSAGE_TOO_LARGE, TOO_LARGE.format(link.largest))
        outcomes: list[delivery.Outcome] = [too_large] * len(messages)
        broken: delivery.Outcome | None = None
        async for numbers, parcel in servicebus_link.parcels(messages, link):
            if parcel is None:
                continue
            outcome = broken or await self._outcome(link, parcel)
            if link.lost and isinstance(outcome, delivery.Failed):
                broken = outcome
            for number in numbers:
                outcomes[number] = outcome
        return outcomes

    async def _outcome(
        self, link: servicebus_link.Link, parcel: ServiceBusMessage | ServiceBusMessageBatch
    ) -> delivery.Outcome:
        try:
            await link.send(parcel)
        except Exception as exc:  # noqa: BLE001 -- as above
            return self._failed(exc)
        return delivery.Delivered(codes.OK, {})

    def _failed(self, exc: Exception) -> delivery.Failed:
        code, text = servicebus_link.told_by(exc)
        final = code is codes.Code.BLOCKED_ADDRESS and self._addresses.refuses(self._namespace.host)
        return codes.failed(code, text, (self._namespace.key, self._namespace.signature), final=final)

    def _message(self, event: base.Delivery) -> ServiceBusMessage:
        from azure.servicebus import ServiceBusMessage

        merged = self._merger.merged(event)
        session = None
        if self._demanded:
            session = _id(templates.of_event(self._template, event.data, merged) or self._tenant)
        return ServiceBusMessage(
            event.data,
            application_properties=cast("dict[str | bytes, PrimitiveTypes]", merged),
            message_id=_id(event.event_id),  # the whole of it is in the metadata
            session_id=session,
            content_type=CONTENT_TYPE,
        )


def _id(text: str) -> str:
    """`text`, or its digest where it is longer than the service takes."""
    return text if len(text) <= LONGEST_ID else hashlib.sha256(text.encode()).hexdigest()


def _demands_session(outcome: delivery.Outcome) -> bool:
    if not isinstance(outcome, delivery.Failed):
        return False
    return _DEMANDED.search(str((outcome.response or {}).get("error", ""))) is not None
