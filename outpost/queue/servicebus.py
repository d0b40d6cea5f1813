"""Service Bus as a queue of ours: a topic with a subscription, which has its own dead letters.

One link sends, and what waits for it goes out as one batch; another one receives. A link that breaks is opened
anew, and so is one that was idle, before the service ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from outpost import telemetry
from outpost.adapters.azure import application, connection_string, receiving
from outpost.adapters.azure import link as links
from outpost.adapters.codes import Code, cleaned
from outpost.adapters.egress import addresses
from outpost.adapters.shared import trust
from outpost.queue import broker, operator, servicebus_entities
from outpost.settings import queues

LOCK_S = 60
CONNECT_S = 5.0
IDLE_S = 120.0  # after which a sending link is opened anew: the service ends one after 10 minutes, or 4
STANDARD_BYTES = 262_144  # the largest message of the standard tier, until a link says more
SECTIONS_BYTES = 512  # of a message beside its body: properties, and what it costs in a batch
CALL_MESSAGES = 1_000
CONTENT_TYPE = "application/vnd.outpost.chunk"
LONGEST_REASON = 4_096  # characters; the service's limit
DESCRIPTION = "Outpost cannot use this message"

_CERTAIN = (Code.INVALID_CREDENTIALS, Code.ACCESS_DENIED, Code.TARGET_NOT_FOUND)


class _Receipt(msgspec.Struct, frozen=True):
    """A delivery counts within its link."""

    link: int
    delivery: receiving.Delivery


def open_broker(named: queues.ServiceBus, cloud: application.Cloud | None = None) -> ServiceBusBroker:
    """Connects in `prepare`. `cloud`: another one than Azure's public one."""
    return ServiceBusBroker(named, cloud or application.Cloud())


class ServiceBusBroker:
    """See `broker.Broker`."""

    name = "servicebus"

    def __init__(self, named: queues.ServiceBus, cloud: application.Cloud) -> None:
        self._named = named
        self.names: Mapping[str, str] = {"topic": named.topic, "subscription": named.subscription}
        self._entities = servicebus_entities.Entities(named, cloud)
        self._known: addresses.Addresses | None = None
        self._sender: links.Link | None = None
        self._receiver: receiving.ReceivingLink | None = None
        self._receivers = 0
        self._used_at = 0.0  # the sender
        self._largest = self._largest_batch = STANDARD_BYTES
        self._waiting: list[_Waiting] = []
        self._sending = asyncio.Lock()

    @property
    def limits(self) -> broker.Limits:
        """See `broker.Broker`. The link says how long a message may be."""
        return broker.Limits(
            message_bytes=self._largest - SECTIONS_BYTES,
            call_messages=CALL_MESSAGES,
            call_bytes=self._largest_batch,
            lock_s=LOCK_S,
            ahead=receiving.PREFETCH,
        )

    async def prepare(self, provision: bool) -> list[str]:
        """See `broker.Broker`. With a connection string links are opened, which tells what is missing."""
        namespace = self._entities.namespace
        if isinstance(namespace, str):
            return [namespace]
        with self._raising():
            problems = await self._entities.provide() if provision and self._entities.managed else []
            if not problems:
                problems = await self._open_links(namespace)
        return problems

    async def send(self, bodies: Sequence[bytes]) -> list[bool]:
        """See `broker.Broker`. What waits for the link goes out with the next batch."""
        mine = _Waiting(bodies)
        self._waiting.append(mine)
        try:
            async with self._sending:
                if mine.outcome is None:
                    await self._send_waiting()
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)
        if isinstance(mine.outcome, broker.BrokerError):
            raise mine.outcome
        return mine.outcome or []

    async def receive(self, count: int, wait_s: float) -> list[broker.Received]:
        """See `broker.Broker`."""
        link = self._receiving()
        with self._raising():
            found = await link.receive(count, wait_s)
        return [self._received(each) for each in found]

    async def acknowledge(self, receipts: Sequence[Any]) -> None:
        """See `broker.Broker`."""
        await self._settle(receipts, "accepted")

    async def extend(self, receipts: Sequence[Any], seconds: float) -> None:  # noqa: ARG002
        """See `broker.Broker`. The subscription says for how long."""
        if ours := self._ours(receipts):
            with self._raising():
                _count_lost(await self._receiving().renew(ours, broker.SETTLE_S))

    async def give_back(self, receipts: Sequence[Any], delay_s: float = 0.0) -> None:  # noqa: ARG002
        """See `broker.Broker`. Service Bus cannot wait."""
        await self._settle(receipts, "modified")

    async def bury(self, received: broker.Received, reason: str) -> bool:
        """See `broker.Broker`. A dead letter cannot become one."""
        if self._entities.are_dead_letters:
            return False
        await self._settle([received.receipt], "rejected", reason[:LONGEST_REASON])
        return True

    async def depth(self) -> broker.Depth | None:
        """See `broker.Broker`. Only management tells."""
        if not self._entities.managed:
            return None
        with self._raising():
            return await self._entities.depth()

    async def close(self) -> None:
        """See `broker.Broker`. What the service sent ahead goes back."""
        opened = [link for link in (self._receiver, self._sender) if link is not None]
        self._sender = self._receiver = None
        for link in opened:
            with contextlib.suppress(Exception):  # it is ended whatever comes of saying good-bye
                async with asyncio.timeout(receiving.CLOSE_S):
                    await link.close()
        known, self._known = self._known, None
        if known is not None:
            known.close()
        await self._entities.close()

    async def _open_links(self, namespace: connection_string.Namespace) -> list[str]:
        """Those that are not open, both at once; every problem that is certain."""
        opening: list[Awaitable[str]] = [self._problem(self._open_receiver(namespace), "subscription")]
        if self._entities.sends:
            opening.append(self._problem(self._open_sender(namespace), "topic"))
        outcomes = await asyncio.gather(*opening, return_exceptions=True)
        for each in outcomes:
            if isinstance(each, BaseException):
                raise each
        return list(dict.fromkeys(each for each in outcomes if isinstance(each, str) and each))

    async def _open_receiver(self, namespace: connection_string.Namespace) -> None:
        if self._receiver is None or self._receiver.lost:
            if self._receiver is not None:
                self._receiver.abort()
            named = self._named
            self._receiver = await receiving.open_receiving_link(
                namespace, named.topic, named.subscription, *await self._place(namespace)
            )
            self._receivers += 1

    async def _open_sender(self, namespace: connection_string.Namespace) -> links.Link:
        now = asyncio.get_running_loop().time()
        if self._sender is not None and (self._sender.lost or now - self._used_at >= IDLE_S):
            self._drop_sender()
        if self._sender is None:
            self._sender = await links.open_link(namespace, self._named.topic, *await self._place(namespace))
            self._largest, self._largest_batch = self._sender.largest, self._sender.largest_batch
        self._used_at = now
        return self._sender

    async def _place(self, namespace: connection_string.Namespace) -> tuple[Any, ...]:
        """Addresses, whom TLS believes, how long opening may take, and the credential, with a token that is
        fresh."""
        credential = await self._entities.credential()
        self._known = self._known or operator.known_addresses()
        return await self._known.of(namespace.host), trust.plain(), CONNECT_S, credential

    async def _problem(self, opening: Awaitable[object], what: str) -> str:
        """What is certain about it, "" for nothing; raises the rest."""
        try:
            with self._raising():
                await opening
        except broker.BrokerError as exc:
            code = Code(exc.code)
            sessions = receiving.requires_sessions(code, exc.text)
            if not sessions and (code not in _CERTAIN or self._entities.just_made):
                raise
            return self._entities.sentence(what, code, exc.text, sessions)
        return ""

    async def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        bodies = [body for each in waiting for body in each.bodies]
        for each in waiting:
            each.outcome = broker.BrokerError(Code.TIMEOUT, "a batch was cut off")
        try:
            sent = await self._post(bodies)
        except BaseException as exc:
            self._drop_sender()
            if isinstance(exc, broker.BrokerError):
                for each in waiting:
                    each.outcome = exc
                return
            raise
        at = 0
        for each in waiting:
            each.outcome = sent[at : at + len(each.bodies)]
            at += len(each.bodies)

    async def _post(self, bodies: Sequence[bytes]) -> list[bool]:
        """Batch after batch; after one that failed what is left was not sent."""
        from azure.servicebus import ServiceBusMessage

        namespace = self._entities.namespace
        assert not isinstance(namespace, str)
        self._receiving()  # else it is closed
        messages = [
            ServiceBusMessage(body, content_type=CONTENT_TYPE, message_id=broker.new_message_id())
            for body in bodies
        ]
        sent = [False] * len(bodies)
        with self._raising():
            link = await self._open_sender(namespace)
            async with contextlib.aclosing(links.parcels(messages, link)) as parcels:
                async for numbers, parcel in parcels:
                    if parcel is not None:
                        await link.send(parcel)
                        for number in numbers:
                            sent[number] = True
        return sent

    def _drop_sender(self) -> None:
        link, self._sender = self._sender, None
        if link is not None:
            link.abort()

    async def _settle(self, receipts: Sequence[Any], outcome: receiving.Outcome, reason: str = "") -> None:
        ours = self._ours(receipts)
        if not ours:
            return
        link = self._receiving()
        with self._raising():
            for each in ours:
                await link.settle(each, outcome, reason, DESCRIPTION)

    def _ours(self, receipts: Sequence[Any]) -> list[receiving.Delivery]:
        """Those of the link that stands; the locks of others end by themselves."""
        ours = [each.delivery for each in receipts if each.link == self._receivers and self._receiver is not None]
        _count_lost(len(receipts) - len(ours))
        return ours

    def _received(self, message: receiving.Message) -> broker.Received:
        number = message.sequence_number
        return broker.Received(
            body=message.body,
            receipt=_Receipt(self._receivers, message.delivery),
            message_id="" if number is None else str(number),
            deliveries=message.deliveries,
            attributes=message.properties,
        )

    def _receiving(self) -> receiving.ReceivingLink:
        if self._receiver is None:
            raise broker.BrokerError(Code.CONNECTION_RESET, "the connection to Service Bus is closed")
        return self._receiver

    @contextlib.contextmanager
    def _raising(self) -> Iterator[None]:
        """What the library raises as BrokerError, without secrets."""
        try:
            yield
        except broker.BrokerError:
            raise
        except application.Failed as exc:
            raise broker.BrokerError(exc.code, exc.text) from None
        except Exception as exc:  # noqa: BLE001 -- whatever the library raises is a failed call
            code, text = links.told_by(exc)
            text = cleaned(text or type(exc).__name__, self._entities.secrets)
            raise broker.BrokerError(code, text) from None


class _Waiting:
    """What one `send` brought, and what became of it."""

    def __init__(self, bodies: Sequence[bytes]) -> None:
        self.bodies = bodies
        self.outcome: list[bool] | broker.BrokerError | None = None


def _count_lost(count: int) -> None:
    if count:
        telemetry.count("queue.lock_lost", count)
