"""What most destination types have in common: their fields are checked as declared, their secrets masked."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from outpost import errors
from outpost.adapters import base, descriptions, fields
from outpost.adapters.shared import metadata
from outpost.adapters.shared import resources as shared_


class Declared:
    """Base of a type that has no more than its declared fields. A type overrides `problems` for rules that no
    field can state, and `completed` for what is stored in another spelling than it was sent.

    `type_` is a name of ours, whose description lies in `data`, or the description itself; `unavailable` the
    sentence on the library that is missing, "" if none is.
    """

    max_open = 10_000

    def __init__(self, type_: str | base.DestinationType, shared: shared_.Shared, unavailable: str = "") -> None:
        description = descriptions.load(type_) if isinstance(type_, str) else type_
        self.description = msgspec.structs.replace(description, unavailable=unavailable or None)
        self._shared = shared

    def problems(self, config: Mapping[str, str], credentials: Mapping[str, str]) -> list[errors.Problem]:
        """What is wrong beside the declared rules; asked only where those are kept."""
        return []

    def completed(
        self, config: dict[str, str], credentials: dict[str, str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """What is stored in the place of what was sent."""
        return config, credentials

    async def verify(self, save: base.Save) -> base.Verified:
        """Nobody is asked."""
        return base.NOT_VERIFIED

    def prepare(self, save: base.Save) -> base.Prepared:
        """The declared rules of both maps, then the type's own; every problem at once."""
        config, credentials = self.completed(dict(save.config), dict(save.credentials))
        found = fields.check(self.description.config_fields, config, "config")
        found += fields.check(self.description.credential_fields, credentials, "credentials")
        found = found or self.problems(config, credentials)
        if found:
            return base.Prepared(problems=found)
        rotated = save.previous is not None and save.previous.credentials != credentials
        return base.Prepared(config=config, credentials=credentials, rotated=rotated)

    def shown_credentials(self, credentials: Mapping[str, str], now_ms: int) -> dict[str, str]:
        """Sensitive ones masked."""
        return fields.masked(self.description.credential_fields, credentials)

    async def close(self) -> None:
        """Nothing is held here."""

    def _metadata(self, destination: base.OpenDestination) -> metadata.Merger:
        return metadata.Merger(
            destination.delivery_metadata, milliseconds=self._shared.settings.include_millisecond_timestamp
        )
