"""The seam of the conformance suite: what a type's service can be made to do, and what arrived at it.

A world owns its servers: one for the session where starting is slow, and a fresh target (queue, stream, topic)
for every test. What a type cannot have it names in `cannot`, with the reason; the suite shows it as skipped.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Literal, Self

import msgspec

from outpost.adapters import base
from tests.harness import toxic

Case = Literal[
    "wrong_credentials",  # the service refuses who we say we are
    "missing_target",  # no such queue, stream, topic, exchange
    "no_permission",  # known, but not allowed to send there
    "throttled",  # the service says: later
    "too_large",  # the service does not take that much
    "stalled",  # accepts, and never answers
    "cut",  # the connection is cut in the middle of a send
    "restarted",  # the server restarts between two sends
    "rotated",  # the credentials change, the old ones are refused from then on
    "refused_address",  # the address guard does not permit the host
    "partial",  # a batch in which the service refuses one entry
]


class Target(msgspec.Struct, frozen=True):
    """What a tenant would save. `key` names what `arrived` is to look at."""

    config: dict[str, str]
    credentials: dict[str, str]
    key: str = ""

    def __repr__(self) -> str:
        return f"Target({self.key!r})"


class Arrived(msgspec.Struct, frozen=True):
    """One message as the service holds it: the body byte for byte, and the metadata in whatever place the type
    has for it. `extra`: what else the type promises (partition key, content type, message id)."""

    body: bytes
    metadata: dict[str, str]
    extra: dict[str, Any] = {}


class World(abc.ABC):
    """One type's service. Used as `async with SomeWorld() as world`, once a test; what is slow to start is kept
    for the session in the class and ended by `end_session`."""

    type: str
    codes: ClassVar[dict[Case, str]]  # the code of the failed attempt
    cannot: ClassVar[dict[Case, str]] = {}  # why the type or its stand-in has no such case
    settings: dict[str, Any] = {}  # beside DESTINATIONS_ALLOWED_CIDRS=127.0.0.0/8
    success: str = "OK"
    proxy: toxic.Toxic  # in front of the service; a world sets it when it is entered
    cut_bytes = 1  # of an answer, that pass before its connection is cut
    batches = False  # whether one send may carry several events

    @abc.abstractmethod
    async def __aenter__(self) -> Self: ...

    @abc.abstractmethod
    async def __aexit__(self, *_: object) -> None: ...

    @classmethod
    def end_session(cls) -> None:
        """Ends what was kept for the session."""
        return

    @classmethod
    @abc.abstractmethod
    def missing(cls) -> str:
        """What is not on this machine and how to install it; "" if nothing is."""

    @abc.abstractmethod
    async def target(self) -> Target:
        """A fresh target that takes events, addressed through a proxy that `stall`, `cut` and `restart` act on."""

    @abc.abstractmethod
    async def arrived(self, target: Target, count: int, limit_s: float = 10.0) -> list[Arrived]:
        """Exactly what has arrived there by the time that `count` messages have, in any order; fewer if the limit
        passes first."""

    async def wrong_credentials(self, target: Target) -> Target:
        """The same with credentials that the service does not know."""
        raise NotImplementedError

    async def missing_target(self, target: Target) -> Target:
        """The same, naming what does not exist."""
        raise NotImplementedError

    async def no_permission(self, target: Target) -> Target:
        """The same with credentials that are known and may not send there."""
        raise NotImplementedError

    async def throttle(self, target: Target) -> None:
        """From now on the service says that it is too much, until `heal`."""
        raise NotImplementedError

    async def too_large(self, target: Target) -> bytes:
        """A body (JSON) that the service, or its library, does not take."""
        raise NotImplementedError

    async def refuse_one(self, target: Target) -> bytes | None:
        """Makes the service refuse one entry of a batch; the body (JSON) that is refused, or None where it is the
        second one of the next batch whatever it holds."""
        raise NotImplementedError

    async def bad(self, target: Target, event: base.Delivery) -> base.Delivery:
        """`event`, changed so that the service refuses it however it is sent, alone or beside others. Asked before
        `target` is connected to."""
        return msgspec.structs.replace(event, data=await self.too_large(target))

    async def stall(self, target: Target) -> None:
        """From now on it accepts connections and requests and answers nothing, until `heal`."""
        self.proxy.stall()

    async def cut(self, target: Target) -> None:
        """Cuts the connection in the middle of the next send, once."""
        self.proxy.cut_after(self.cut_bytes)

    async def restart(self, target: Target) -> None:
        """Every connection is cut and the listener is gone for a moment; on return it listens again."""
        await self.proxy.refuse()
        await self.proxy.accept()

    async def rotate(self, target: Target) -> Target:
        """New credentials for the same target; the old ones are refused from now on, on new connections."""
        raise NotImplementedError

    async def heal(self) -> None:
        """Behaves again."""
        self.proxy.heal()

    def refused_address(self, target: Target) -> Target:
        """The same at a host that the guard does not permit: 169.254.169.254, or another that is not loopback."""
        raise NotImplementedError

    def connections(self) -> int:
        """Connections that are open to the service now."""
        return self.proxy.open
