"""What the API works with, handed in by whoever starts it; and the request type that carries it to handlers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec
from litestar import Request
from litestar.datastructures import State

from outpost import crypto, errors
from outpost.adapters import registry as registries
from outpost.api import reads as reads_
from outpost.api import settle
from outpost.commands import destinations, publish
from outpost.commands import writer as writers
from outpost.log.redis import client
from outpost.settings import Settings
from projections.logs import store as stores


class Health(Protocol):
    """What the process knows of itself, without asking anybody."""

    def workers(self) -> Mapping[str, bool]:
        """Whether each worker runs, by its name."""

    def obstacles(self) -> Sequence[str]:
        """Why this process cannot do its work now, though its workers run; such as a store that is away."""

    def setbacks(self) -> Sequence[str]:
        """What of its work it cannot do, while the rest goes on; such as that of a halted partition."""


class Probes(msgspec.Struct, frozen=True, kw_only=True):
    """What health and readiness look at; every role has it. `store` is None where the role has none."""

    settings: Settings
    log: client.Log
    store: stores.Store | None
    health: Health
    now_ms: Callable[[], int]


class Deps(Probes, frozen=True, kw_only=True):
    """What the API has beyond that. `now_ms` is the clock: Unix time in milliseconds."""

    writer: writers.Writer
    destinations: destinations.Destinations
    publisher: publish.Publisher
    registry: registries.Registry
    sealer: crypto.Sealer

    @property
    def refuses_unknown(self) -> bool:
        """Whether a field or parameter that is not known refuses its request."""
        return self.settings.api_unknown_fields == "refuse"


class Call(Request[None, None, State]):
    """A request, with what its handler needs."""

    __slots__ = ()

    @property
    def deps(self) -> Deps:
        deps: Deps = self.app.state.deps
        return deps

    @property
    def probes(self) -> Probes:
        probes: Probes = self.app.state.deps
        return probes

    @property
    def store(self) -> stores.Store:
        """Raises errors.StoreUnavailable if this process has none."""
        store = self.deps.store
        if store is None:
            raise errors.StoreUnavailable("postgres", "it is not configured")
        return store

    @property
    def reads(self) -> reads_.Reads:
        reads: reads_.Reads = self.app.state.reads
        return reads

    @property
    def settler(self) -> settle.Settler:
        settler: settle.Settler = self.app.state.settler
        return settler
