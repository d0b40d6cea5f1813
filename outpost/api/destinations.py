"""Destinations of a tenant: create, list, get, patch, delete, enable, disable."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import Response, delete, get, patch, post, put

from outpost import errors
from outpost.api import auth, bodies, openapi, paths, queries, schemas, views
from outpost.api.deps import Call
from outpost.commands import destination_forms
from outpost.commands import writer as writers
from outpost.domain import tenant as tenants
from outpost.domain import topics as topic_rules
from projections.config import query as config

_ALL = "/tenants/{tenant_id:str}/destinations"
_ONE = "/tenants/{tenant_id:str}/destinations/{destination_id:str}"
_TAGS = ["Destinations"]


@post(
    _ALL,
    status_code=201,
    operation_id="createTenantDestination",
    tags=_TAGS,
    opt=openapi.body(schemas.DestinationCreate),
    responses=openapi.errors(400, 401, 404, 413, 415, 422, 503),
)
async def create(request: Call) -> Response[schemas.Destination]:
    """Create a destination."""
    deps = request.deps
    tenant = paths.tenant(request)
    actor = auth.admin()
    async with paths.tenant_first(deps.log, tenant):
        body = await bodies.read(request.scope, request.receive, deps.settings.api_max_body_bytes)
        form = destination_forms.destination_form(body, deps.now_ms(), refuses_unknown=deps.refuses_unknown)
        done = await deps.destinations.create(actor, tenant, form)
    made = done.after.destinations[done.change.id]
    return Response(
        views.destination(deps, tenant, made), status_code=201, headers=paths.written(actor, done.position)
    )


@get(
    _ALL,
    operation_id="listTenantDestinations",
    tags=_TAGS,
    opt=openapi.query(
        openapi.many("type", "Only these types."),
        openapi.many("topics", "Only destinations that take every one of these topics."),
    ),
    responses=openapi.errors(401, 404, 422, 503),
)
async def list_all(request: Call) -> Response[list[schemas.Destination]]:
    """List the destinations of a tenant, oldest first."""
    deps = request.deps
    tenant = paths.tenant(request)
    query = queries.Query(request.scope["query_string"])
    types, topics = query.many("type"), query.many("topics")
    async with paths.tenant_first(deps.log, tenant):
        query.settle()
    await request.reads.reserve(request.scope, deps.settings.api_max_page_bytes, tenant)
    state = await config.fresh(deps.log, tenant)
    if state.tenant is None:
        raise errors.NotFound("tenant")
    found = [
        destination
        for destination in state.destinations.values()
        if (not types or destination.type in types)
        and _takes(destination.topics, topics, wildcards=deps.settings.topics_allow_wildcards)
    ]
    found.sort(key=lambda destination: (destination.created_ms, destination.created))
    return request.reads.answer(
        request.scope, [views.destination(deps, tenant, destination) for destination in found]
    )


@get(_ONE, operation_id="getTenantDestination", tags=_TAGS, responses=openapi.errors(401, 404, 422, 503))
async def get_one(request: Call) -> Response[schemas.Destination]:
    """Get a destination."""
    tenant = paths.tenant(request)
    await request.reads.reserve(request.scope, request.deps.settings.api_max_body_bytes, tenant)
    state = await config.fresh(request.deps.log, tenant)
    shown = views.destination(request.deps, tenant, _present(state, request))
    return request.reads.answer(request.scope, shown)


@patch(
    _ONE,
    operation_id="updateTenantDestination",
    tags=_TAGS,
    opt=openapi.body(schemas.DestinationUpdate),
    responses=openapi.errors(401, 404, 413, 415, 422, 503),
)
async def update(request: Call) -> Response[schemas.Destination]:
    """Change a destination."""
    deps = request.deps
    tenant, destination = paths.tenant(request), paths.named(request, "destination_id")
    actor = auth.admin()
    async with paths.tenant_first(deps.log, tenant):
        body = await bodies.read(request.scope, request.receive, deps.settings.api_max_body_bytes)
        refuses = deps.refuses_unknown
        form = destination_forms.destination_form(body, deps.now_ms(), patch=True, refuses_unknown=refuses)
        done = await deps.destinations.patch(actor, tenant, destination, form)
    changed = done.after.destinations[done.change.id]
    return Response(views.destination(deps, tenant, changed), headers=paths.written(actor, done.position))


@delete(
    _ONE,
    status_code=200,
    operation_id="deleteTenantDestination",
    tags=_TAGS,
    responses=openapi.errors(401, 404, 422, 503),
)
async def delete_one(request: Call) -> Response[schemas.Success]:
    """Delete a destination. What was not delivered to it yet will not be."""
    actor = auth.admin()
    tenant, destination = paths.tenant(request), paths.named(request, "destination_id")
    done = await request.deps.destinations.delete(actor, tenant, destination)
    return Response(schemas.Success(), headers=paths.written(actor, done.position))


@put(
    f"{_ONE}/enable",
    operation_id="enableTenantDestination",
    tags=_TAGS,
    responses=openapi.errors(401, 404, 422, 503),
)
async def enable(request: Call) -> Response[schemas.Destination]:
    """Enable a destination. What was published while it was disabled is delivered where `POST /retry` asks for it,
    and not by itself."""
    return await _set_disabled(request, None)


@put(
    f"{_ONE}/disable",
    operation_id="disableTenantDestination",
    tags=_TAGS,
    responses=openapi.errors(401, 404, 422, 503),
)
async def disable(request: Call) -> Response[schemas.Destination]:
    """Disable a destination; one that is disabled keeps its time."""
    return await _set_disabled(request, request.deps.now_ms())


async def _set_disabled(request: Call, disabled_ms: int | None) -> Response[schemas.Destination]:
    actor = auth.admin()
    tenant = paths.tenant(request)
    destination = paths.named(request, "destination_id")
    done = await request.deps.destinations.set_disabled(actor, tenant, destination, disabled_ms)
    if isinstance(done, writers.Written):
        state, headers = done.after, paths.written(actor, done.position)
    else:
        state, headers = done, paths.written(actor, None)
    return Response(views.destination(request.deps, tenant, _present(state, request)), headers=headers)


def _present(state: tenants.TenantState, request: Call) -> tenants.Destination:
    if state.tenant is None:
        raise errors.NotFound("tenant")
    present = state.destinations.get(paths.named(request, "destination_id"))
    if present is None:
        raise errors.NotFound("destination")
    return present


def _takes(subscribed: Sequence[str], topics: Sequence[str], *, wildcards: bool) -> bool:
    """Whether a destination takes each of `topics`; `*` asks for those that take everything."""
    return all(
        topic_rules.WILDCARD in subscribed
        if topic == topic_rules.WILDCARD
        else topic_rules.matches(subscribed, topic, wildcards=wildcards)
        for topic in topics
    )


HANDLERS = [create, list_all, get_one, update, delete_one, enable, disable]
