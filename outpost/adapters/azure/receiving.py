"""One receiver of azure-servicebus on a connection to a judged address: messages under a lock, settled one by one.

The library's own `receive_messages` waits 0.2 s for more after the first message, so its frames are read here; its
settling does not wait for an answer, as a message that stays unsettled is only delivered once more. One coroutine
at a time reads. What has come and was not taken is given back at the end.
"""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from outpost.adapters.azure import connection_string as servicebus_string
from outpost.adapters.azure import link
from outpost.adapters.codes import Code

PREFETCH = 64  # messages that the service sends before they are asked for
MAX_MESSAGE_BYTES = 16_777_216  # a longer one arrives without its content
MAX_WAITING_BYTES = 16_777_216  # of messages that are here and not taken; with more nothing is read
RENEWED_AT_ONCE = 100  # locks; the answer has an element for each
CLOSE_S = 2.0  # for giving back what was not taken
_NEXT_FRAME_S = 0.002  # for a frame behind another one; 0 would never read any
_SLICE_S = 0.2  # of waiting for messages, after which another request gets its turn
_SEQUENCE_NUMBER = b"x-opt-sequence-number"
_DEAD_LETTER = b"com.microsoft:dead-letter"

Outcome = Literal["accepted", "released", "modified", "rejected"]


class Delivery(msgspec.Struct, frozen=True):
    """What settling a message takes: its number on its link, and its tag, which is the token of its lock."""

    number: int
    tag: bytes


class Message(msgspec.Struct, frozen=True):
    """`deliveries`: which one this is. `sequence_number` names it in all of them; None for a message that came
    without its content."""

    body: bytes
    delivery: Delivery
    sequence_number: int | None
    deliveries: int
    properties: Mapping[str, str]


class ReceivingLink(link.Opened):
    """An open receiver."""

    def __init__(self, client: Any, handlers: list[Any]) -> None:
        super().__init__(client, handlers)
        self._handler = handlers[-1]
        self._wire.message_bytes = MAX_MESSAGE_BYTES  # no message was asked for yet
        self._arrived = self._handler._received_messages  # noqa: SLF001
        self._turn = asyncio.Lock()

    async def receive(self, count: int, wait_s: float) -> list[Message]:
        """Up to `count` messages; waits for the first one for up to `wait_s`. Raises what `told_by` knows."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        while self._arrived.qsize() < count and self._waiting_bytes() < MAX_WAITING_BYTES:
            left_s = end - loop.time()
            if not self._arrived.qsize() and left_s > 0:
                await self._listen(min(left_s, _SLICE_S))
                continue
            before = self._wire.frames
            await self._listen(_NEXT_FRAME_S)
            if self._wire.frames == before:
                break
        taken = min(count, self._arrived.qsize())
        return [_message(*self._arrived.get_nowait()) for _ in range(taken)]

    async def settle(self, delivery: Delivery, outcome: Outcome, reason: str = "", description: str = "") -> None:
        """Says what becomes of a message, unless that was said, and does not wait for an answer. `modified` counts
        as a failed delivery, `rejected` makes it a dead letter with `reason` and `description`. Raises what
        `told_by` knows."""
        from azure.servicebus._pyamqp.error import AMQPError

        fields: dict[str, Any] = {}
        if outcome == "rejected":
            about = {"DeadLetterReason": reason, "DeadLetterErrorDescription": description}
            fields = {"error": AMQPError(condition=_DEAD_LETTER, description=description, info=about)}
        elif outcome == "modified":
            fields = {"delivery_failed": True, "undeliverable_here": False}
        self._check()
        if delivery.tag not in self._link._received_delivery_tags:  # noqa: SLF001
            return
        with self.reasoned():
            await self._handler.settle_messages_async(delivery.number, delivery.tag, outcome, **fields)

    async def renew(self, deliveries: Sequence[Delivery], seconds: float) -> int:
        """Locks these anew, within `seconds`; returns how many had lost their lock. Raises what `told_by`
        knows."""
        lost = 0
        for at in range(0, len(deliveries), RENEWED_AT_ONCE):
            part = deliveries[at : at + RENEWED_AT_ONCE]
            if not await self._renew(part, seconds):
                continue
            if len(part) == 1:
                lost += 1
            else:  # one of them fails all
                lost += sum([await self._renew([each], seconds) for each in part])
        return lost

    async def close(self) -> None:
        """Gives back what was not taken, and ends the connection."""
        try:
            if not self.lost:
                async with asyncio.timeout(CLOSE_S):
                    await super().close()
        except TimeoutError:
            pass
        finally:
            self.abort()

    async def _renew(self, deliveries: Sequence[Delivery], seconds: float) -> bool:
        from azure.servicebus.exceptions import MessageLockLostError

        self._check()
        tokens = [uuid.UUID(bytes_le=each.tag) for each in deliveries]
        async with self._turn:
            self._allowance.refill()
            try:
                await self._client._renew_locks(*tokens, timeout=seconds)  # noqa: SLF001
            except MessageLockLostError:
                return True
        return False

    async def _listen(self, wait_s: float) -> None:
        """Reads one frame, if one comes in that time; renews the token and the credit where they run out."""
        self._check()
        async with self._turn:
            self._allowance.refill()
            with self.reasoned():
                if not await self._handler.client_ready_async():  # a new token is on its way
                    return
                room = PREFETCH - self._arrived.qsize()
                if self._link.current_link_credit <= PREFETCH // 2 < room:
                    await self._link.flow(link_credit=room)
                await self._connection.listen(wait=wait_s)
        self._check()

    def _check(self) -> None:
        if self.lost:
            with self.reasoned():
                raise ConnectionResetError("the link has ended")

    def _waiting_bytes(self) -> int:
        return sum(_size(message) for _, message in self._arrived.queue)


async def open_receiving_link(
    namespace: servicebus_string.Namespace,
    topic: str,
    subscription: str,
    judged: Sequence[str],
    trust: ssl.SSLContext,
    limit_s: float,
    credential: link.Credential | None = None,
) -> ReceivingLink:
    """A link from `subscription` by the first of the `judged` addresses that answers, within `limit_s`; see
    `link.open_link`."""

    async def opened(address: str) -> ReceivingLink:
        from azure.servicebus.aio import ServiceBusReceiver

        return await link.opened_by(
            ReceivingLink,
            ServiceBusReceiver,
            namespace,
            address,
            trust,
            credential,
            topic_name=topic,
            subscription_name=subscription,
            prefetch_count=PREFETCH,
        )

    return await link.by_first(judged, opened, limit_s)


def requires_sessions(code: Code, text: str) -> bool:
    """Whether that is the refusal of a receiver because the subscription has sessions."""
    return code is Code.ERR and "requires sessions" in text


def _message(frame: Any, message: Any) -> Message:
    annotations = message.message_annotations or {}
    number = annotations.get(_SEQUENCE_NUMBER)
    header = message.header
    return Message(
        body=b"".join(_parts(message)),
        delivery=Delivery(frame[1], bytes(frame[2])),
        sequence_number=number if isinstance(number, int) else None,
        deliveries=1 + (header.delivery_count or 0) if header else 0,
        properties={_text(name): _text(value) for name, value in (message.application_properties or {}).items()},
    )


def _parts(message: Any) -> Iterable[bytes]:
    """The body, which may be data, or one text or blob."""
    if message.data is not None:
        return [bytes(part) for part in message.data]
    value = message.value
    if isinstance(value, str):
        return [value.encode()]
    return [bytes(value)] if isinstance(value, bytes | bytearray | memoryview) else []


def _size(message: Any) -> int:
    return sum(len(part) for part in message.data) if message.data is not None else len(message.value or "")


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
