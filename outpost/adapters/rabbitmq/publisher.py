"""Sends to one exchange: concurrent sends share one channel, and each message has its own confirm.

A channel that the broker closes takes with it whatever was not confirmed on it: all of that failed, for the
broker's reason. A send that gives up leaves the connection to those that are still waiting on it, and the next one
opens another.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator, Sequence

from aiormq import exceptions, spec

from outpost.adapters import base, codes
from outpost.adapters.egress import addresses as judged
from outpost.adapters.http import failures
from outpost.adapters.rabbitmq import wire as wires
from outpost.adapters.shared import answers, long_lived_client, metadata
from outpost.domain import delivery

MAX_BATCH = 100  # a confirm covers many of them; more in one send only wait for each other
PERSISTENT = 2
LONGEST_KEY_BYTES = 128  # of a header's name: what the library would cut off
LONGEST_NAME_BYTES = 255  # of a routing key or a message id: AMQP's short string
HEADER_BYTES = 6  # of a header: two lengths and a type
FRAME_REST_BYTES = 1_024  # of the one frame that headers stand in: all but them
TRIES = 3  # to get hold of an open channel: the one that was there may have closed, and even the one after it
CONNECTION_FORCED, ACCESS_REFUSED = 320, 403  # AMQP's reply codes
DELIVERED = delivery.Delivered(codes.OK, {})
NOT_TAKEN = "the broker did not take the message (basic.nack): a queue is full, or failed"
HEADERS_TOO_LARGE = "the metadata does not fit into one frame of the broker"
# Words of RabbitMQ since 3.7; the size is that of the body.
_TOO_LARGE = re.compile(r"message size (\d+) (?:is )?larger than")


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

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        """All published before the first confirm is waited for; one outcome each, in order."""
        if len(batch) == 1:
            return [await self._one(batch[0], deadline)]
        return await asyncio.gather(*(self._one(event, deadline) for event in batch))

    async def close(self) -> None:
        """Ends channel and connection, once those that send have their outcome."""
        await self._lanes.close()
        await self._wires.close()

    async def _one(self, event: base.Delivery, deadline: float) -> delivery.Outcome:
        headers = self._merger.merged(event)
        if not _has_names(event, headers):
            return codes.UNFORMATTED
        size = _size(headers)
        lane: wires.Lane | None = None
        try:
            async with asyncio.timeout_at(deadline):
                for _ in range(TRIES):
                    lane = await self._lanes.get()
                    if not lane.open:
                        self._discard(lane)
                        continue
                    if size > lane.wire.connection.connection_tune.frame_max - FRAME_REST_BYTES:
                        return codes.failed(codes.Code.MESSAGE_TOO_LARGE, HEADERS_TOO_LARGE)
                    with contextlib.suppress(exceptions.ChannelInvalidStateError):  # closed before it went out
                        await self._publish(lane, event, headers, size)
                        return DELIVERED
            return codes.failed(codes.Code.CONNECTION_RESET)
        except TimeoutError:
            if lane is not None and not await lane.wire.blocked():
                self._discard(lane)
            return codes.failed(codes.Code.TIMEOUT)
        except asyncio.CancelledError:
            self._discard(lane)
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return codes.failed(codes.Code.CONNECTION_RESET)  # the library's way to say that it has closed
        except Exception as exc:  # noqa: BLE001 -- whatever a library raises is a failed attempt
            if not isinstance(exc, exceptions.DeliveryError | TypeError | ValueError):
                self._discard(lane)
            exc.__traceback__ = None  # one error is that of all that were sent over a connection
            final = isinstance(exc, judged.Blocked) and self._known.refuses(self._login.host)
            return failed(exc, event, (self._login.password,), final=final)

    async def _publish(
        self, lane: wires.Lane, event: base.Delivery, headers: dict[str, str], headers_bytes: int
    ) -> None:
        has_room = len(event.event_id.encode()) <= LONGEST_NAME_BYTES  # it is among the headers as well
        properties = spec.Basic.Properties(
            content_type="application/json",
            delivery_mode=PERSISTENT,
            message_id=event.event_id if has_room else None,
            headers={**headers},
        )
        while (other := self._under_way.get(event.event_id)) is not None:
            await other.wait()
        with self._alone(event.event_id), lane.wire.use(len(event.data), headers_bytes):
            await lane.channel.basic_publish(
                event.data,
                exchange=self._exchange,
                routing_key=event.topic,
                properties=properties,
                mandatory=True,
                wait=False,  # until the socket took it: the confirm says more, and others go out meanwhile
            )

    async def _open_lane(self) -> wires.Lane:
        while not (wire := await self._wires.get()).open:
            self._wires.discard(wire)
        try:
            return await wires.open_lane(wire)
        except BaseException:
            self._wires.discard(wire)
            raise

    def _discard(self, lane: wires.Lane | None) -> None:
        """Nobody sends there any more. A connection outlives a channel that the broker has closed: what refuses
        one message after another need not log in for each."""
        if lane is None:
            return
        self._lanes.discard(lane)
        if not (lane.wire.open and lane.channel.is_closed):
            self._wires.discard(lane.wire)

    @contextlib.contextmanager
    def _alone(self, event_id: str) -> Iterator[None]:
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


def _has_names(event: base.Delivery, headers: dict[str, str]) -> bool:
    """Whether AMQP has room for the topic and the names of the headers, which the library would cut off."""
    longest = max(len(key.encode()) for key in headers)
    return longest <= LONGEST_KEY_BYTES and len(event.topic.encode()) <= LONGEST_NAME_BYTES


def _size(headers: dict[str, str]) -> int:
    """Bytes that headers take in the one frame that they stand in; the broker ends the connection beyond it."""
    return sum(len(key.encode()) + len(value.encode()) + HEADER_BYTES for key, value in headers.items())


def failed(
    exc: Exception, event: base.Delivery, secrets: Sequence[str], *, final: bool = False
) -> delivery.Failed:
    """The outcome of `event` where `exc` came of it; `final` as codes.failed has it."""
    code, text = _reason(exc, event)
    return codes.failed(code, text, secrets, final=final)


def _reason(exc: Exception, event: base.Delivery) -> tuple[codes.Code, str]:
    if (too_much := answers.reason(exc)) is not None:
        return too_much
    match exc:
        case judged.Blocked():
            return codes.Code.BLOCKED_ADDRESS, ""
        case judged.Unknown():
            return codes.Code.DNS_ERROR, ""
        case exceptions.PublishError():
            return codes.Code.UNROUTABLE, f"{exc.args[0]}: no queue for {event.topic!r}"
        case exceptions.DeliveryError():
            return codes.Code.THROTTLED, NOT_TAKEN
        case exceptions.AMQPChannelError():
            return _of_channel(exc, event), _words(exc)
        case exceptions.AMQPConnectionError() | exceptions.AMQPError():
            return _of_connection(exc), _words(exc)
        case OSError():
            return codes.Code(failures.code_of(exc)), str(exc)
        case RuntimeError() if type(exc) is RuntimeError:  # closed meanwhile
            return codes.Code.CONNECTION_RESET, ""
        case _:
            return codes.Code.RABBITMQ_ERROR, type(exc).__name__


def _of_channel(exc: exceptions.AMQPChannelError, event: base.Delivery) -> codes.Code:
    match exc:
        case exceptions.ChannelAccessRefused():
            return codes.Code.ACCESS_DENIED
        case exceptions.ChannelNotFoundEntity():
            return codes.Code.EXCHANGE_NOT_FOUND
        case exceptions.ChannelPreconditionFailed():
            # Only the message that was too large is not tried again, not those beside it.
            told = _TOO_LARGE.search(_words(exc))
            if told is not None and int(told[1]) == len(event.data):
                return codes.Code.MESSAGE_TOO_LARGE
    return codes.Code.CHANNEL_ERROR


def _of_connection(exc: exceptions.AMQPError) -> codes.Code:
    reply = exc.args[0] if exc.args else None
    match exc:
        case exceptions.AuthenticationError() | exceptions.ProbableAuthenticationError():
            return codes.Code.AUTH_FAILED
        case exceptions.ConnectionNotAllowed():  # a virtual host that is not there, or not for this user
            return codes.Code.ACCESS_DENIED
        case exceptions.ConnectionChannelError():
            return codes.Code.CHANNEL_ERROR
        case exceptions.ConnectionClosed() if reply == CONNECTION_FORCED:
            return codes.Code.CONNECTION_FORCED
        case exceptions.ConnectionClosed() if reply == ACCESS_REFUSED:  # while logging in
            return codes.Code.AUTH_FAILED
        case exceptions.ConnectionClosed() | exceptions.IncompatibleProtocolError():
            return codes.Code.RABBITMQ_ERROR
        case exceptions.AMQPConnectionError():
            return codes.Code.CONNECTION_RESET
    return codes.Code.RABBITMQ_ERROR


def _words(exc: Exception) -> str:
    """What the broker said, without the code that stands in the class or before it."""
    return " ".join(str(arg) for arg in exc.args if isinstance(arg, str))
