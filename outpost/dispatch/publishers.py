"""The open publishers of a process, by destination and version.

A version names the destination's state, so that a changed config, a rotated secret or new delivery metadata takes
effect at the next delivery. Their number is bounded: the least recently used one of the tenants that have the most
makes room. One that is still sending is closed afterwards.
"""

from __future__ import annotations

import asyncio
import functools

import msgspec

from outpost import crypto, errors, pacing, telemetry
from outpost.adapters import base
from outpost.adapters import registry as registries
from outpost.adapters.shared import redaction, secret_values
from outpost.commands import sealing
from outpost.dispatch.fairness import shares
from outpost.domain import tenant as tenants
from projections.config import apply

MOST = 10_000
CLOSE_S = 10.0  # what a publisher may take to close
FAILED_S = 5.0  # how long a failed build answers for those that come after it
IDLE_S = 60.0  # a publisher that was not used for so long is closed

Place = shares.Place
NO_SECRETS = redaction.of(())  # of what cannot be sent to


class Kin:
    """The leases of one type, the least recently used one first, and how many each tenant has."""

    def __init__(self) -> None:
        self.leases: dict[Place, Lease] = {}
        self.shares = shares.Shares()


class Lease(msgspec.Struct):
    """A publisher in use. `publisher` is None where the stored destination cannot be used: `problem` says why.
    `kin`: those of its type, where the type bounds their number below `MOST`.
    `again_at`: when a build that failed for a reason that may pass is tried again (the loop's clock).
    `redactor` cuts the destination's secrets out of what its receiver says."""

    place: Place
    version: int
    type: str
    publisher: base.Publisher | None
    problem: str = ""
    kin: Kin | None = None
    users: int = 0
    retired: bool = False
    used_at: float = 0.0
    again_at: float | None = None
    redactor: redaction.Redactor = NO_SECRETS


class _Building(msgspec.Struct):
    """A publisher that is being built, and how many wait for it; `lease` when it is there."""

    task: asyncio.Task[Lease]
    waiting: int = 0
    lease: Lease | None = None


class Publishers:
    """Tenant and destination -> publisher of the newest version this process has seen."""

    def __init__(self, types: registries.Registry, sealer: crypto.Sealer, most: int = MOST) -> None:
        self._types = types
        self._sealer = sealer
        self._most = most
        self._leases: dict[Place, Lease] = {}  # the least recently used one first
        self._shares = shares.Shares()
        self._kin: dict[str, Kin] = {}
        self._building: dict[tuple[Place, int], _Building] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def known(self, tenant: str, destination: str) -> Lease | None:
        """What is open for a destination, moved to the fresh end; counts as used from now until `give_back`."""
        place = (tenant, destination)
        lease = self._leases.pop(place, None)
        if lease is not None:
            self._leases[place] = lease
            if lease.again_at is not None:
                return None  # `open` looks whether its time has come
            if lease.kin is not None:
                del lease.kin.leases[place]
                lease.kin.leases[place] = lease
            self._use(lease)
        return lease

    async def open(self, tenant: str, destination: str, field: bytes) -> Lease:
        """The publisher of the state that `field` holds, built once under concurrent first use; in use until
        `give_back`. Closes the one of an older version."""
        stored = apply.decode_destination(field)
        place = (tenant, destination)
        lease = self._leases.get(place)
        if lease is not None and lease.again_at is not None and lease.again_at < asyncio.get_running_loop().time():
            self._retire(lease)
            lease = None
        if lease is None or lease.version != stored.version:
            return await self._built(tenant, stored)
        self._use(lease)
        return lease

    def give_back(self, lease: Lease) -> None:
        """The end of a use."""
        lease.users -= 1
        if lease.retired and not lease.users:
            self._close(lease)

    async def run(self, stop: asyncio.Event) -> None:
        """Closes idle ones now and then, until `stop`."""
        while not stop.is_set():
            await pacing.sleep(IDLE_S / 4, stop)
            self.close_idle()

    def close_idle(self) -> None:
        """Closes what was not used for `IDLE_S`; called now and then."""
        edge = asyncio.get_running_loop().time() - IDLE_S
        for lease in [le for le in self._leases.values() if le.used_at < edge and not le.users]:
            self._retire(lease)

    async def close(self) -> None:
        """Closes all, whoever uses it, and waits for what was being closed."""
        building = [building.task for building in self._building.values()]
        for task in building:
            task.cancel()
        await asyncio.gather(*building, return_exceptions=True)
        for lease in list(self._leases.values()):
            self._retire(lease)
            self._close(lease)
        await self.closed()

    async def closed(self) -> None:
        """Until what is being closed now is."""
        await asyncio.gather(*self._closing)

    def _use(self, lease: Lease) -> None:
        lease.users += 1
        lease.used_at = asyncio.get_running_loop().time()

    async def _built(self, tenant: str, stored: tenants.Destination) -> Lease:
        """Waits for the one build of this state. Who gives up does not take the others with it."""
        key = ((tenant, stored.id), stored.version)
        building = self._building.get(key)
        if building is None:
            building = _Building(asyncio.create_task(self._build(tenant, stored)))
            self._building[key] = building
            building.task.add_done_callback(lambda _: self._ready(key))
        building.waiting += 1
        try:
            return await asyncio.shield(building.task)
        except asyncio.CancelledError:
            if building.lease is None:
                building.waiting -= 1
            else:
                self.give_back(building.lease)
            raise

    def _ready(self, key: tuple[Place, int]) -> None:
        """Keeps what was built, in use by all who wait for it, before the first of them goes on."""
        building = self._building.pop(key)
        if building.task.cancelled() or building.task.exception() is not None:
            return
        lease = building.lease = building.task.result()
        lease.users = building.waiting
        lease.used_at = asyncio.get_running_loop().time()
        self._keep(lease)

    async def _build(self, tenant: str, stored: tenants.Destination) -> Lease:
        place = (tenant, stored.id)
        adapter = self._types.get(stored.type)
        if adapter is None or adapter.description.unavailable:
            problem = "client_creation_failed" if adapter is None else str(adapter.description.unavailable)
            return Lease(place, stored.version, stored.type, None, problem)
        try:
            opened = sealing.open_destination(self._sealer, tenant, stored)
            redactor = redaction.Redactor(functools.partial(secret_values.of, adapter.description, opened))
            publisher = await adapter.connect(opened)
        except (errors.Invalid, errors.UnsealError) as exc:
            telemetry.emit(
                "publisher_refused", "warning", tenant=tenant, destination=stored.id, kind=type(exc).__name__
            )
            return Lease(place, stored.version, stored.type, None, "validation_failed")
        except Exception as exc:  # noqa: BLE001 -- a fault of an adapter is a failed attempt, not a lost one
            telemetry.emit_sampled("adapter_failed", "error", kind=type(exc).__name__, destination=stored.id)
            again_at = asyncio.get_running_loop().time() + FAILED_S
            return Lease(place, stored.version, stored.type, None, "client_creation_failed", again_at=again_at)
        kin = self._kin.setdefault(stored.type, Kin()) if adapter.max_open < self._most else None
        return Lease(place, stored.version, stored.type, publisher, kin=kin, redactor=redactor)

    def _keep(self, lease: Lease) -> None:
        old = self._leases.get(lease.place)
        if old is not None and old.version > lease.version:  # a slower build of an older state
            self._retire(lease)
            return
        if old is not None:
            self._retire(old)
        self._leases[lease.place] = lease
        self._shares.take(lease.place)
        if lease.kin is not None:
            lease.kin.leases[lease.place] = lease
            lease.kin.shares.take(lease.place)
            adapter = self._types.get(lease.type)
            while adapter is not None and len(lease.kin.leases) > adapter.max_open:
                self._retire(self._leases[lease.kin.shares.surplus(lease.kin.leases)])
        while len(self._leases) > self._most:
            self._retire(self._leases[self._shares.surplus(self._leases)])

    def _retire(self, lease: Lease) -> None:
        if self._leases.get(lease.place) is lease:
            del self._leases[lease.place]
            self._shares.give(lease.place)
        if lease.kin is not None and lease.kin.leases.get(lease.place) is lease:
            del lease.kin.leases[lease.place]
            lease.kin.shares.give(lease.place)
        lease.retired = True
        if not lease.users:
            self._close(lease)

    def _close(self, lease: Lease) -> None:
        """Beside whoever caused it: closing may take as long as the service does."""
        publisher, lease.publisher = lease.publisher, None
        if publisher is not None:
            task = asyncio.create_task(_close(publisher, lease))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


async def _close(publisher: base.Publisher, lease: Lease) -> None:
    try:
        async with asyncio.timeout(CLOSE_S):
            await publisher.close()
    except Exception as exc:  # noqa: BLE001 -- a fault of an adapter, which nobody can act on here
        telemetry.emit_sampled("adapter_failed", "error", kind=type(exc).__name__, destination=lease.place[1])
