"""Load, decide, append: the one way in which a tenant changes.

Optimistic: the append is fenced by the version that was decided on, and a writer that lost reads again and decides
again. What was appended is brought into the read model before it is acknowledged. Where that fails, `begin` still
sees the new version and begins nothing before the read model shows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable

import msgspec

from outpost import errors
from outpost.commands import actor as actors
from outpost.domain import events
from outpost.domain import tenant as tenants
from outpost.log import append, envelope
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.redis import client
from projections.config import apply, catch_up, query

MAX_TENANT_BYTES = 16 * 1024 * 1024  # of a tenant with its destinations, which are read together
TRIES = 5  # against the same tenant being changed by other processes; then the caller is told to come again


class Written(msgspec.Struct, frozen=True):
    """What a command did: the state before and after, and where the change stands in the log."""

    before: tenants.TenantState
    after: tenants.TenantState
    change: tenants.Change
    position: positions.Position


class Writer:
    """Appends changes to `cfg`."""

    def __init__(self, log: client.Log, window: append.Window) -> None:
        self.log = log
        self._window = window
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def execute(
        self, tenant: str, actor: actors.Actor, plan: Callable[[tenants.TenantState], tenants.Command | None]
    ) -> Written | tenants.TenantState:
        """Runs the command that `plan` makes of the present state; where it makes none, nothing is to change and
        the state comes back.

        Raises what `plan` raises, errors.NotFound, errors.Refused, errors.Contended, errors.Halted and
        errors.StoreUnavailable.
        """
        turn = self._turns.setdefault(tenant, asyncio.Lock())
        async with turn:  # of this process; the fence is for the others
            return await self._execute(tenant, actor, plan)

    async def _execute(
        self, tenant: str, actor: actors.Actor, plan: Callable[[tenants.TenantState], tenants.Command | None]
    ) -> Written | tenants.TenantState:
        partition = partitions.partition_of(tenant)
        for _ in range(TRIES):
            found = await query.measured(self.log, tenant)
            state = found.state
            command = plan(state)
            if command is None:
                return state
            change = tenants.decide(state, command)
            if isinstance(change, tenants.Refusal):
                raise _refused(change)
            _check_size(found, change)
            item = append.Item(
                tenant=tenant,
                mark=f"{tenant}\0\0{actor.by}",
                request=actor.by,
                fields=envelope.encode_change(events.ConfigChanged(tenant, actor.by, change)),
                expected=state.version,
                following=change.version,
            )
            answer = (await append.append(self.log, "cfg", {partition: [item]}, self._window))[partition][0]
            if not isinstance(answer, append.Stale):
                await self._show(partition, answer.position)
                return Written(state, tenants.evolve(state, change), change, answer.position)
        raise errors.Contended(tenant)

    async def _show(self, partition: int, position: positions.Position) -> None:
        """Brings the read model up to a change. Where that fails the command has happened all the same: the next
        reader catches up."""
        with contextlib.suppress(errors.OutpostError):
            await catch_up.catch_up(self.log, partition, position.entry_id)


def _check_size(found: query.Measured, change: tenants.Change) -> None:
    """Raises errors.Refused where a change makes a tenant larger than it may be. Enabling and disabling pass: they
    add a time and a reason."""
    if change.type in ("destination.enabled", "destination.disabled"):
        return
    before: tenants.Tenant | tenants.Destination | None = found.state.destinations.get(change.id)
    if change.type.startswith("tenant."):
        before = found.state.tenant
    growth = apply.size(change.state) - apply.size(before)
    if growth > 0 and found.size + growth > MAX_TENANT_BYTES:
        raise errors.Refused(f"a tenant with its destinations may have {MAX_TENANT_BYTES} bytes")


def _refused(refusal: tenants.Refusal) -> errors.OutpostError:
    match refusal.reason:
        case "tenant_not_found":
            return errors.NotFound("tenant")
        case "destination_not_found":
            return errors.NotFound("destination")
        case "destination_exists":
            return errors.Refused("destination already exists")
        case "too_many_destinations":
            return errors.Refused("maximum number of destinations per tenant reached")
