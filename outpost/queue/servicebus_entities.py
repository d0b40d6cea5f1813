"""Where a queue on Service Bus is: its namespace, what proves that we may use it, and what management makes of it.

Only an application of Entra ID (the six values) may ask management. Problems are sentences that name a variable.
"""

from __future__ import annotations

from typing import Any

from outpost.adapters.azure import application, connection_string
from outpost.adapters.codes import Code
from outpost.queue import broker
from outpost.settings import queues

DEAD_LETTERS = "/$DeadLetterQueue"  # after a subscription, in any case: its dead letters as a queue
API_VERSION = "2021-11-01"
# https://learn.microsoft.com/rest/api/servicebus/controlplane-stable/topics/create-or-update and /subscriptions
TOPIC = {"maxSizeInMegabytes": 1_024, "defaultMessageTimeToLive": "P14D"}
SUBSCRIPTION = {"lockDuration": "PT1M", "maxDeliveryCount": 6, "deadLetteringOnMessageExpiration": True}

_SESSIONS = "Service Bus: the subscription {!r}, which {} names, requires sessions: one without them is needed"
_MISSING = "Service Bus has no {} {!r}, which {} names"


class Entities:
    """The topic and the subscription that the settings name. `namespace` is the sentence of a problem where the
    connection string cannot be read; `just_made`: what is not found now may be found in a moment."""

    def __init__(self, named: queues.ServiceBus, cloud: application.Cloud) -> None:
        self._named = named
        self._prefix = "PUBLISH_AZURE_SERVICEBUS_" if named.source else "AZURE_SERVICEBUS_"
        self.are_dead_letters = named.subscription.lower().endswith(DEAD_LETTERS.lower())
        self.sends = not named.source and not self.are_dead_letters
        six = (named.tenant_id, named.client_id, named.client_secret, named.subscription_id, named.resource_group)
        self.managed = all((*six, named.namespace))
        self.just_made = False
        self.namespace = self._read(cloud)
        self._application = application.Application(cloud, named.tenant_id, named.client_id, named.client_secret)
        self._refused = ""  # why management does not let us look

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no text may show."""
        own = () if isinstance(self.namespace, str) else (self.namespace.key, self.namespace.signature)
        return tuple(each for each in (*own, self._named.client_secret) if each)

    async def credential(self) -> application.Application | None:
        """Where a link gets its tokens, with a fresh one; None: from the connection string. Raises
        application.Failed."""
        if self._named.connection_string:
            return None
        await self._application.token()
        return self._application

    async def provide(self) -> list[str]:
        """Makes what is missing; every problem that is certain. Where management does not let us look, the links
        tell what is missing. Raises application.Failed."""
        if self.are_dead_letters:
            return []
        self.just_made, self._refused = False, ""
        try:
            for path, properties in ((self._topic, TOPIC), (self._subscription, SUBSCRIPTION)):
                if await self._described(path) is None:
                    await self._application.put(f"{path}?api-version={API_VERSION}", properties)
                    self.just_made = True
        except application.Failed as exc:
            match exc.code:
                case Code.ACCESS_DENIED:
                    self._refused = f"; Azure's management does not let us make it: {exc.text}"
                case Code.INVALID_CREDENTIALS:
                    return [self._unproven(exc.text)]
                case Code.TARGET_NOT_FOUND:
                    where = "AZURE_SERVICEBUS_SUBSCRIPTION_ID, _RESOURCE_GROUP and _NAMESPACE"
                    return [f"Azure has no namespace of Service Bus where {where} say: {exc.text}"]
                case _:
                    raise
        return []

    async def depth(self) -> broker.Depth | None:
        """What management counts; None where it does not let us look. Raises application.Failed."""
        try:
            found = await self._described(self._subscription)
        except application.Failed as exc:
            if exc.code not in (Code.ACCESS_DENIED, Code.INVALID_CREDENTIALS):
                raise
            return None
        counts = (found or {}).get("countDetails")
        if not isinstance(counts, dict):
            return None
        active, dead = (_number(counts.get(name)) for name in ("activeMessageCount", "deadLetterMessageCount"))
        return broker.Depth(ready=dead if self.are_dead_letters else active, dead_letters=dead)

    def sentence(self, what: str, code: Code, text: str, sessions: bool) -> str:
        """The problem that opening the link to `what` (`topic` or `subscription`) told."""
        topic, subscription = self._variable("TOPIC"), self._variable("SUBSCRIPTION")
        if sessions:
            return _SESSIONS.format(self._named.subscription, subscription)
        if code is Code.TARGET_NOT_FOUND:
            if what == "topic":
                return _MISSING.format(what, self._named.topic, topic) + self._refused
            missing = _MISSING.format(what, self._named.subscription, subscription)
            return f"{missing}, in the topic {self._named.topic!r}, which {topic} names{self._refused}"
        if code is Code.INVALID_CREDENTIALS:
            return self._unproven(text)
        right = "send to the topic" if what == "topic" else "listen to the subscription"
        return f"Service Bus: {self._proof} does not permit to {right}: {text}"

    async def close(self) -> None:
        """Ends every connection."""
        await self._application.close()

    @property
    def _proof(self) -> str:
        whole = bool(self._named.connection_string)
        return f"{self._prefix}{'CONNECTION_STRING' if whole else 'CLIENT_ID'}"

    def _unproven(self, text: str) -> str:
        return f"Service Bus does not accept {self._proof}: {text}"

    def _variable(self, word: str) -> str:
        return f"{self._prefix}{'' if self._named.source else 'DELIVERY_'}{word}"

    def _read(self, cloud: application.Cloud) -> connection_string.Namespace | str:
        named = self._named
        if not named.connection_string:
            host = f"{named.namespace}.{cloud.domain}" if named.namespace and cloud.tls else cloud.domain
            return connection_string.Namespace(host, cloud.port, cloud.tls, "", "", "", "")
        found = connection_string.parse(named.connection_string)
        if isinstance(found, connection_string.Namespace) and found.entity not in ("", named.topic):
            found = "entity_path"
        if isinstance(found, str):
            return f"{self._prefix}CONNECTION_STRING {connection_string.RULES[found]}"
        return found

    @property
    def _topic(self) -> str:
        named = self._named
        return (
            f"/subscriptions/{named.subscription_id}/resourceGroups/{named.resource_group}"
            f"/providers/Microsoft.ServiceBus/namespaces/{named.namespace}"
            f"/topics/{named.topic.replace('/', '~')}"  # as management writes a path in a name
        )

    @property
    def _subscription(self) -> str:
        name = self._named.subscription
        return f"{self._topic}/subscriptions/{name[: -len(DEAD_LETTERS)] if self.are_dead_letters else name}"

    async def _described(self, path: str) -> dict[str, Any] | None:
        """The properties of an entity; None where there is none. Raises application.Failed."""
        try:
            found = await self._application.get(f"{path}?api-version={API_VERSION}")
        except application.Failed as exc:
            if exc.code is not Code.TARGET_NOT_FOUND:
                raise
            return None
        properties = found.get("properties")
        return properties if isinstance(properties, dict) else {}


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None
