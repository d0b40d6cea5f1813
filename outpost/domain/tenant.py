"""The aggregate: a tenant with its destinations, and the only rules that decide how it may change.

`decide(state, command) -> Change | Refusal` and `evolve(state, change) -> state`, both pure. The version counts
the changes of a tenant id, survives its deletion and only grows (0: never existed). Config, credentials and
delivery metadata are sealed text here; only the commands and the adapters see them open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from outpost.domain import topics

ChangeType = Literal[
    "tenant.created",
    "tenant.updated",
    "tenant.deleted",
    "destination.created",
    "destination.updated",
    "destination.enabled",
    "destination.disabled",
    "destination.deleted",
    "destination.secret_rotated",
]

ChangeKind = Literal[
    "destination.updated", "destination.enabled", "destination.disabled", "destination.secret_rotated"
]


class Tenant(msgspec.Struct, frozen=True):
    """What the operator says of a tenant; times in Unix milliseconds."""

    id: str
    metadata: dict[str, str] | None
    created_ms: int
    updated_ms: int


class Destination(msgspec.Struct, frozen=True):
    """A destination as the log holds it. `created` and `version` are the tenant versions that made it and that
    last changed it; `config`, `credentials` and `delivery_metadata` are sealed JSON objects, but entries of schema
    version 1 hold the config in clear; `disabled_reason` is there where it was nobody's wish that disabled it."""

    id: str
    type: str
    topics: tuple[str, ...]
    config: str | dict[str, str]
    credentials: str
    created_ms: int
    updated_ms: int
    filter: dict[str, object] | None = None
    delivery_metadata: str | None = None
    metadata: dict[str, str] | None = None
    disabled_ms: int | None = None
    created: int = 0
    version: int = 0
    disabled_reason: str | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"Destination({self.id!r}, {self.type!r}, version={self.version})"

    @property
    def enabled(self) -> bool:
        return self.disabled_ms is None


class TenantState(msgspec.Struct, frozen=True):
    """A tenant id at one version. `tenant` is None before it exists and after it was deleted."""

    version: int = 0
    tenant: Tenant | None = None
    destinations: Mapping[str, Destination] = {}

    def topics(self, *, wildcards: bool = True) -> list[str]:
        """The sorted union of the destinations' topics; `["*"]` if one takes everything. Without `wildcards`
        patterns do not count."""
        return topics.union(topics.effective(d.topics, wildcards=wildcards) for d in self.destinations.values())


class UpsertTenant(msgspec.Struct, frozen=True, tag=True):
    """Creates the tenant, or replaces its metadata."""

    id: str
    metadata: dict[str, str] | None
    now_ms: int


class DeleteTenant(msgspec.Struct, frozen=True, tag=True):
    """Deletes the tenant and with it every destination."""

    id: str


class CreateDestination(msgspec.Struct, frozen=True, tag=True):
    """Adds `destination`, if its id is free and fewer than `limit` exist."""

    destination: Destination
    limit: int


class ChangeDestination(msgspec.Struct, frozen=True):
    """Puts `destination` in the place of its namesake; `type` says what it was about."""

    destination: Destination
    type: ChangeKind


class DeleteDestination(msgspec.Struct, frozen=True, tag=True):
    """Removes one destination."""

    id: str


Command = UpsertTenant | DeleteTenant | CreateDestination | ChangeDestination | DeleteDestination


class Change(msgspec.Struct, frozen=True):
    """One entry of `cfg` to be: full state after it, `None` where the thing is gone."""

    type: ChangeType
    version: int
    id: str = ""
    state: Tenant | Destination | None = None


class Refusal(msgspec.Struct, frozen=True):
    """Why a command may not happen: `not_found` of a thing, or a published sentence."""

    reason: Literal["tenant_not_found", "destination_not_found", "destination_exists", "too_many_destinations"]


def decide(state: TenantState, command: Command) -> Change | Refusal:
    """What `command` does to `state`, as the next version."""
    version = state.version + 1
    if isinstance(command, UpsertTenant):
        old = state.tenant
        created_ms = old.created_ms if old else command.now_ms
        tenant = Tenant(command.id, command.metadata, created_ms, command.now_ms)
        return Change("tenant.updated" if old else "tenant.created", version, state=tenant)
    if state.tenant is None:
        return Refusal("tenant_not_found")
    match command:
        case DeleteTenant():
            return Change("tenant.deleted", version)
        case CreateDestination(destination, limit):
            if destination.id in state.destinations:
                return Refusal("destination_exists")
            if len(state.destinations) >= limit:
                return Refusal("too_many_destinations")
            made = msgspec.structs.replace(destination, created=version, version=version)
            return Change("destination.created", version, made.id, made)
        case ChangeDestination(destination, type_):
            present = state.destinations.get(destination.id)
            if present is None:
                return Refusal("destination_not_found")
            changed = msgspec.structs.replace(destination, created=present.created, version=version)
            return Change(type_, version, changed.id, changed)
        case DeleteDestination(id):
            if id not in state.destinations:
                return Refusal("destination_not_found")
            return Change("destination.deleted", version, id)


def evolve(state: TenantState, change: Change) -> TenantState:
    """`state` after `change`."""
    match change.type, change.state:
        case ("tenant.created" | "tenant.updated", Tenant() as tenant):
            return TenantState(change.version, tenant, state.destinations)
        case ("tenant.deleted", _):
            return TenantState(change.version)
        case ("destination.deleted", _):
            rest = {k: v for k, v in state.destinations.items() if k != change.id}
            return TenantState(change.version, state.tenant, rest)
        case (_, Destination() as destination):
            return TenantState(change.version, state.tenant, {**state.destinations, change.id: destination})
    raise ValueError(f"{change.type} carries no state")
