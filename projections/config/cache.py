"""Tenants in memory, for publish alone.

A hit costs nothing and may be stale: the version that it was matched against travels with the event, and the
append refuses it if the tenant has moved on. Bounded; the least recently used goes.
"""

from __future__ import annotations

from outpost.domain import tenant as tenants
from outpost.log.redis import client
from projections.config import query

MOST_TENANTS = 10_000


class TenantCache:
    """Tenant id -> state."""

    def __init__(self, log: client.Log, most: int = MOST_TENANTS) -> None:
        self._log = log
        self._most = most
        self._states: dict[str, tenants.TenantState] = {}

    def known(self, tenant: str) -> tenants.TenantState | None:
        """The state in memory, moved to the fresh end."""
        state = self._states.pop(tenant, None)
        if state is not None:
            self._states[tenant] = state
        return state

    async def refresh(self, tenant: str) -> tenants.TenantState:
        """The state with every acknowledged change in it, kept from now on. Raises as `catch_up`."""
        state = await query.fresh(self._log, tenant)
        self._states.pop(tenant, None)
        self._states[tenant] = state
        while len(self._states) > self._most:
            del self._states[next(iter(self._states))]
        return state
