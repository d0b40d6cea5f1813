"""What an entry of `cfg` does to the read model; pure.

One hash a tenant holds `version`, `tenant` (JSON) and a field `d:<destination>` for each destination. That field
is `created version enabled JSON`: the numbers stand in front so that the `begin` script need not decode JSON.
A deleted tenant keeps its hash with the version alone, because versions only grow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from outpost.domain import events
from outpost.domain import tenant as tenants

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode_destination = msgspec.json.Decoder(tenants.Destination).decode
_decode_tenant = msgspec.json.Decoder(tenants.Tenant).decode

FIELD_PREFIX = b"d:"


class Write(msgspec.Struct, frozen=True):
    """One write: a command on the hash of `tenant`, or on the listing of its partition."""

    command: Literal["HSET", "HDEL", "DEL", "ZADD", "ZREM"]
    target: Literal["tenant", "listing"]
    tenant: str
    args: tuple[bytes | str | int, ...] = ()


Entry = events.ConfigChanged | events.VersionSkipped


def apply(entries: Iterable[Entry]) -> list[Write]:
    """The writes of these entries, in order. The same for every way of cutting the stream into batches."""
    writes: list[Write] = []
    for entry in entries:
        if isinstance(entry, events.VersionSkipped):
            writes.append(Write("HSET", "tenant", entry.tenant, ("version", entry.version)))
        else:
            writes += _apply_one(entry.tenant, entry.change)
    return writes


def _apply_one(tenant: str, change: tenants.Change) -> list[Write]:
    match change.type, change.state:
        case ("tenant.created" | "tenant.updated", tenants.Tenant() as state):
            return [
                Write("HSET", "tenant", tenant, ("version", change.version, "tenant", _encode(state))),
                Write("ZADD", "listing", tenant, (state.created_ms, tenant)),
            ]
        case ("tenant.deleted", _):
            return [
                Write("DEL", "tenant", tenant),
                Write("HSET", "tenant", tenant, ("version", change.version)),
                Write("ZREM", "listing", tenant, (tenant,)),
            ]
        case ("destination.deleted", _):
            return [
                Write("HDEL", "tenant", tenant, (f"d:{change.id}",)),
                Write("HSET", "tenant", tenant, ("version", change.version)),
            ]
        case (_, tenants.Destination() as state):
            field = encode_destination(state)
            return [Write("HSET", "tenant", tenant, ("version", change.version, f"d:{change.id}", field))]
    raise ValueError(f"{change.type} carries no state")


def encode_destination(destination: tenants.Destination) -> bytes:
    """The field of a destination."""
    enabled = 1 if destination.enabled else 0
    return b"%d %d %d %s" % (destination.created, destination.version, enabled, _encode(destination))


def size(thing: tenants.Tenant | tenants.Destination | None) -> int:
    """The bytes of a tenant or a destination in the read model."""
    if thing is None:
        return 0
    return len(encode_destination(thing) if isinstance(thing, tenants.Destination) else _encode(thing))


def decode_destination(field: bytes) -> tenants.Destination:
    """The inverse of `encode_destination`."""
    return _decode_destination(field.split(b" ", 3)[3])


def decode_state(fields: dict[bytes, bytes]) -> tenants.TenantState:
    """The aggregate that a tenant's hash holds; the empty state for an empty hash."""
    if not fields:
        return tenants.TenantState()
    tenant = fields.get(b"tenant")
    destinations = [decode_destination(v) for k, v in fields.items() if k.startswith(FIELD_PREFIX)]
    return tenants.TenantState(
        version=int(fields[b"version"]),
        tenant=None if tenant is None else _decode_tenant(tenant),
        destinations={d.id: d for d in sorted(destinations, key=lambda d: (d.created_ms, d.created))},
    )
