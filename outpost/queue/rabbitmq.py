"""RabbitMQ as a queue of ours: a quorum queue behind a topic exchange, dead letters behind the same exchange.

Two connections: the socket of a publisher that is blocked is not read, and acknowledgements on it would wait too.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import urllib.parse
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from aiormq import exceptions, spec
from aiormq.abc import DeliveredMessage

from outpost.adapters import codes
from outpost.adapters.rabbitmq import failures, frames, wire
from outpost.adapters.rabbitmq import type as destination_type
from outpost.queue import broker, operator
from outpost.settings import queues

HEARTBEAT_S = 10  # the library gives up after three of them and a few seconds
CONNECT_S = 5.0
AHEAD = 64  # messages that the broker sends before they are acknowledged
LOOK_S = 30.0  # without a message: whether we are still a consumer
DELIVERY_LIMIT = 5  # of a quorum queue that is made here; then a message is a dead letter
CALL_MESSAGES = 1_000
CALL_BYTES = 16 * 1024 * 1024
PERSISTENT = 2
CONTENT_TYPE = "application/vnd.outpost.chunk"

# Whatever a connection, a channel or a socket raises; a bare RuntimeError is a connection that closed meanwhile.
_ERRORS = (exceptions.AMQPError, OSError, RuntimeError, TimeoutError)


class _Receipt(msgspec.Struct, frozen=True):
    """A delivery tag counts within its channel."""

    channel: int
    tag: int


def open_broker(named: queues.RabbitMQ) -> RabbitMQBroker:
    """Connects in `prepare`."""
    return RabbitMQBroker(named)


class RabbitMQBroker:
    """See `broker.Broker`. Receiving begins with the first `receive`."""

    name = "rabbitmq"
    limits = broker.Limits(
        message_bytes=CALL_BYTES, call_messages=CALL_MESSAGES, call_bytes=CALL_BYTES, ahead=AHEAD
    )

    def __init__(self, named: queues.RabbitMQ) -> None:
        self._named = named
        self._login = _login(named.server_url)
        self.names: Mapping[str, str] = {
            name: value
            for name, value in (
                ("exchange", named.exchange),
                ("queue", named.queue),
                ("dead_letters", named.dead_letters),
            )
            if value
        }
        self._known = operator.known_addresses()
        self._sending: wire.Lane | None = None
        self._receiving: wire.Lane | None = None
        self._channels = 0
        self._consuming = False
        self._cancelled = False
        self._arrived: deque[tuple[int, DeliveredMessage]] = deque()
        self._unsettled: dict[_Receipt, None] = {}  # handed out, in the order of their tags
        self._news = asyncio.Event()
        self._looked_at = 0.0

    async def prepare(self, provision: bool) -> list[str]:
        """See `broker.Broker`. Looks first and makes only what is missing: what is there stays as it is."""
        problems: list[str] = []
        with self._telling(problems):
            sender = await self._connect(frames.CONSUMER)
            self._sending = await wire.open_lane(sender)
            problems += await self._provide(sender) if provision else await self._missing(sender)
            if not problems:
                self._receiving = await wire.open_lane(await self._connect(frames.CONSUMER))
                self._channels += 1
                self._cancelled = self._consuming = False
        return problems

    async def send(self, bodies: Sequence[bytes]) -> list[bool]:
        """See `broker.Broker`."""
        lane = self._open(self._sending)
        if lane.wire.blocked is not None:
            raise broker.BrokerError("throttled", failures.BLOCKED.format(lane.wire.blocked))
        sent = [asyncio.create_task(self._send_one(lane, body)) for body in bodies]
        try:
            return [not isinstance(each, BaseException) for each in await self._confirmed(sent)]
        finally:
            for task in sent:
                task.cancel()

    async def receive(self, count: int, wait_s: float) -> list[broker.Received]:
        """See `broker.Broker`."""
        lane = self._open(self._receiving)
        with self._raising():
            if not self._consuming:
                await self._consume(lane)
            if not self._arrived and not await self._wait(lane, wait_s):
                await self._look(lane)
        found: list[broker.Received] = []
        while self._arrived and len(found) < count:
            channel, message = self._arrived.popleft()
            received = _received(channel, message)
            self._unsettled[received.receipt] = None
            found.append(received)
        return found

    async def acknowledge(self, receipts: Sequence[Any]) -> None:
        """See `broker.Broker`. One frame for all of them where they are the oldest that were handed out."""
        ours = self._settled(receipts)
        if not ours:
            return
        lane = self._open(self._receiving)
        with self._raising():
            oldest = min((each.tag for each in self._unsettled), default=None)
            highest = max(each.tag for each in ours)
            if oldest is None or highest < oldest:
                await lane.channel.basic_ack(highest, multiple=True, wait=False)
                return
            for each in ours:
                await lane.channel.basic_ack(each.tag, wait=False)

    async def extend(self, receipts: Sequence[Any], seconds: float) -> None:
        """A message is ours as long as the connection stands."""

    async def give_back(self, receipts: Sequence[Any], delay_s: float = 0.0) -> None:  # noqa: ARG002
        """See `broker.Broker`. RabbitMQ cannot wait."""
        lane = self._open(self._receiving)
        with self._raising():
            for each in self._settled(receipts):
                await lane.channel.basic_nack(each.tag, requeue=True, wait=False)

    async def bury(self, received: broker.Received, reason: str) -> bool:  # noqa: ARG002
        """Where the queue has no dead-letter exchange the broker drops the message. The reason cannot go along."""
        lane = self._open(self._receiving)
        with self._raising():
            for each in self._settled([received.receipt]):
                await lane.channel.basic_reject(each.tag, requeue=False, wait=False)
        return True

    async def depth(self) -> broker.Depth | None:
        """See `broker.Broker`."""
        sender = self._open(self._sending).wire
        with self._raising():
            found = await self._declared(sender, self._named.queue)
            letters = self._named.dead_letters and await self._declared(sender, self._named.dead_letters)
        return broker.Depth(
            ready=None if found is None else found.message_count,
            consumers=None if found is None else found.consumer_count,
            dead_letters=letters.message_count if letters else None,
        )

    async def close(self) -> None:
        """See `broker.Broker`."""
        wires = {id(lane.wire): lane.wire for lane in (self._sending, self._receiving) if lane is not None}
        self._sending = self._receiving = None
        self._arrived.clear()
        self._unsettled.clear()
        for each in wires.values():
            with contextlib.suppress(*_ERRORS):
                await each.close()

    async def _connect(self, role: frames.Role) -> wire.Wire:
        return await wire.connect(self._login, self._known, CONNECT_S, role, HEARTBEAT_S)

    async def _provide(self, sender: wire.Wire) -> list[str]:
        """Makes exchange, queue and dead-letter queue where they are missing."""
        named = self._named
        async with _channel(sender) as channel:
            exchange_there = await _there(channel.exchange_declare(named.exchange, passive=True))
        if not exchange_there:
            async with _channel(sender) as channel:
                await channel.exchange_declare(named.exchange, exchange_type="topic", durable=True)
        arguments: dict[str, Any] = {"x-queue-type": "quorum"}
        limits = {
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": named.exchange,
            "x-dead-letter-routing-key": named.dead_letters,
        }
        for queue, more in ((named.dead_letters, {}), (named.queue, limits)):
            if await self._declared(sender, queue) is None:
                async with _channel(sender) as channel:
                    await channel.queue_declare(queue, durable=True, arguments=arguments | more)
            async with _channel(sender) as channel:
                await channel.queue_bind(queue, named.exchange, routing_key=queue)
        return []

    async def _missing(self, sender: wire.Wire) -> list[str]:
        found = []
        if await self._declared(sender, self._named.queue) is None:
            found.append(f"RabbitMQ has no queue {self._named.queue!r}")
        if self._named.dead_letters and await self._declared(sender, self._named.dead_letters) is None:
            found.append(f"RabbitMQ has no queue {self._named.dead_letters!r} for dead letters")
        return found

    async def _declared(self, sender: wire.Wire, queue: str) -> spec.Queue.DeclareOk | None:
        """What the broker says of a queue; None where there is none."""
        async with _channel(sender) as channel:
            try:
                found = await channel.queue_declare(queue, passive=True)
            except exceptions.ChannelNotFoundEntity:
                return None
        assert isinstance(found, spec.Queue.DeclareOk)
        return found

    async def _send_one(self, lane: wire.Lane, body: bytes) -> None:
        properties = spec.Basic.Properties(
            content_type=CONTENT_TYPE, delivery_mode=PERSISTENT, message_id=broker.new_message_id()
        )
        with lane.wire.use(len(body), 0):
            await lane.channel.basic_publish(
                body,
                exchange=self._named.exchange,
                routing_key=self._named.queue,
                properties=properties,
                mandatory=True,
                wait=False,
            )

    async def _confirmed(self, sent: Sequence[asyncio.Task[None]]) -> list[BaseException | None]:
        """One that is returned or not taken fails alone; a channel or connection that ends, all of them."""
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        for each in outcomes:
            if isinstance(each, BaseException) and not isinstance(each, exceptions.DeliveryError):
                with self._raising():
                    raise each
        return list(outcomes)

    async def _consume(self, lane: wire.Lane) -> None:
        channel, number = lane.channel, self._channels

        async def arrived(message: DeliveredMessage) -> None:
            if number == self._channels:
                self._arrived.append((number, message))
                self._news.set()

        def cancelled(_: object) -> None:
            self._cancelled = True  # the queue was deleted or has moved
            self._news.set()

        channel.on_consumer_cancel_callbacks.add(cancelled)
        await channel.basic_qos(prefetch_count=AHEAD)
        await channel.basic_consume(self._named.queue, arrived)
        self._consuming = True
        self._looked_at = asyncio.get_running_loop().time()

    async def _wait(self, lane: wire.Lane, wait_s: float) -> bool:
        """Until something arrives; whether it did."""
        self._news.clear()
        closing = asyncio.ensure_future(asyncio.wait([lane.wire.connection.closing, lane.channel.closing]))
        news = asyncio.ensure_future(self._news.wait())
        try:
            await asyncio.wait((news, closing), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (news, closing):
                task.cancel()
            await asyncio.gather(news, closing, return_exceptions=True)
        return bool(self._arrived)

    async def _look(self, lane: wire.Lane) -> None:
        """Raises where we are no consumer any more: some brokers do not say so."""
        self._open(lane)
        if self._cancelled:
            raise broker.BrokerError(
                "target_not_found", "the broker ended the consumer: the queue is gone or moved"
            )
        now = asyncio.get_running_loop().time()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            found = await self._declared(lane.wire, self._named.queue)
            if found is None or not found.consumer_count:
                raise broker.BrokerError("target_not_found", "the queue has no consumer, though we are one")

    def _settled(self, receipts: Sequence[Any]) -> list[_Receipt]:
        """Those of the channel that stands, which are not to be settled twice."""
        ours = [each for each in receipts if each in self._unsettled]
        for each in ours:
            del self._unsettled[each]
        return ours

    def _open(self, lane: wire.Lane | None) -> wire.Lane:
        if lane is None or not lane.wire.open or lane.channel.is_closed:
            raise broker.BrokerError(codes.Code.CONNECTION_RESET, "the connection to RabbitMQ has ended")
        return lane

    @contextlib.contextmanager
    def _raising(self) -> Iterator[None]:
        """What the library raises as BrokerError, without the password."""
        try:
            yield
        except broker.BrokerError:
            raise
        except _ERRORS as exc:
            code, text = failures.reason(exc, self._named.queue)
            text = codes.cleaned(text or type(exc).__name__, (self._login.password,))
            raise broker.BrokerError(code, text) from None

    @contextlib.contextmanager
    def _telling(self, problems: list[str]) -> Iterator[None]:
        """Adds what is certain: a login that is refused is, a broker that is away is not."""
        try:
            with self._raising():
                yield
        except broker.BrokerError as exc:
            if exc.code not in (codes.Code.AUTH_FAILED, codes.Code.ACCESS_DENIED):
                raise
            problems.append(f"RabbitMQ: {exc.code}: {exc.text}")


@contextlib.asynccontextmanager
async def _channel(sender: wire.Wire) -> AsyncIterator[Any]:
    """A channel for a call or two: a refusal closes it."""
    channel = await sender.connection.channel(publisher_confirms=False)
    try:
        yield channel
    finally:
        if not channel.is_closed:
            await channel.close()


async def _there(declaring: Any) -> bool:
    try:
        await declaring
    except exceptions.ChannelNotFoundEntity:
        return False
    return True


def _received(channel: int, message: DeliveredMessage) -> broker.Received:
    assert message.delivery_tag is not None
    properties = message.header.properties
    return broker.Received(
        body=message.body,
        receipt=_Receipt(channel, message.delivery_tag),
        message_id=properties.message_id or "",
        deliveries=2 if message.redelivered else 1,
    )


def _login(server_url: str) -> wire.Login:
    """Of a URL that the settings have checked."""
    parts = urllib.parse.urlsplit(server_url)
    encrypted = parts.scheme.lower() == "amqps"
    return wire.Login(
        host=parts.hostname or "",
        port=parts.port or (destination_type.TLS_PORT if encrypted else destination_type.PORT),
        vhost=urllib.parse.unquote(parts.path[1:]) or "/",
        username=urllib.parse.unquote(parts.username or "guest"),
        password=urllib.parse.unquote(parts.password or "guest"),
        tls=ssl.create_default_context() if encrypted else None,
    )
