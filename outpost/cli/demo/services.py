"""What `outpost demo` delivers to: the seam of its services, and the simplest of them, a receiver of webhooks.

A service is opened before Outpost is started, so that one that is missing on this machine ends the demo at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from outpost.cli import receiver
from outpost.cli.demo import evidence

PREFIX = "x-outpost-"


class Arrived(msgspec.Struct, frozen=True):
    """An event as its service holds it: `at` in seconds of the monotonic clock, `shown` what the demo tells of it
    beside body and metadata."""

    body: bytes
    metadata: dict[str, str]
    at: float
    shown: dict[str, str] = {}


class Proof(msgspec.Struct, frozen=True):
    """What was checked, as a step of the demo."""

    step: str
    detail: str


class Service(Protocol):
    """One that runs, with a place in it that takes events. `name` is what runs, "" if nothing was started for it;
    `received` the step in which an event has arrived; `code` that of a delivered attempt."""

    type: str
    name: str
    received: str
    code: str
    where: str
    config: dict[str, str]
    credentials: dict[str, str]

    async def next(self, limit_s: float) -> Arrived | None:
        """The next event that is read from the service; None if none comes in time."""

    def verify(self, credentials: dict[str, str]) -> Proof:
        """What was checked of the last event: body, event id and topic are as they have to be, and the service
        adds what else has to hold. `credentials` are those of the destination. Raises errors.OutpostError."""


class Webhook:
    """See Service."""

    type = "webhook"
    name = ""
    received = "webhook received"
    code = "200"

    def __init__(self, listening: receiver.Receiver) -> None:
        self._receiver = listening
        self._last: receiver.Webhook | None = None
        self.where = listening.url
        self.config = {"url": listening.url}
        self.credentials: dict[str, str] = {}

    async def next(self, limit_s: float) -> Arrived | None:
        """The next request."""
        self._last = webhook = await self._receiver.next(limit_s)
        if webhook is None:
            return None
        headers = webhook.headers.items()
        metadata = {name.removeprefix(PREFIX): value for name, value in headers if name.startswith(PREFIX)}
        return Arrived(webhook.body, metadata, webhook.at)

    def verify(self, credentials: dict[str, str]) -> Proof:
        """The signature."""
        assert self._last is not None
        evidence.check(
            receiver.is_signed(self._last, credentials.get("secret", "")),
            "the signature is not the one of this body and secret",
        )
        return Proof("signature verified: HMAC-SHA256 of the body", self._last.headers["x-outpost-signature"])


@contextlib.asynccontextmanager
async def webhook() -> AsyncIterator[Service]:
    """A receiver in this process."""
    async with receiver.listening() as listening:
        yield Webhook(listening)
