"""What a type says of itself, read from `data/<type>/`: description.json, icon.svg, instructions.md."""

from __future__ import annotations

import pathlib

import msgspec

from outpost.adapters import base

_ADAPTERS = pathlib.Path(__file__).parent


class _Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    label: str
    description: str
    config_fields: list[base.Field]
    credential_fields: list[base.Field]
    setup_link: dict[str, str] | None = None


def load(type_: str, data: pathlib.Path | None = None) -> base.DestinationType:
    """Returns the description of a type from the folder `data/<type>` of its package.

    `data` is where another package keeps those of its types; without it the type is one of ours. The files are
    part of a package, so a fault in them is a bug.
    """
    folder = next(_ADAPTERS.glob(f"*/data/{type_}")) if data is None else data / type_
    told = msgspec.json.decode((folder / "description.json").read_bytes(), type=_Description)
    return base.DestinationType(
        type=type_,
        label=told.label,
        description=told.description,
        icon=(folder / "icon.svg").read_text("utf-8"),
        instructions=(folder / "instructions.md").read_text("utf-8"),
        config_fields=told.config_fields,
        credential_fields=told.credential_fields,
        setup_link=told.setup_link,
    )
