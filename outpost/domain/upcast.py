"""Old schema versions brought up to date, as pure functions from fields to fields.

Every version that was ever written is read for ever; a new version adds its function here and a golden file beside
the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from outpost.domain import events

Fields = Mapping[bytes, bytes]


def _config_in_clear(fields: Fields) -> Fields:
    """Version 1 holds the config of a destination as an object, version 2 as sealed text. There is no key here to
    seal it with, so it stays as it is: `tenant.Destination` takes both."""
    return fields


# (type, version) -> the same entry as version + 1
UPCASTERS: dict[tuple[str, int], Callable[[Fields], Fields]] = {
    (type_, 1): _config_in_clear for type_ in events.SCHEMA_VERSIONS
}


def upcast(type_: str, version: int, fields: Fields) -> Fields:
    """`fields` at the newest version. Raises ValueError for a version from the future or below 1."""
    newest = events.schema_version(type_)
    if not 1 <= version <= newest:
        raise ValueError(f"schema version {version} is not known here")
    while version < newest:
        fields = UPCASTERS[type_, version](fields)
        version += 1
    return fields
