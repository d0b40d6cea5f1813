"""Delivery attempts of the log: list, get; of all, or of one destination."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, get

from outpost import cursor, errors, ids
from outpost.api import openapi, paths, queries, schemas, views
from outpost.api.deps import Call, Deps
from projections.config import query as config
from projections.logs import paging, rows
from projections.logs import query as logs

_OF_DESTINATION = "/tenants/{tenant_id:str}/destinations/{destination_id:str}/attempts"
_INCLUDE = openapi.many(
    "include", "What to show beside the attempt: `event`, `event.data`, `response_data`, `destination`."
)
_FILTERS: tuple[dict[str, Any], ...] = (
    openapi.many("event_id", "Only attempts of these events."),
    openapi.many("destination_type", "Only attempts at these types."),
    openapi.parameter("status", "Only attempts with this status, `success` or `failed`; no other has any."),
    openapi.many("topic", "Only attempts of events of these topics."),
    openapi.time_range("Bounds on the time of the attempt."),
    _INCLUDE,
    *openapi.pages("time", queries.LOG_LIMIT, queries.LOG_LIMIT_MAX, strict=False),
)


class _Shown(msgspec.Struct, frozen=True):
    """What `include` asks for."""

    log: rows.Include
    destination: bool


_Targets = dict[tuple[str, str, int], schemas.Destination]  # by tenant, id, and the version that created it


@get(
    "/attempts",
    operation_id="listAttempts",
    tags=["Attempts"],
    opt=openapi.query(
        openapi.many("tenant_id", "Only attempts of these tenants."),
        openapi.many("destination_id", "Only attempts at these destinations."),
        *_FILTERS,
    ),
    responses=openapi.errors(400, 401, 422, 503),
)
async def list_attempts(request: Call) -> Response[schemas.AttemptPage]:
    """List attempts."""
    query = queries.Query(request.scope["query_string"])
    wanted = _filter(query, query.many("tenant_id"), query.many("destination_id"))
    return await _list(request, query, wanted)


@get(
    _OF_DESTINATION,
    operation_id="listTenantDestinationAttempts",
    tags=["Destinations"],
    opt=openapi.query(*_FILTERS, ignored=("tenant_id", "destination_id")),
    responses=openapi.errors(400, 401, 404, 422, 503),
)
async def list_of_destination(request: Call) -> Response[schemas.AttemptPage]:
    """List the attempts at a destination of a tenant; of one that does not exist there are none."""
    query = queries.Query(request.scope["query_string"])
    tenant = await _tenant(request)
    return await _list(request, query, _filter(query, (tenant,), (paths.named(request, "destination_id"),)))


@get(
    "/attempts/{attempt_id:str}",
    operation_id="getAttempt",
    tags=["Attempts"],
    opt=openapi.query(openapi.parameter("tenant_id", "Only an attempt of this tenant."), _INCLUDE),
    responses=openapi.errors(401, 404, 422, 503),
)
async def get_attempt(request: Call) -> Response[schemas.Attempt]:
    """Get an attempt."""
    query = queries.Query(request.scope["query_string"])
    return await _get(request, query, query.tenant(), None)


@get(
    f"{_OF_DESTINATION}/{{attempt_id:str}}",
    operation_id="getTenantDestinationAttempt",
    tags=["Destinations"],
    opt=openapi.query(_INCLUDE, ignored=("tenant_id", "destination_id")),
    responses=openapi.errors(401, 404, 422, 503),
)
async def get_of_destination(request: Call) -> Response[schemas.Attempt]:
    """Get an attempt at a destination of a tenant."""
    query = queries.Query(request.scope["query_string"])
    tenant = await _tenant(request)
    return await _get(request, query, tenant, paths.named(request, "destination_id"))


async def _tenant(request: Call) -> str:
    """The tenant of the path. Raises errors.NotFound if there is none."""
    tenant = paths.tenant(request)
    if (await config.fresh(request.deps.log, tenant)).tenant is None:
        raise errors.NotFound("tenant")
    return tenant


def _filter(query: queries.Query, tenants: tuple[str, ...], destinations: tuple[str, ...]) -> rows.AttemptFilter:
    return rows.AttemptFilter(
        tenant_ids=tenants,
        event_ids=query.many("event_id"),
        destination_ids=destinations,
        destination_types=query.many("destination_type"),
        topics=query.many("topic"),
        status=query.one("status") or None,
        time=query.time(),
    )


async def _list(request: Call, query: queries.Query, wanted: rows.AttemptFilter) -> Response[schemas.AttemptPage]:
    max_bytes = request.deps.settings.api_max_page_bytes
    page_request, shown = query.log_page(max_bytes), _shown(query)
    query.settle()
    await request.reads.reserve(request.scope, max_bytes, queries.only(wanted.tenant_ids))
    store = request.store
    found = await request.settler.look(
        store,
        "dlv",
        wanted.tenant_ids,
        lambda: logs.list_attempts(store, wanted, page_request, shown.log),
        lambda seen: not _awaited(wanted, page_request, seen),
    )
    if isinstance(found, cursor.CursorProblem):
        raise errors.Refused(found.message)
    found = await _fitting(request.deps, page_request, found, shown)
    targets = await _targets(request.deps, found.models, shown)
    models = _views(request.deps, found.models, targets)
    pagination = queries.pagination(page_request, "time", found.next, found.prev)
    return request.reads.answer(request.scope, schemas.AttemptPage(models, pagination))


def _awaited(
    wanted: rows.AttemptFilter,
    page_request: paging.PageRequest,
    seen: paging.Page[rows.AttemptRow] | cursor.CursorProblem,
) -> bool:
    """Whether nothing was found where a client asks for what it may just have caused: one event's attempts, or
    those at one destination of a tenant."""
    if isinstance(seen, cursor.CursorProblem) or seen.models or page_request.next or page_request.prev:
        return False
    return bool(wanted.event_ids or (wanted.tenant_ids and wanted.destination_ids))


async def _get(
    request: Call, query: queries.Query, tenant: str | None, destination: str | None
) -> Response[schemas.Attempt]:
    shown = _shown(query)
    query.settle()
    prefix = request.deps.settings.idgen_attempt_prefix
    settings = request.deps.settings
    # The event came as one body; many changes may have made the destination larger than one.
    max_bytes = settings.api_max_body_bytes + (settings.api_max_page_bytes if shown.destination else 0)
    await request.reads.reserve(request.scope, max_bytes, tenant)
    at = ids.parse_attempt_id(prefix, paths.named(request, "attempt_id"))
    row = None if at is None else await logs.get_attempt(request.store, at, tenant, shown.log)
    if row is None or (destination is not None and row.destination_id != destination):
        raise errors.NotFound("attempt")
    targets = await _targets(request.deps, [row], shown)
    return request.reads.answer(request.scope, _views(request.deps, [row], targets)[0])


def _shown(query: queries.Query) -> _Shown:
    asked = set(query.many("include"))
    log = rows.Include(
        event="event" in asked, event_data="event.data" in asked, response_data="response_data" in asked
    )
    return _Shown(log, "destination" in asked)


async def _targets(deps: Deps, found: list[rows.AttemptRow], shown: _Shown) -> _Targets:
    """The destinations of the attempts as they are now, if they are to be shown and not gone; a namesake made
    after an attempt is another one."""
    targets: _Targets = {}
    if not shown.destination:
        return targets
    wanted = list(dict.fromkeys(_destination_of(row) for row in found))
    present = await config.destinations(deps.log, [(tenant, id_) for tenant, id_, _ in wanted])
    for key, destination in zip(wanted, present, strict=True):
        if destination is not None and destination.created == key[2]:
            targets[key] = views.destination(deps, key[0], destination)
    return targets


def _destination_of(row: rows.AttemptRow) -> tuple[str, str, int]:
    return row.tenant_id, row.destination_id, row.destination_created


def _views(deps: Deps, found: list[rows.AttemptRow], targets: _Targets) -> list[schemas.Attempt]:
    prefix = deps.settings.idgen_attempt_prefix
    return [views.attempt(row, prefix, targets.get(_destination_of(row))) for row in found]


async def _fitting(
    deps: Deps, request: paging.PageRequest, found: paging.Page[rows.AttemptRow], shown: _Shown
) -> paging.Page[rows.AttemptRow]:
    """The page without the attempts whose destinations, not read for this, make it too large. Each attempt
    shows its own."""
    if not shown.destination:
        return found
    in_turn = found.models[::-1] if request.prev else found.models
    sizes = await config.destination_sizes(deps.log, [(row.tenant_id, row.destination_id) for row in in_turn])
    count = paging.fitting(sizes, request.max_bytes)
    return paging.shortened("att", request, found, [row.place for row in found.models], count)


HANDLERS = [list_attempts, list_of_destination, get_attempt, get_of_destination]
