"""The one place that lists the destination types: the built-in ones, and those that installed packages bring."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping

from outpost import errors
from outpost import settings as settings_
from outpost.adapters import base, fields
from outpost.adapters.aws import eventbridge as aws_eventbridge
from outpost.adapters.aws import kinesis as aws_kinesis
from outpost.adapters.aws import s3 as aws_s3
from outpost.adapters.aws import sqs as aws_sqs
from outpost.adapters.azure import type as azure_servicebus
from outpost.adapters.gcp import type as gcp_pubsub
from outpost.adapters.hookdeck import type as hookdeck
from outpost.adapters.kafka import type as kafka
from outpost.adapters.rabbitmq import type as rabbitmq
from outpost.adapters.shared import resources as shared_
from outpost.adapters.webhook import type as webhook

Build = Callable[[shared_.Shared], base.Adapter]

# In the order in which the API shows them. Each module imports its heavy library when it connects, not before.
BUILT_IN: tuple[Build, ...] = (
    webhook.build,
    hookdeck.build,
    aws_sqs.build,
    aws_kinesis.build,
    aws_s3.build,
    aws_eventbridge.build,
    azure_servicebus.build,
    gcp_pubsub.build,
    rabbitmq.build,
    kafka.build,
)
ENTRY_POINTS = "outpost.destinations"  # the group by which a package brings a type: name = a `Build`
_PARTS = ("max_open", "verify", "prepare", "target", "shown_credentials", "connect", "close")  # of base.Adapter


class Registry:
    """The types of this process, in the order in which the API shows them."""

    def __init__(self, adapters: Iterable[base.Adapter], shared: shared_.Shared | None = None) -> None:
        self._adapters = {adapter.description.type: adapter for adapter in adapters}
        self._shared = shared

    def get(self, type_: str) -> base.Adapter | None:
        """The type of that name, or None."""
        return self._adapters.get(type_)

    def shown_config(self, type_: str, config: Mapping[str, str]) -> dict[str, str]:
        """The config of a destination as responses show it: what its type declares sensitive is masked, and so is
        everything where the type is not here to say which fields those are."""
        adapter = self._adapters.get(type_)
        if adapter is None:
            return {key: fields.mask(value) for key, value in config.items()}
        return fields.masked(adapter.description.config_fields, config)

    def types(self) -> list[base.DestinationType]:
        """What each type says of itself."""
        return [adapter.description for adapter in self._adapters.values()]

    async def close(self) -> None:
        """Frees what the types hold; to be called on the loop that sent."""
        for adapter in self._adapters.values():
            await adapter.close()
        if self._shared is not None:
            await self._shared.close()


def build(settings: settings_.Settings) -> Registry:
    """Every type, set up as `settings` say. Opens nothing, needs no running loop.

    Raises errors.ConfigurationError where an allowed network is none, or a package's type cannot be used.
    """
    shared = shared_.Shared(settings)
    adapters = [build_one(shared) for build_one in BUILT_IN]
    return Registry([*adapters, *_installed(shared, {adapter.description.type for adapter in adapters})], shared)


def _installed(shared: shared_.Shared, taken: set[str]) -> list[base.Adapter]:
    found: list[base.Adapter] = []
    problems: list[str] = []
    for point in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        try:
            adapter = point.load()(shared)
            type_ = adapter.description.type
            lacking = [name for name in _PARTS if not hasattr(adapter, name)]
        except Exception as exc:  # noqa: BLE001 -- the package is not ours
            problems.append(f"destination type {point.name!r} ({point.value}) does not load: {type(exc).__name__}")
            continue
        if lacking:
            problems.append(f"destination type {type_!r} ({point.value}) lacks {', '.join(lacking)}")
            continue
        if type_ in taken:
            problems.append(f"destination type {type_!r} ({point.value}) is there already")
            continue
        taken.add(type_)
        found.append(adapter)
    if problems:
        raise errors.ConfigurationError(problems)
    return found
