"""Manual retries: one more attempt of a delivery, whatever came of the last one."""

from __future__ import annotations

import msgspec
from litestar import Response, post

from outpost import errors
from outpost.api import auth, bodies, openapi, paths, schemas
from outpost.api.deps import Call, Deps
from outpost.commands import publish
from outpost.commands import retry as commands
from outpost.domain import times
from projections.config import query as config
from projections.logs import deliveries, rows
from projections.logs import store as stores

LOOKS = 3  # at the log tables, where the log was trimmed between a look and the request

_decode_metadata = msgspec.json.Decoder(dict[str, str]).decode


@post(
    "/retry",
    status_code=202,
    operation_id="retryEvent",
    tags=["Retry"],
    opt=openapi.body(schemas.RetryRequest),
    responses=openapi.errors(400, 401, 404, 413, 415, 422, 503),
)
async def retry(request: Call) -> Response[schemas.Success]:
    """Retry a delivery, now. 202 means that the request is in the log; an automatic attempt that waits takes place
    at once instead. The destination must have been there when the event was published, and must take the event
    now: one that was disabled then, and so was not matched, gets it once it is enabled."""
    deps = request.deps
    body = await bodies.read(request.scope, request.receive, deps.settings.api_max_body_bytes)
    wanted = commands.wanted(body, refuses_unknown=deps.refuses_unknown)
    store = request.store
    actor = auth.admin()
    for looks in range(1, LOOKS + 1):
        found = await request.settler.look(
            store,
            "dlv",
            [wanted.tenant_id] if wanted.tenant_id else [],
            lambda: deliveries.newest(store, wanted.event_id, wanted.destination_id, wanted.tenant_id),
            lambda seen: seen is not None and seen.event is not None,
        )
        if found is None or found.event is None:
            found = await _unmatched(deps, store, wanted)
        if found is None or found.event is None:
            raise errors.NotFound("event")
        event = _published(found.event, wanted.destination_id)
        try:
            position = await commands.retry(deps.log, deps.publisher.matcher, actor, found.delivery, event)
        except commands.Outdated:
            if looks == LOOKS:
                raise
        else:
            break
    return Response(schemas.Success(), status_code=202, headers=paths.written(actor, position))


async def _unmatched(deps: Deps, store: stores.Store, wanted: commands.Wanted) -> deliveries.Found | None:
    """An event that did not match the destination though it was there, as it does where that was disabled. None
    for a destination that was made later: events of before are not its own."""
    found = await deliveries.undelivered(store, wanted.event_id, wanted.destination_id, wanted.tenant_id)
    if found is None or found.event is None:
        return None
    state = await config.fresh(deps.log, found.event.tenant_id)
    present = state.destinations.get(wanted.destination_id)
    if present is None or present.created_ms >= found.event.accepted_ms:
        return None
    made = msgspec.structs.replace(found.delivery, created=present.created)
    return msgspec.structs.replace(found, delivery=made)


def _published(row: rows.EventRow, destination: str) -> publish.Publish:
    return publish.Publish(
        tenant=row.tenant_id,
        id=row.id,
        topic=row.topic,
        time=times.text(row.time_ms),
        data=b"{}" if row.data is None else row.data,
        destination=destination,
        eligible=row.eligible_for_retry,
        metadata=_decode_metadata(row.metadata),
    )


HANDLERS = [retry]
