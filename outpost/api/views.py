"""What the read models hold, in the form that the API shows."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from outpost import errors, ids
from outpost.api import schemas
from outpost.api.deps import Deps
from outpost.commands import sealing
from outpost.domain import tenant as tenants
from outpost.domain import times
from outpost.domain import topics as topic_rules
from projections.logs import rows

NO_METADATA = "{}"  # as the log tables have it


def tenant(deps: Deps, state: tenants.TenantState) -> schemas.Tenant:
    """Raises errors.NotFound if there is no tenant in this state."""
    if state.tenant is None:
        raise errors.NotFound("tenant")
    metadata = state.tenant.metadata
    return schemas.Tenant(
        id=state.tenant.id,
        destinations_count=len(state.destinations),
        topics=state.topics(wildcards=deps.settings.topics_allow_wildcards),
        created_at=times.text(state.tenant.created_ms),
        updated_at=times.text(state.tenant.updated_ms),
        metadata=metadata or UNSET,
    )


def destination(deps: Deps, tenant: str, present: tenants.Destination) -> schemas.Destination:
    """With config and delivery metadata open; what its type declares sensitive in config or credentials is masked.
    Raises errors.UnsealError."""
    opened = sealing.open_destination(deps.sealer, tenant, present)
    adapter = deps.registry.get(present.type)
    shown, target, target_url = {}, "", None
    if adapter is not None:  # a type that this version lacks shows nothing that it might have masked
        shown = adapter.shown_credentials(opened.credentials, deps.now_ms())
        target, target_url = adapter.target(opened)
    return schemas.Destination(
        id=present.id,
        tenant_id=tenant,
        type=present.type,
        topics=topic_rules.effective(present.topics, wildcards=deps.settings.topics_allow_wildcards),
        config=deps.registry.shown_config(present.type, opened.config),
        credentials=shown,
        created_at=times.text(present.created_ms),
        updated_at=times.text(present.updated_ms),
        disabled_at=None if present.disabled_ms is None else times.text(present.disabled_ms),
        target=target,
        target_url=target_url or UNSET,
        filter=present.filter or UNSET,
        delivery_metadata=opened.delivery_metadata if present.delivery_metadata else UNSET,
        metadata=present.metadata or UNSET,
    )


def event(row: rows.EventRow) -> schemas.Event:
    """`data` and metadata pass through as they were received."""
    return schemas.Event(
        id=row.id,
        tenant_id=row.tenant_id,
        matched_destination_ids=row.matched_destination_ids,
        topic=row.topic,
        time=times.text(row.time_ms),
        eligible_for_retry=row.eligible_for_retry,
        metadata=UNSET if row.metadata == NO_METADATA else msgspec.Raw(row.metadata),
        data=UNSET if row.data is None else msgspec.Raw(row.data),
    )


def attempt(row: rows.AttemptRow, prefix: str, target: schemas.Destination | None) -> schemas.Attempt:
    """`prefix`: IDGEN_ATTEMPT_PREFIX; `target`: the destination as it is now, if it is to be shown."""
    return schemas.Attempt(
        id=ids.attempt_id(prefix, row.partition, row.accepted_ms, row.seq),
        tenant_id=row.tenant_id,
        status="success" if row.status == "success" else "failed",
        time=times.text(row.time_ms),
        code=row.code,
        attempt_number=row.attempt_number,
        manual=row.manual,
        destination_type=row.destination_type,
        event_id=row.event_id,
        destination_id=row.destination_id,
        latency_ms=row.latency_ms,
        event=UNSET if row.event is None else event(row.event),
        response_data=UNSET if row.response_data is None else msgspec.Raw(row.response_data),
        destination=UNSET if target is None else target,
    )
