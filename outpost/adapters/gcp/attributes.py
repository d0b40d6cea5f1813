"""Metadata as the attributes of a Pub/Sub message: what the service would refuse is left out, and the event
arrives.

The limits are those of https://cloud.google.com/pubsub/quotas#resource_limits.
"""

from __future__ import annotations

from collections.abc import Mapping

MAX_ATTRIBUTES = 100
MAX_KEY_BYTES = 256
MAX_VALUE_BYTES = 1_024
_RESERVED = "goog"  # how keys of Google's own begin


def fitting(metadata: Mapping[str, str]) -> tuple[Mapping[str, str], list[str]]:
    """The attributes, and the keys that are left out. Those that come first are kept: the system's come before
    delivery metadata and the event's."""
    if len(metadata) <= MAX_ATTRIBUTES and all(_fits(key, value) for key, value in metadata.items()):
        return metadata, []
    fit = [key for key, value in metadata.items() if _fits(key, value)][:MAX_ATTRIBUTES]
    kept = {key: metadata[key] for key in fit}
    return kept, [key for key in metadata if key not in kept]


def _fits(key: str, value: str) -> bool:
    return (
        0 < len(key) <= MAX_KEY_BYTES
        and len(value) <= MAX_VALUE_BYTES
        and not key.startswith(_RESERVED)
        and len(key.encode("utf-8", "replace")) <= MAX_KEY_BYTES
        and len(value.encode("utf-8", "replace")) <= MAX_VALUE_BYTES
    )
