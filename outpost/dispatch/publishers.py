"""The open publishers of a process, by destination and version.

A version names the destination's state, so that a changed config, a rotated secret or new delivery metadata takes
effect at the next delivery. Bounded, least recently used out; one that is still sending is closed afterwards.
"""

from __future__ import annotations

import asyncio

import msgspec

from outpost import crypto, errors, pacing, telemetry
from outpost.adapters import base
from outpost.adapters import registry as registries
from outpost.commands import sealing
from outpost.domain import tenant as tenants
from projections.config import apply

MOST = 10_000
IDLE_S = 60.0  # a publisher that was not used for so long is closed

Place = tuple[str, str]  # tenant, destination


class Lease(msgspec.Struct):
    """A publisher in use. `publisher` is None where the stored destination cannot be used: `problem` says why."""

    place: Place
    version: int
    type: str
    publisher: base.Publisher | None
    problem: str = ""
    users: int = 0
    retired: bool = False
    used_at: float = 0.0


class Publishers:
    """Tenant and destination -> publisher of the newest version this process has seen."""

    def __init__(self, types: registries.Registry, sealer: crypto.Sealer, most: int = MOST) -> None:
        self._types = types
        self._sealer = sealer
        self._most = most
        self._leases: dict[Place, Lease] = {}
        self._building: dict[tuple[Place, int], asyncio.Future[Lease]] = {}

    def known(self, tenant: str, destination: str) -> Lease | None:
        """What is open for a destination, moved to the fresh end; counts as used from now until `give_back`."""
        lease = self._leases.pop((tenant, destination), None)
        if lease is not None:
            self._leases[tenant, destination] = lease
            self._use(lease)
        return lease

    async def open(self, tenant: str, destination: str, field: bytes) -> Lease:
        """The publisher of the state that `field` holds, built once under concurrent first use; in use until
        `give_back`. Closes the one of an older version."""
        stored = apply.decode_destination(field)
        place = (tenant, destination)
        lease = self._leases.get(place)
        if lease is None or lease.version != stored.version:
            building = self._building.get((place, stored.version))
            if building is None:
                building = asyncio.ensure_future(self._build(tenant, stored))
                self._building[place, stored.version] = building
                building.add_done_callback(lambda _: self._building.pop((place, stored.version)))
            lease = await asyncio.shield(building)
            self._use(lease)
            await self._keep(lease)
            return lease
        self._use(lease)
        return lease

    async def give_back(self, lease: Lease) -> None:
        """The end of a use."""
        lease.users -= 1
        if lease.retired and not lease.users:
            await _close(lease)

    async def run(self, stop: asyncio.Event) -> None:
        """Closes idle ones now and then, until `stop`."""
        while not stop.is_set():
            await pacing.sleep(IDLE_S / 4, stop)
            await self.close_idle()

    async def close_idle(self) -> None:
        """Closes what was not used for `IDLE_S`; called now and then."""
        edge = asyncio.get_running_loop().time() - IDLE_S
        for lease in [le for le in self._leases.values() if le.used_at < edge and not le.users]:
            await self._retire(lease)

    async def close(self) -> None:
        """Closes all."""
        for lease in list(self._leases.values()):
            await self._retire(lease)

    def _use(self, lease: Lease) -> None:
        lease.users += 1
        lease.used_at = asyncio.get_running_loop().time()

    async def _build(self, tenant: str, stored: tenants.Destination) -> Lease:
        place = (tenant, stored.id)
        adapter = self._types.get(stored.type)
        if adapter is None:
            return Lease(place, stored.version, stored.type, None, "client_creation_failed")
        try:
            publisher = await adapter.connect(sealing.open_destination(self._sealer, tenant, stored))
        except (errors.Invalid, errors.UnsealError) as exc:
            telemetry.emit(
                "publisher_refused", "warning", tenant=tenant, destination=stored.id, kind=type(exc).__name__
            )
            return Lease(place, stored.version, stored.type, None, "validation_failed")
        return Lease(place, stored.version, stored.type, publisher)

    async def _keep(self, lease: Lease) -> None:
        old = self._leases.pop(lease.place, None)
        if old is not None and old.version > lease.version:  # a slower build of an older state
            self._leases[lease.place] = old
            lease.retired = True
            return
        self._leases[lease.place] = lease
        if old is not None and old is not lease:
            await self._retire(old)
        while len(self._leases) > self._most:
            await self._retire(next(iter(self._leases.values())))

    async def _retire(self, lease: Lease) -> None:
        if self._leases.get(lease.place) is lease:
            del self._leases[lease.place]
        lease.retired = True
        if not lease.users:
            await _close(lease)


async def _close(lease: Lease) -> None:
    publisher, lease.publisher = lease.publisher, None
    if publisher is not None:
        await publisher.close()
