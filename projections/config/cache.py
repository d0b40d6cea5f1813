"""Tenants in memory, for publish alone.

A hit costs nothing and may be stale: the version that it was matched against travels with the event, and the
append refuses it if the tenant has moved on. Bounded in tenants and in bytes; the least recently used goes.
"""

from __future__ import annotations

from outpost.domain import tenant as tenants
from outpost.log.redis import client
from projections.config import query

MOST_TENANTS = 10_000
MAX_BYTES = 64 * 1024 * 1024  # of memory, estimated: 10,000 tenants with one destination are about 16 MiB


class TenantCache:
    """Tenant id -> state."""

    def __init__(self, log: client.Log, most: int = MOST_TENANTS, max_bytes: int = MAX_BYTES) -> None:
        self._log = log
        self._most, self._max_bytes = most, max_bytes
        self._states: dict[str, tenants.TenantState] = {}
        self._sizes: dict[str, int] = {}
        self._bytes = 0

    def known(self, tenant: str) -> tenants.TenantState | None:
        """The state in memory, moved to the fresh end."""
        state = self._states.pop(tenant, None)
        if state is not None:
            self._states[tenant] = state
        return state

    async def refresh(self, tenant: str) -> tenants.TenantState:
        """The state with every acknowledged change in it, kept from now on unless it alone is larger than the
        bound. Raises as `catch_up`."""
        found = await query.measured(self._log, tenant)
        self._forget(tenant)
        self._states[tenant], self._sizes[tenant] = found.state, found.memory
        self._bytes += found.memory
        while len(self._states) > self._most or self._bytes > self._max_bytes:
            self._forget(next(iter(self._states)))
        return found.state

    def _forget(self, tenant: str) -> None:
        self._states.pop(tenant, None)
        self._bytes -= self._sizes.pop(tenant, 0)
