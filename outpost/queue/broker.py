"""What a broker has to do for us: nine calls, the same for the delivery queue and for the publish queue.

A module for each service implements them (`rabbitmq`, `sqs`, `pubsub`, `servicebus`); what is done with the
messages stands in `chunked` and in `commands/intake`. A call raises `BrokerError` and nothing else; its caller
gives it a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

SEND_S = 2.0  # the deadline of `send`
SETTLE_S = 5.0  # of `acknowledge`, `extend`, `give_back` and `bury`
PREPARE_S = 15.0  # of `prepare`
RECEIVE_EXTRA_S = 5.0  # how much longer than its `wait_s` a `receive` may take
FIRST_PAUSE_S = 0.1  # before a broker is tried again, doubling ..
LONGEST_PAUSE_S = 30.0  # .. up to this
LONGEST_DELAY_S = 43_200.0  # of a message that is given back, where the service allows so much


class BrokerError(Exception):
    """A call failed. `code` is a word of `adapters/shared/codes`, `text` one sentence without secrets."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


@contextlib.asynccontextmanager
async def deadline(seconds: float, text: str) -> AsyncIterator[None]:
    """`asyncio.timeout` that raises BrokerError with `text`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise BrokerError("timeout", text) from None


async def end(opened: Broker) -> None:
    """Closes it within `SETTLE_S`, whatever it waits for."""
    with contextlib.suppress(BrokerError):
        async with deadline(SETTLE_S, "closing did not end in time"):
            await opened.close()


def new_message_id() -> str:
    """What names a message of ours: random, 32 hex digits."""
    return os.urandom(16).hex()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a service allows. A message may have `message_bytes`; one `send` carries `call_messages` messages and
    `call_bytes` of them at most, and the room cuts larger ones itself. What is received stays ours for `lock_s`
    (None: as long as the connection stands). `ahead`: how many messages it may send us before we ask."""

    message_bytes: int
    call_messages: int
    call_bytes: int
    lock_s: float | None = None
    ahead: int = 0


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """A message. `receipt` is what the broker wants to see again, `message_id` what names it in all of its
    deliveries ("": nothing does), `deliveries` which one this is (0: not told)."""

    body: bytes
    receipt: Any
    message_id: str = ""
    deliveries: int = 0
    attributes: Mapping[str, str] = {}


class Depth(msgspec.Struct, frozen=True, kw_only=True):
    """How many messages lie there; None where the broker does not tell."""

    ready: int | None = None
    unacknowledged: int | None = None
    consumers: int | None = None
    dead_letters: int | None = None


@runtime_checkable
class Advising(Protocol):
    """A broker that is able to say more than problems. To be prepared."""

    async def advice(self) -> list[str]:
        """What works and should be otherwise, a sentence each."""


class Broker(Protocol):
    """One queue of one service. Only one `receive` is under way at a time; `send` may be called beside it."""

    name: str  # of the service, as `rabbitmq`
    names: Mapping[str, str]  # what is used there, as `{"queue": "outpost-delivery"}`; nothing secret

    @property
    def limits(self) -> Limits:
        """What it allows; it may learn them in `prepare`."""

    async def prepare(self, provision: bool) -> list[str]:
        """Makes what is missing, or only looks; returns every problem that is certain, a sentence each. Raises
        BrokerError where the service did not answer."""

    async def send(self, bodies: Sequence[bytes]) -> list[bool]:
        """Whether each was confirmed within `SEND_S`."""

    async def receive(self, count: int, wait_s: float) -> list[Received]:
        """Up to `count` messages; waits for the first one for up to `wait_s`."""

    async def acknowledge(self, receipts: Sequence[Any]) -> None:
        """These are done. One that is lost brings a copy."""

    async def extend(self, receipts: Sequence[Any], seconds: float) -> None:
        """Keeps these for so much longer."""

    async def give_back(self, receipts: Sequence[Any], delay_s: float = 0.0) -> None:
        """For any consumer, after `delay_s` where the service can wait."""

    async def bury(self, received: Received, reason: str) -> bool:
        """Moves it to the dead-letter queue; False: there is none, and nothing happened to it."""

    async def depth(self) -> Depth | None:
        """None where the broker does not tell."""

    async def close(self) -> None:
        """Ends every connection. Harmless when repeated; `prepare` opens them again."""
