"""What one tenant holds of a process. Its lanes share this record, so that a count costs no look-up.

Rule B4 of docs/bounds.md: a tenant holds a share of the send slots, of the tasks that wait and of the bytes of
their payloads, never all of them. Of what waits it may hold a share of what the others leave, so that several
tenants that flood leave room too (dynamic thresholds; Choudhury and Hahne, 1998).
"""

from __future__ import annotations

import msgspec


class Tenant(msgspec.Struct, gc=False):
    """The counts of one tenant over all of its lanes."""

    name: str
    lanes: int = 0
    waiting: int = 0
    waiting_bytes: int = 0  # of payloads
    in_flight: int = 0
    in_flight_bytes: int = 0  # of their payloads
    doubtful_in_flight: int = 0  # of them to destinations that have not answered lately


class Tenants:
    """The tenants that have a lane in this process."""

    def __init__(self) -> None:
        self._tenants: dict[str, Tenant] = {}

    def __len__(self) -> int:
        return len(self._tenants)

    def of(self, name: str) -> Tenant:
        """The record of a tenant, a new one if it has no lane yet."""
        return self._tenants.get(name) or Tenant(name)

    def lane_opened(self, tenant: Tenant) -> None:
        """The tenant has one more lane."""
        if not tenant.lanes:
            self._tenants[tenant.name] = tenant
        tenant.lanes += 1

    def lane_closed(self, tenant: Tenant) -> None:
        """The tenant has one lane less; without any it is forgotten."""
        tenant.lanes -= 1
        if not tenant.lanes:
            del self._tenants[tenant.name]
