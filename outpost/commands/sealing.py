"""Opening and closing what a destination keeps secret: credentials and delivery metadata."""

from __future__ import annotations

import msgspec

from outpost import crypto
from outpost.adapters import base
from outpost.domain import tenant as tenants

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(dict[str, str]).decode


def seal(sealer: crypto.Sealer, tenant: str, destination: str, field: str, values: dict[str, str]) -> str:
    """The JSON of `values`, sealed for this field of this destination of this tenant."""
    return sealer.seal(_encode(values), tenant=tenant, destination=destination, field=field)


def open_destination(sealer: crypto.Sealer, tenant: str, destination: tenants.Destination) -> base.OpenDestination:
    """`destination` with its secrets open. Raises errors.UnsealError."""
    credentials = _open(sealer, tenant, destination.id, "credentials", destination.credentials)
    metadata = destination.delivery_metadata
    return base.OpenDestination(
        tenant=tenant,
        id=destination.id,
        type=destination.type,
        config=destination.config,
        credentials=credentials,
        delivery_metadata=_open(sealer, tenant, destination.id, "delivery_metadata", metadata) if metadata else {},
        topics=destination.topics,
    )


def _open(sealer: crypto.Sealer, tenant: str, destination: str, field: str, text: str) -> dict[str, str]:
    return _decode(sealer.unseal(text, tenant=tenant, destination=destination, field=field))
