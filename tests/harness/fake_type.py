"""A destination type for tests of those who use types: it connects, sends and closes when the test lets it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from outpost import crypto
from outpost.adapters import base
from outpost.commands import sealing
from outpost.domain import delivery
from outpost.domain import tenant as tenants
from projections.config import apply

SEALER = crypto.Sealer("secret-of-the-test")


class Publisher:
    """Its outcomes have the ids of the events as their codes."""

    def __init__(self, adapter: Adapter, destination: base.OpenDestination) -> None:
        self.max_batch = adapter.max_batch
        self.destination = destination
        self.closed = False
        self._adapter = adapter

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        self._adapter.batches.append([event.event_id for event in batch])
        self._adapter.deadlines.append(deadline)
        await self._adapter.sending.wait()
        if self._adapter.send_failure is not None:
            raise self._adapter.send_failure
        return [delivery.Delivered(event.event_id) for event in batch]

    async def close(self) -> None:
        assert not self.closed
        await self._adapter.closing.wait()
        self.closed = True


class Adapter:
    """Type `name`. Clear `gate`, `sending` or `closing` to make connecting, sending or closing wait."""

    def __init__(self, name: str = "fake", *, max_open: int = 10_000, max_batch: int = 1) -> None:
        self.description = base.DestinationType(name, "", "", "", "", [], [])
        self.max_open = max_open
        self.max_batch = max_batch
        self.connects = 0  # begun
        self.built: list[Publisher] = []
        self.batches: list[list[str]] = []  # the ids of the events of each send
        self.deadlines: list[float] = []
        self.gate, self.sending, self.closing = asyncio.Event(), asyncio.Event(), asyncio.Event()
        for event in (self.gate, self.sending, self.closing):
            event.set()
        self.failure: Exception | None = None
        self.send_failure: BaseException | None = None

    def prepare(self, save: base.Save) -> base.Prepared:
        return base.Prepared(save.config, save.credentials)

    async def verify(self, save: base.Save) -> base.Verified:
        return base.NOT_VERIFIED

    def target(self, destination: base.OpenDestination) -> tuple[str, str | None]:
        return "", None

    def shown_credentials(self, credentials: Mapping[str, str], now_ms: int) -> dict[str, str]:
        return dict(credentials)

    async def connect(self, destination: base.OpenDestination) -> Publisher:
        self.connects += 1
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.built.append(Publisher(self, destination))
        return self.built[-1]

    async def close(self) -> None:
        return


def field(
    version: int,
    *,
    tenant: str = "t",
    id_: str = "d",
    type_: str = "fake",
    url: str = "u",
    sealer: crypto.Sealer = SEALER,
) -> bytes:
    """The read model's field of destination `id_` of `tenant`, as it was changed last by `version`."""
    credentials = sealing.seal(sealer, tenant, id_, "credentials", {"key": "k"})
    config = sealing.seal(sealer, tenant, id_, "config", {"url": url})
    destination = tenants.Destination(id_, type_, ("*",), config, credentials, 1, 1, created=1, version=version)
    return apply.encode_destination(destination)
