"""The bodies of requests and answers as the API shows them; the OpenAPI document is made of these.

Structs of requests are for the document alone: `commands/forms` and `commands/destination_forms` read bodies, so
that every fault of one is told. Times are RFC 3339 UTC with milliseconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Text = Annotated[str, Meta(extra_json_schema={"maxLength": 255})]
LongText = Annotated[str, Meta(extra_json_schema={"maxLength": 8_192})]
Object = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]
Topics = Annotated[
    Literal["*"] | list[Text], Meta(description='`"*"` for every topic, or a list of topics and patterns.')
]
Coerced = Annotated[
    dict[str, Any],
    Meta(description="Text by key; other JSON values are kept as their text. A value may have 2,048 bytes."),
]
Merged = Annotated[
    dict[str, Any] | None,
    Meta(description="Merged as RFC 7396 says: null for a key removes it, null for the whole clears it."),
]


class Error(msgspec.Struct, omit_defaults=True):
    """Every answer that is not a success. `data` names paths and rules: sentences for a body, an object by
    `query.<name>` for query parameters."""

    status: int
    message: str
    data: list[str] | dict[str, str] | None = None


class Success(msgspec.Struct):
    """Done; there is nothing to show."""

    success: bool = True


class Pagination(msgspec.Struct):
    """Cursors are null where there is no such page."""

    order_by: str
    dir: Literal["asc", "desc"]
    limit: int
    next: str | None = None
    prev: str | None = None


class TenantUpsert(msgspec.Struct, forbid_unknown_fields=True):
    """Replaces the metadata of the tenant; without it, clears it."""

    metadata: Coerced | UnsetType | None = UNSET


class Tenant(msgspec.Struct):
    """A tenant. `topics` is the union of its destinations' topics."""

    id: str
    destinations_count: int
    topics: list[str]
    created_at: Time
    updated_at: Time
    metadata: dict[str, str] | UnsetType = UNSET


class TenantPage(msgspec.Struct):
    """`count` is how many there are on all pages."""

    models: list[Tenant]
    pagination: Pagination
    count: int


class DestinationCreate(msgspec.Struct, forbid_unknown_fields=True):
    """A new destination. Moments must not lie in the future; `id` is made if there is none."""

    type: str
    topics: Topics
    config: Coerced | UnsetType = UNSET
    credentials: Coerced | UnsetType = UNSET
    id: Text | UnsetType | None = UNSET
    filter: dict[str, Any] | UnsetType | None = UNSET
    delivery_metadata: Coerced | UnsetType | None = UNSET
    metadata: Coerced | UnsetType | None = UNSET
    created_at: Time | UnsetType | None = UNSET
    updated_at: Time | UnsetType | None = UNSET
    disabled_at: Time | UnsetType | None = UNSET


class DestinationUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """What is to change; what is left out stays. Topics and filter are replaced as a whole, the type never."""

    type: str | UnsetType = UNSET
    topics: Topics | UnsetType = UNSET
    filter: dict[str, Any] | UnsetType | None = UNSET
    config: Merged | UnsetType = UNSET
    credentials: Merged | UnsetType = UNSET
    delivery_metadata: Merged | UnsetType = UNSET
    metadata: Merged | UnsetType = UNSET
    disabled_at: Time | UnsetType | None = UNSET


class Destination(msgspec.Struct):
    """A destination. Sensitive config and credentials are masked; `target` is where events go, in words."""

    id: str
    tenant_id: str
    type: str
    topics: list[str]
    config: dict[str, str]
    credentials: dict[str, str]
    created_at: Time
    updated_at: Time
    disabled_at: Time | None
    target: str
    target_url: str | UnsetType = UNSET
    filter: dict[str, Any] | UnsetType = UNSET
    delivery_metadata: dict[str, str] | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"Destination({self.id!r}, {self.type!r})"


class PublishRequest(msgspec.Struct, forbid_unknown_fields=True):
    """An event. Keys of its metadata have at most 255 bytes, values 8,192, all of them 16,384. An id that was
    published for the tenant (and for this destination, where one is named) within the idempotency window gets the
    first answer again. Without a topic, or with the topic `*`, it goes to every destination whose filter it
    fits."""

    tenant_id: Text
    data: dict[str, Any]
    id: Text | UnsetType | None = UNSET
    destination_id: Text | UnsetType | None = UNSET
    topic: Text | UnsetType | None = UNSET
    eligible_for_retry: bool | UnsetType | None = UNSET
    time: Time | UnsetType | None = UNSET
    metadata: dict[str, LongText] | UnsetType | None = UNSET


class Published(msgspec.Struct):
    """The event is in the log. `destination_ids` are those that it goes to."""

    id: str
    duplicate: bool
    destination_ids: tuple[str, ...]


class Event(msgspec.Struct):
    """An accepted event. Without metadata it has no `metadata`; in an attempt it has no `data`, unless that was
    asked for."""

    id: str
    tenant_id: str
    matched_destination_ids: tuple[str, ...]
    topic: str
    time: Time
    eligible_for_retry: bool
    metadata: Object | UnsetType = UNSET
    data: Object | UnsetType = UNSET


class EventPage(msgspec.Struct):
    """Events by their time."""

    models: list[Event]
    pagination: Pagination


class Attempt(msgspec.Struct):
    """One try to deliver an event; `latency_ms` is the time from sending to the answer or the error. `event`,
    `response_data` and `destination` are there if asked for and known."""

    id: str
    tenant_id: str
    status: Literal["success", "failed"]
    time: Time
    code: str
    attempt_number: int
    manual: bool
    destination_type: str
    event_id: str
    destination_id: str
    latency_ms: int | None = None
    event: Event | UnsetType = UNSET
    response_data: Object | UnsetType = UNSET
    destination: Destination | UnsetType = UNSET


class AttemptPage(msgspec.Struct):
    """Attempts by their time."""

    models: list[Attempt]
    pagination: Pagination


class RetryRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Which delivery. Where tenants use the same event ids, `tenant_id` says whose; without it the newest is
    taken."""

    event_id: Text
    destination_id: Text
    tenant_id: Text | UnsetType | None = UNSET


class WorkerStatus(msgspec.Struct):
    """`healthy` or `failed`; why stands in the process's own log."""

    status: Literal["healthy", "failed"]


class Health(msgspec.Struct):
    """Whether the workers of this process run."""

    status: Literal["healthy", "failed"]
    timestamp: Time
    workers: dict[str, WorkerStatus]


class Readiness(msgspec.Struct):
    """Whether this process should get traffic, and why not. `degraded`: it should, but not all of it works."""

    status: Literal["ready", "degraded", "not_ready"]
    reasons: list[str]
