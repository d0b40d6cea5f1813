"""Old schema versions brought up to date, as pure functions from fields to fields.

Every version that was ever written is read for ever. Version 1 is the first and the newest, so there is nothing to
convert yet; a new version adds its function here and a golden file beside the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from outpost.domain import events

Fields = Mapping[bytes, bytes]

# (type, version) -> the same entry as version + 1
UPCASTERS: dict[tuple[str, int], Callable[[Fields], Fields]] = {}


def upcast(type_: str, version: int, fields: Fields) -> Fields:
    """`fields` at the newest version. Raises ValueError for a version from the future or below 1."""
    if not 1 <= version <= events.SCHEMA_VERSION:
        raise ValueError(f"schema version {version} is not known here")
    while version < events.SCHEMA_VERSION:
        fields = UPCASTERS[type_, version](fields)
        version += 1
    return fields
