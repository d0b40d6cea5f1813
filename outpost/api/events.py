"""Events of the log: list, get."""

from __future__ import annotations

from litestar import Response, get

from outpost import cursor, errors
from outpost.api import openapi, paths, queries, schemas, views
from outpost.api.deps import Call
from projections.logs import query as logs
from projections.logs import rows

_TAGS = ["Events"]
_TENANT = "Only events of this tenant."


@get(
    "/events",
    operation_id="listEvents",
    tags=_TAGS,
    opt=openapi.query(
        openapi.many("id", "Only events with these ids."),
        openapi.many("tenant_id", "Only events of these tenants."),
        openapi.many("destination_id", "Only events that matched one of these destinations."),
        openapi.many("topic", "Only events of these topics."),
        openapi.time_range("Bounds on the event's own time."),
        *openapi.pages("time", queries.LOG_LIMIT, queries.LOG_LIMIT_MAX, strict=False),
    ),
    responses=openapi.errors(400, 401, 422, 503),
)
async def list_events(request: Call) -> Response[schemas.EventPage]:
    """List events with their data."""
    query = queries.Query(request.scope["query_string"])
    wanted = rows.EventFilter(
        tenant_ids=query.many("tenant_id"),
        ids=query.many("id"),
        topics=query.many("topic"),
        destination_ids=query.many("destination_id"),
        time=query.time(),
    )
    max_bytes = request.deps.settings.api_max_page_bytes
    page_request = query.log_page(max_bytes)
    query.settle()
    await request.reads.reserve(request.scope, max_bytes, queries.only(wanted.tenant_ids))
    found = await logs.list_events(request.store, wanted, page_request)
    if isinstance(found, cursor.CursorProblem):
        raise errors.Refused(found.message)
    pagination = queries.pagination(page_request, "time", found.next, found.prev)
    page = schemas.EventPage([views.event(row) for row in found.models], pagination)
    return request.reads.answer(request.scope, page)


@get(
    "/events/{event_id:str}",
    operation_id="getEvent",
    tags=_TAGS,
    opt=openapi.query(openapi.parameter("tenant_id", _TENANT)),
    responses=openapi.errors(401, 404, 422, 503),
)
async def get_event(request: Call) -> Response[schemas.Event]:
    """Get an event; the newest, if its id was used more than once."""
    query = queries.Query(request.scope["query_string"])
    tenant = query.tenant()
    query.settle()
    await request.reads.reserve(request.scope, request.deps.settings.api_max_body_bytes, tenant)
    store, event_id = request.store, paths.named(request, "event_id")
    row = await request.settler.look(
        store,
        "evt",
        [tenant] if tenant else [],
        lambda: logs.get_event(store, event_id, tenant),
        lambda seen: seen is not None,
    )
    if row is None:
        raise errors.NotFound("event")
    return request.reads.answer(request.scope, views.event(row))


HANDLERS = [list_events, get_event]
