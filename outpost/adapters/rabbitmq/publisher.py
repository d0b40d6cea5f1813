"""Sends to one exchange: concurrent sends share one channel, and each message has its own confirm.

A channel that the broker closes over one message takes with it whatever was not confirmed on it. So what the
broker has not taken the like of yet (see `proven`) goes alone, over a channel of its own; where a shared one is
closed all the same, the others go again. While the broker says that it is blocked nothing is sent: what was under
way keeps its place, so that a later attempt hears of its confirm and makes no copy. A send that gives up leaves
the connection to those that are still waiting on it, and the next one opens another.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

import msgspec
from aiormq import exceptions, spec

from outpost.adapters import base, codes
from outpost.adapters.egress import addresses as judged
from outpost.adapters.rabbitmq import failures
from outpost.adapters.rabbitmq import proven as provens
from outpost.adapters.rabbitmq import wire as wires
from outpost.adapters.shared import long_lived_client, metadata
from outpost.domain import delivery

MAX_BATCH = 100  # a confirm covers many of them; more in one send only wait for each other
MAX_ALONE = 8  # channels for what goes alone
MAX_UNSETTLED = 1_000  # messages under way to a blocked broker whose attempts have ended
MAX_UNSETTLED_BYTES = 262_144  # of their bodies
PERSISTENT = 2
LONGEST_KEY_BYTES = 128  # of a header's name: what the library would cut off
LONGEST_NAME_BYTES = 255  # of a routing key or a message id: AMQP's short string
HEADER_BYTES = 6  # of a header: two lengths and a type
FRAME_REST_BYTES = 1_024  # of the one frame that headers stand in: all but them
TRIES = 5  # to get hold of an open channel: the one that was there may have closed, and even the one after it
MOST_SHARED = 2  # shared channels that may be closed under a message before it goes alone
DELIVERED = delivery.Delivered(codes.OK, {})
HEADERS_TOO_LARGE = "the metadata does not fit into one frame of the broker"


class _Message(msgspec.Struct, eq=False):
    """An event on its way. `wire` is what it goes over, `lane` its channel; `out`: it was written there."""

    event: base.Delivery
    headers: dict[str, str]
    headers_bytes: int
    wire: wires.Wire | None = None
    lane: wires.Lane | None = None
    out: bool = False


_Settling = asyncio.Task[delivery.Outcome]


class Publisher:
    """See base.Publisher. `limit_s` is what opening a connection may take; it goes on when a send gives up."""

    max_batch = MAX_BATCH

    def __init__(
        self,
        login: wires.Login,
        exchange: str,
        merger: metadata.Merger,
        known: judged.Addresses,
        *,
        limit_s: float,
    ) -> None:
        self._login = login
        self._known = known
        self._exchange = exchange
        self._merger = merger
        self._wires = long_lived_client.LongLivedClient(
            lambda: wires.connect(login, known, limit_s), wires.Wire.close, limit_s
        )
        self._lanes = long_lived_client.LongLivedClient(self._open_lane, _nothing, limit_s)
        self._under_way: dict[str, asyncio.Event] = {}
        self._proven = provens.Proven()
        self._alone: dict[str, asyncio.Event] = {}  # topics of which one message goes alone now
        self._turns = asyncio.Semaphore(MAX_ALONE)
        self._free: list[wires.Lane] = []  # over which something went alone
        self._unsettled: dict[str, tuple[_Settling, _Message]] = {}  # by event, the oldest first
        self._unsettled_bytes = 0

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        """All published before the first confirm is waited for; one outcome each, in order."""
        settling = [self._settling(event) for event in batch]
        try:
            left_s = max(0.0, deadline - asyncio.get_running_loop().time())
            await asyncio.wait([task for task, _ in settling], timeout=left_s)
            return [self._outcome(task, message) for task, message in settling]
        except asyncio.CancelledError:
            for task, message in settling:
                task.cancel()
                self._discard(message.lane)
            raise

    async def close(self) -> None:
        """Ends channel and connection, once those that send have their outcome."""
        unsettled = [task for task, _ in self._unsettled.values()]
        for task in unsettled:
            task.cancel()
        await asyncio.gather(*unsettled, return_exceptions=True)
        await self._lanes.close()
        await self._wires.close()

    def _settling(self, event: base.Delivery) -> tuple[_Settling, _Message]:
        """What sends `event`: an earlier attempt where that is still under way, or was confirmed after its end."""
        earlier = self._take_unsettled(event.event_id)
        if earlier is not None and (not earlier[0].done() or _is_delivered(earlier[0])):
            return earlier
        headers = self._merger.merged(event)
        message = _Message(event, headers, _size(headers))
        return asyncio.create_task(self._settle(message)), message

    def _outcome(self, task: _Settling, message: _Message) -> delivery.Outcome:
        """What has come of a message by its deadline."""
        if task.done() and not task.cancelled():
            return task.result()
        wire = message.wire
        if wire is None or wire.blocked is None or not wire.open:
            task.cancel()
            self._discard(message.lane)
            if wire is not None:
                self._wires.discard(wire)
            return codes.failed(codes.Code.TIMEOUT)
        if message.out:
            self._keep_unsettled(task, message)
        else:
            task.cancel()
        return self._failed(failures.Blocked(wire.blocked), message)

    def _keep_unsettled(self, task: _Settling, message: _Message) -> None:
        """The broker has it, or will read it: a later attempt is not to send it again. Beyond the bounds the
        connection is given up, and with it what the broker has not read."""
        self._unsettled[message.event.event_id] = task, message
        self._unsettled_bytes += len(message.event.data)
        while len(self._unsettled) > MAX_UNSETTLED or self._unsettled_bytes > MAX_UNSETTLED_BYTES:
            found = self._take_unsettled(next(iter(self._unsettled)))
            assert found is not None
            if not found[0].done() and found[1].wire is not None:
                found[0].cancel()
                self._wires.discard(found[1].wire)

    def _take_unsettled(self, event_id: str) -> tuple[_Settling, _Message] | None:
        found = self._unsettled.pop(event_id, None)
        if found is not None:
            self._unsettled_bytes -= len(found[1].event.data)
        return found

    async def _settle(self, message: _Message) -> delivery.Outcome:
        """Sends one message, and waits for what the broker says to it. Raises nothing but CancelledError."""
        if not _has_names(message):
            return codes.UNFORMATTED
        try:
            return await self._sent(message)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._discard(message.lane)
            return codes.failed(codes.Code.CONNECTION_RESET)  # the library's way to say that it has closed
        except Exception as exc:  # noqa: BLE001 -- whatever a library raises is a failed attempt
            if not isinstance(exc, exceptions.DeliveryError | TypeError | ValueError | failures.Blocked):
                self._discard(message.lane, ended=isinstance(exc, exceptions.AMQPConnectionError))
            return self._failed(exc, message)

    async def _sent(self, message: _Message) -> delivery.Outcome:
        """Over the channel that all share, or alone; once more where a channel closed and the message was not what
        the broker refused."""
        event, since = message.event, asyncio.get_running_loop().time()
        closed = tries = 0
        while tries < TRIES:
            message.wire, message.lane, message.out = await self._wire(), None, False
            alone = closed >= MOST_SHARED or not self._proven.covers(event)
            if alone and (refused := self._proven.refused_since(since, event)) is not None:
                return refused
            if alone and (other := self._alone.get(event.topic)) is not None:
                await other.wait()
                continue
            tries += 1
            try:
                if not alone:
                    return await self._shared_over(message)
                if (told := await self._alone_over(message, known=closed < MOST_SHARED)) is not None:
                    return told
            except exceptions.ChannelInvalidStateError:  # closed before it went out
                self._discard(message.lane)
            except exceptions.ConnectionClosed as exc:  # another gave it up before the message went out
                if message.out or exc.args != wires.CLOSED_BY_US:
                    raise
                self._discard(message.lane, ended=True)
                self._lanes.forget_failure()  # it was about the connection that is gone
            except exceptions.AMQPChannelError as exc:
                self._discard(message.lane)
                if self._is_refused(exc, message) or alone:
                    raise
                closed += 1
        return codes.failed(codes.Code.CONNECTION_RESET)

    def _is_refused(self, exc: exceptions.AMQPChannelError, message: _Message) -> bool:
        """Takes note of what the broker refused by closing a channel; whether that is true of all messages."""
        refusal = provens.refusal(exc)
        if refusal is not None:
            now = asyncio.get_running_loop().time()
            self._proven.refused(refusal, self._failed(exc, message), now)
        return refusal is not None and refusal.of_all

    async def _shared_over(self, message: _Message) -> delivery.Outcome:
        """Over the channel that all share."""
        lane = await self._lanes.get()
        if lane.wire is not message.wire:  # which was given up for another
            self._lanes.discard(lane)
            raise exceptions.ChannelInvalidStateError
        return await self._over(lane, message)

    async def _alone_over(self, message: _Message, *, known: bool) -> delivery.Outcome | None:
        """Over a channel where nothing else is under way; one of a topic at a time. None where the like of it was
        taken before its turn came, and `known` is enough."""
        topic = message.event.topic
        gone = self._alone[topic] = asyncio.Event()
        try:
            async with self._turns:
                if known and self._proven.covers(message.event):
                    return None
                lane = await self._open_lane()
                try:
                    return await self._over(lane, message)
                finally:
                    if lane.open and not message.out:
                        self._free.append(lane)
        finally:
            del self._alone[topic]
            gone.set()

    async def _over(self, lane: wires.Lane, message: _Message) -> delivery.Outcome:
        """Raises aiormq's errors, among them ChannelInvalidStateError where `lane` closed before it went out."""
        message.lane, message.wire = lane, lane.wire
        if not lane.open:
            raise exceptions.ChannelInvalidStateError
        if lane.wire.blocked is not None:
            raise failures.Blocked(lane.wire.blocked)
        if message.headers_bytes > lane.wire.connection.connection_tune.frame_max - FRAME_REST_BYTES:
            return codes.failed(codes.Code.MESSAGE_TOO_LARGE, HEADERS_TOO_LARGE)
        try:
            await self._publish(lane, message)
        except exceptions.DeliveryError:  # a queue is full, or there is none: the message was not refused
            self._answered(message)
            raise
        self._answered(message)
        return DELIVERED

    def _answered(self, message: _Message) -> None:
        message.out = False
        self._proven.taken(message.event)

    async def _publish(self, lane: wires.Lane, message: _Message) -> None:
        event = message.event
        has_room = len(event.event_id.encode()) <= LONGEST_NAME_BYTES  # it is among the headers as well
        properties = spec.Basic.Properties(
            content_type="application/json",
            delivery_mode=PERSISTENT,
            message_id=event.event_id if has_room else None,
            headers={**message.headers},
        )
        while (other := self._under_way.get(event.event_id)) is not None:
            await other.wait()
        with self._only(event.event_id), lane.wire.use(len(event.data), message.headers_bytes):
            message.out = True
            await lane.channel.basic_publish(
                event.data,
                exchange=self._exchange,
                routing_key=event.topic,
                properties=properties,
                mandatory=True,
                wait=False,  # until the socket took it: the confirm says more, and others go out meanwhile
            )

    async def _wire(self) -> wires.Wire:
        """The connection. Raises failures.Blocked while its broker takes nothing."""
        while not (wire := await self._wires.get()).open:
            self._wires.discard(wire)
        if wire.blocked is not None:
            raise failures.Blocked(wire.blocked)
        return wire

    async def _open_lane(self) -> wires.Lane:
        """One over which something has gone alone, or a new one."""
        wire = await self._wire()
        self._free = [lane for lane in self._free if lane.open and lane.wire is wire]
        if self._free:
            return self._free.pop()
        try:
            return await wires.open_lane(wire)
        except BaseException:
            self._wires.discard(wire)
            raise

    def _discard(self, lane: wires.Lane | None, *, ended: bool = False) -> None:
        """Nobody sends there any more. A connection outlives a channel that the broker has closed, unless it has
        `ended` itself: what refuses one message after another need not log in for each."""
        if lane is None:
            return
        self._lanes.discard(lane)
        if ended or not (lane.wire.open and lane.channel.is_closed):
            self._wires.discard(lane.wire)

    def _failed(self, exc: Exception, message: _Message) -> delivery.Failed:
        exc.__traceback__ = None  # one error is that of all that were sent over a connection
        final = isinstance(exc, judged.Blocked) and self._known.refuses(self._login.host)
        return failures.failed(exc, message.event, (self._login.password,), final=final)

    @contextlib.contextmanager
    def _only(self, event_id: str) -> Iterator[None]:
        """One message of an id at a time: what the broker returns is told apart by its id alone, and the other
        one would count as delivered."""
        gone = self._under_way[event_id] = asyncio.Event()
        try:
            yield
        finally:
            del self._under_way[event_id]
            gone.set()


async def _nothing(_: wires.Lane) -> None:
    """A channel ends with its connection, or has ended."""


def _is_delivered(task: _Settling) -> bool:
    return not task.cancelled() and isinstance(task.result(), delivery.Delivered)


def _has_names(message: _Message) -> bool:
    """Whether AMQP has room for the topic and the names of the headers, which the library would cut off."""
    longest = max(len(key.encode()) for key in message.headers)
    return longest <= LONGEST_KEY_BYTES and len(message.event.topic.encode()) <= LONGEST_NAME_BYTES


def _size(headers: dict[str, str]) -> int:
    """Bytes that headers take in the one frame that they stand in; the broker ends the connection beyond it."""
    return sum(len(key.encode()) + len(value.encode()) + HEADER_BYTES for key, value in headers.items())
