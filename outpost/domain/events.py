"""The entries of the three streams, decoded: what happened, in the words of the domain.

`log/envelope` turns stream fields into these and back; `domain/upcast` brings old schema versions up to date.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from outpost.domain import delivery
from outpost.domain import tenant as tenants

EVENT_ACCEPTED = "event.accepted"
ENTRY_SKIPPED = "entry.skipped"
CONFIG_TYPES: tuple[str, ...] = get_args(tenants.ChangeType)
ATTEMPT_TYPES = ("attempt.succeeded", "attempt.failed")
DELIVERY_TYPES = (
    *ATTEMPT_TYPES,
    "delivery.skipped",
    "delivery.cancelled",
    "retry.requested",
    "cancel.requested",
)
# The schema version that is written of each type; those that are not named here are at version 1.
SCHEMA_VERSIONS: dict[str, int] = dict.fromkeys(
    (
        "destination.created",
        "destination.updated",
        "destination.enabled",
        "destination.disabled",
        "destination.secret_rotated",
    ),
    2,  # since the config of a destination is sealed
)


def schema_version(type_: str) -> int:
    """The schema version in which entries of this type are written."""
    return SCHEMA_VERSIONS.get(type_, 1)


class ConfigChanged(msgspec.Struct, frozen=True):
    """An entry of `cfg` about a tenant."""

    tenant: str
    by: str
    change: tenants.Change


class EntrySkipped(msgspec.Struct, frozen=True):
    """An operator's word that the entry `position` of this `cfg` stream is to be passed over."""

    position: str
    by: str


class VersionSkipped(msgspec.Struct, frozen=True):
    """What is left of an entry of `cfg` that was passed over: `tenant` has reached `version` without a change."""

    tenant: str
    version: int


class Matched(msgspec.Struct, frozen=True, gc=False):
    """A destination that an event goes to, and the tenant version that made it."""

    destination: str
    created: int

    def __str__(self) -> str:
        return f"{self.destination}@{self.created}"


class Event(msgspec.Struct, frozen=True, gc=False):
    """An accepted event. `time` is the event's own, RFC 3339 UTC with milliseconds; `version` is the tenant
    version it was matched against; `data` is the value byte for byte as received."""

    tenant: str
    id: str
    version: int
    topic: str
    time: str
    eligible: bool
    metadata: dict[str, str]
    matched: tuple[Matched, ...]
    by: str
    data: bytes


NO_RESPONSE = msgspec.Raw(b"null")


class AttemptDetail(msgspec.Struct, frozen=True, gc=False):
    """The `d` of an attempt. Times in ms; `next` says what follows: an automatic or a manual attempt, or none.
    `response_data` is JSON as recorded, null where there is none. When a retry is due is the entry's own ms +
    `retry_in_ms`. `asked`: how many manual attempts follow one after another, where `next` is manual.
    `automatic`: how many automatic attempts were made so far; None: as many as attempts."""

    topic: str
    destination_type: str
    status: Literal["success", "failed"]
    code: str
    started_ms: int
    took_ms: int
    manual: bool
    next: Literal["auto", "manual", "none"]
    response_data: msgspec.Raw = NO_RESPONSE
    retry_in_ms: int | None = None
    asked: int = 1
    automatic: int | None = None


class DeliveryEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry of `dlv`; `detail` only for attempts, `automatic` only for a request for a retry: how many
    automatic attempts were made before it; None: as many as attempts."""

    type: str
    tenant: str
    event_id: str
    task: delivery.TaskId
    by: str
    detail: AttemptDetail | None = None
    automatic: int | None = None


Entry = ConfigChanged | EntrySkipped | Event | DeliveryEntry
