"""Our side of `make bench-destinations`: the senders and publishers of a process with the real adapter, and no
Redis. What stands before them in a server is measured by `outpost bench`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec

from outpost import crypto, errors
from outpost import settings as settings_
from outpost.adapters import base, registry
from outpost.commands import sealing
from outpost.dispatch import publishers, senders
from outpost.domain import delivery, events
from outpost.domain import tenant as tenants
from outpost.queue import base as queues
from projections.config import apply
from tests.benchmarks import load, stand_ins

DESTINATION = "d"
LOOPBACK = ("127.0.0.0/8", "::1/128")


class Counted:
    """A publisher that notes how many events each send carried."""

    def __init__(self, publisher: base.Publisher) -> None:
        self.max_batch = publisher.max_batch
        self.sizes: list[int] = []
        self._publisher = publisher

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        """See base.Publisher."""
        self.sizes.append(len(batch))
        return await self._publisher.send(batch, deadline)

    async def close(self) -> None:
        """See base.Publisher."""
        await self._publisher.close()


class Side:
    """Sends to one destination, at most `at_once` under way. `sizes` are those of the sends so far."""

    def __init__(self, types: registry.Registry, sealer: crypto.Sealer, field: bytes, at_once: int) -> None:
        settings = settings_.Settings()
        limits = senders.Limits(at_once, settings.delivery_timeout_ms, settings.delivery_lease_margin_ms)
        self._publishers = publishers.Publishers(types, sealer)
        self._senders = senders.Senders(self._publishers, limits, self._finished)
        self._field = field
        self._at_once = at_once
        self._counted: Counted | None = None
        self._waiting: Iterator[events.Event] = iter(())
        self._tally = load.Tally()
        self._under_way = 0
        self._over = asyncio.Event()

    async def open(self) -> None:
        """Opens the publisher, as the first delivery would. Raises errors.StartRefused if that fails."""
        lease = await self._publishers.open(load.TENANT, DESTINATION, self._field)
        if lease.publisher is None:
            raise errors.StartRefused(f"no publisher for {lease.type}: {lease.problem}")
        lease.publisher = self._counted = Counted(lease.publisher)
        self._publishers.give_back(lease)

    async def send(self, waiting: Iterator[events.Event], tally: load.Tally) -> None:
        """See load.Send."""
        self._waiting, self._tally = waiting, tally
        self._over.clear()
        self._fill()
        await self._over.wait()

    def sizes(self) -> list[int]:
        """Of the sends since it was asked last."""
        assert self._counted is not None
        found, self._counted.sizes = self._counted.sizes, []
        return found

    async def close(self) -> None:
        """Ends all."""
        await self._senders.close()
        await self._publishers.close()

    def _fill(self) -> None:
        while self._under_way < self._at_once and (event := next(self._waiting, None)) is not None:
            lease = self._publishers.known(load.TENANT, DESTINATION)
            assert lease is not None
            id_ = delivery.TaskId(1, f"1-{self._tally.sent}", DESTINATION, 1)
            self._tally.sent += 1
            self._under_way += 1
            self._senders.put(senders.Sending(queues.Task(0, str(id_), id_, event), False, None, lease))
        self._senders.staff()
        if not self._under_way:
            self._over.set()

    def _finished(self, sending: senders.Sending) -> None:
        assert sending.lease is not None
        self._publishers.give_back(sending.lease)
        self._under_way -= 1
        if isinstance(sending.outcome, delivery.Delivered):
            self._tally.delivered += 1
        else:
            self._tally.failed[sending.outcome.code if sending.outcome else "none"] += 1
        self._fill()


@contextlib.asynccontextmanager
async def opened(type_: str, place: stand_ins.Place, at_once: int) -> AsyncIterator[Side]:
    """The side of a type, saved as a tenant would. Raises errors.StartRefused where that is refused."""
    settings = settings_.Settings(destinations_allowed_cidrs=LOOPBACK)
    types = registry.build(msgspec.structs.replace(settings, **place.settings))
    try:
        sealer = crypto.Sealer(secrets.token_hex(16))
        side = Side(types, sealer, await _saved(types, sealer, type_, place), at_once)
        try:
            await side.open()
            yield side
        finally:
            await side.close()
    finally:
        await types.close()


async def _saved(types: registry.Registry, sealer: crypto.Sealer, type_: str, place: stand_ins.Place) -> bytes:
    """The destination as the read model has it."""
    adapter = types.get(type_)
    assert adapter is not None
    now_ms = time.time_ns() // 1_000_000

    def save(verified: base.Verified = base.NOT_VERIFIED) -> base.Save:
        return base.Save(place.config, place.credentials, None, place.credentials, True, now_ms, verified)

    prepared = adapter.prepare(save(await adapter.verify(save())))
    if prepared.problems:
        told = ", ".join(problem.sentence() for problem in prepared.problems)
        raise errors.StartRefused(f"the {type_} destination of the stand-in is not taken: {told}")
    config = sealing.seal(sealer, load.TENANT, DESTINATION, sealing.CONFIG, prepared.config)
    credentials = sealing.seal(sealer, load.TENANT, DESTINATION, sealing.CREDENTIALS, prepared.credentials)
    return apply.encode_destination(
        tenants.Destination(DESTINATION, type_, ("*",), config, credentials, now_ms, now_ms, created=1, version=1)
    )
