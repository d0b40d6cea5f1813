"""Opening and closing what a destination keeps secret: config, credentials and delivery metadata.

The whole config is sealed, because any of its fields may carry a secret: a URL has a user and tokens in its query,
custom headers hold an Authorization, and what the types of other packages keep there is not known here.
"""

from __future__ import annotations

import msgspec

from outpost import crypto
from outpost.adapters import base
from outpost.domain import tenant as tenants

CONFIG, CREDENTIALS, DELIVERY_METADATA = "config", "credentials", "delivery_metadata"

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(dict[str, str]).decode


def seal(sealer: crypto.Sealer, tenant: str, destination: str, field: str, values: dict[str, str]) -> str:
    """The JSON of `values`, sealed for this field of this destination of this tenant."""
    return sealer.seal(_encode(values), tenant=tenant, destination=destination, field=field)


def with_sealed_config(
    sealer: crypto.Sealer, tenant: str, destination: tenants.Destination
) -> tenants.Destination:
    """`destination` as it may be appended: with its config sealed where an entry of schema version 1 left it in
    clear."""
    config = destination.config
    if isinstance(config, str):
        return destination
    return msgspec.structs.replace(destination, config=seal(sealer, tenant, destination.id, CONFIG, config))


def open_destination(sealer: crypto.Sealer, tenant: str, destination: tenants.Destination) -> base.OpenDestination:
    """`destination` with its secrets open. Raises errors.UnsealError."""
    config, metadata = destination.config, destination.delivery_metadata
    return base.OpenDestination(
        tenant=tenant,
        id=destination.id,
        type=destination.type,
        config=_open(sealer, tenant, destination.id, CONFIG, config) if isinstance(config, str) else config,
        credentials=_open(sealer, tenant, destination.id, CREDENTIALS, destination.credentials),
        delivery_metadata=_open(sealer, tenant, destination.id, DELIVERY_METADATA, metadata) if metadata else {},
        topics=destination.topics,
    )


def _open(sealer: crypto.Sealer, tenant: str, destination: str, field: str, text: str) -> dict[str, str]:
    return _decode(sealer.unseal(text, tenant=tenant, destination=destination, field=field))
