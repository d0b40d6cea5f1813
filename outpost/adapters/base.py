"""The seam of destination types: what a type declares, and what a publisher of it does.

A type validates and completes what a tenant saves (`prepare`), names its target, and connects. A publisher sends;
it never retries, never logs a payload, and answers one outcome an event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from outpost import errors
from outpost.domain import delivery


class Field(msgspec.Struct, frozen=True, omit_defaults=True):
    """One field of a type's config or credentials, as `GET /destination-types` shows it."""

    type: str
    label: str
    description: str
    key: str
    required: bool
    sensitive: bool = False
    default: str | None = None
    minlength: int | None = None
    maxlength: int | None = None
    pattern: str | None = None
    options: list[dict[str, str]] | None = None


class DestinationType(msgspec.Struct, frozen=True, omit_defaults=True):
    """A type as `GET /destination-types` shows it. `icon` is an SVG text, `instructions` Markdown; `unavailable`
    says what to install, where this process cannot deliver to the type."""

    type: str
    label: str
    description: str
    icon: str
    instructions: str
    config_fields: list[Field]
    credential_fields: list[Field]
    setup_link: dict[str, str] | None = None
    unavailable: str | None = None


class OpenDestination(msgspec.Struct, frozen=True):
    """A destination with its secrets open, for a type's eyes only."""

    tenant: str
    id: str
    type: str
    config: dict[str, str]
    credentials: dict[str, str]
    delivery_metadata: dict[str, str]
    topics: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"OpenDestination({self.type!r})"


class Verified(msgspec.Struct, frozen=True):
    """What a type's service says of what is to be saved: config that it adds, or the problems that forbid it."""

    config: dict[str, str] = {}
    problems: list[errors.Problem] = []

    def __repr__(self) -> str:
        return f"Verified(problems={self.problems!r})"


NOT_VERIFIED = Verified()


class Save(msgspec.Struct, frozen=True):
    """What a request wants to store. `config` and `credentials` are merged already; `previous` is what is stored
    now (None on create); `requested` are the credential keys that this request itself sets; `admin` tells the
    API key from a tenant's token; `now_ms` is the time of the request; `verified` is what `verify` answered."""

    config: dict[str, str]
    credentials: dict[str, str]
    previous: OpenDestination | None
    requested: Mapping[str, str | None]
    admin: bool
    now_ms: int
    verified: Verified = NOT_VERIFIED

    def __repr__(self) -> str:
        return "Save(..)"


class Prepared(msgspec.Struct, frozen=True):
    """What is to be stored, or the problems that forbid it. `rotated` if a secret was replaced."""

    config: dict[str, str] = {}
    credentials: dict[str, str] = {}
    problems: list[errors.Problem] = []
    rotated: bool = False

    def __repr__(self) -> str:
        return f"Prepared(problems={self.problems!r})"


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One event to be sent. `time` is the event's own (RFC 3339 UTC); `data` goes out byte for byte."""

    event_id: str
    topic: str
    time: str
    metadata: dict[str, str]
    data: bytes
    attempt: int
    manual: bool = False


class Publisher(Protocol):
    """An open way to one destination, shared by concurrent sends."""

    max_batch: int  # how many events one `send` may carry

    async def send(self, batch: Sequence[Delivery], deadline: float) -> list[delivery.Outcome]:
        """One outcome an event, in order, before `deadline` (the loop's clock, seconds). Raises nothing but
        CancelledError; a send that was cut off leaves no connection half used."""

    async def close(self) -> None:
        """Frees what it holds; sends under way may fail."""


class Adapter(Protocol):
    """One destination type. `adapters/declared` has what most of them share."""

    description: DestinationType  # says so where a library is missing
    max_open: int  # publishers open at once in a process; the least recently used one is closed for another

    async def verify(self, save: Save) -> Verified:
        """Asks the type's service about what is to be saved, where that is needed; within `VERIFY_S` seconds,
        before anything is locked or stored."""

    def prepare(self, save: Save) -> Prepared:
        """Checks and completes what is to be stored; pure but for new secrets."""

    def target(self, destination: OpenDestination) -> tuple[str, str | None]:
        """A text that names where events go, and a page that shows it, if there is one. Responses show both, and
        neither holds a credential; a webhook's is its URL as saved, as the published server has it."""

    def shown_credentials(self, credentials: Mapping[str, str], now_ms: int) -> dict[str, str]:
        """Credentials as responses show them: sensitive ones masked, expired ones left out."""

    async def connect(self, destination: OpenDestination) -> Publisher:
        """A publisher for `destination`; opens no connection yet. Raises errors.Invalid where what is stored
        cannot be used."""

    async def close(self) -> None:
        """Frees what the publishers share."""


VERIFY_S = 5.0
