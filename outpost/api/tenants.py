"""Tenants: put, get, delete, list."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from litestar import Response, delete, get, put

from outpost import cursor, errors
from outpost.api import auth, bodies, openapi, paths, queries, schemas, views
from outpost.api.deps import Call, Deps
from outpost.commands import destination_forms
from outpost.commands import tenants as commands
from projections.config import catch_up
from projections.config import query as config
from projections.logs import paging

_CURSOR: cursor.Resource = "tnt"
_INVALID = "invalid cursor"  # this list says it before every fault of a cursor
_TAGS = ["Tenants"]


@put(
    "/tenants/{tenant_id:str}",
    status_code=200,
    operation_id="upsertTenant",
    tags=_TAGS,
    opt=openapi.body(schemas.TenantUpsert, required=False),
    responses={**openapi.errors(401, 413, 415, 422, 503), **openapi.created(schemas.Tenant)},
)
async def put_tenant(request: Call) -> Response[schemas.Tenant]:
    """Create a tenant (201), or replace the metadata of one (200)."""
    deps = request.deps
    id_ = paths.new_tenant(request)
    body = await bodies.read(request.scope, request.receive, deps.settings.api_max_body_bytes)
    metadata = destination_forms.tenant_metadata(body, refuses_unknown=deps.refuses_unknown)
    actor = auth.admin()
    done = await commands.put(deps.writer, actor, id_, metadata, deps.now_ms())
    status = 201 if done.change.type == "tenant.created" else 200
    return Response(
        views.tenant(deps, done.after), status_code=status, headers=paths.written(actor, done.position)
    )


@get(
    "/tenants/{tenant_id:str}",
    operation_id="getTenant",
    tags=_TAGS,
    responses=openapi.errors(401, 404, 422, 503),
)
async def get_tenant(request: Call) -> Response[schemas.Tenant]:
    """Get a tenant."""
    tenant = paths.tenant(request)
    await request.reads.reserve(request.scope, request.deps.settings.api_max_body_bytes, tenant)
    return request.reads.answer(
        request.scope, views.tenant(request.deps, await config.fresh(request.deps.log, tenant))
    )


@delete(
    "/tenants/{tenant_id:str}",
    status_code=200,
    operation_id="deleteTenant",
    tags=_TAGS,
    responses=openapi.errors(401, 404, 422, 503),
)
async def delete_tenant(request: Call) -> Response[schemas.Success]:
    """Delete a tenant and its destinations. What is logged of it stays."""
    actor = auth.admin()
    done = await commands.delete(request.deps.writer, actor, paths.tenant(request))
    return Response(schemas.Success(), headers=paths.written(actor, done.position))


@get(
    "/tenants",
    operation_id="listTenants",
    tags=_TAGS,
    opt=openapi.query(
        openapi.many("id", "Only these tenants."),
        *openapi.pages("created_at", queries.TENANT_LIMIT, queries.TENANT_LIMIT_MAX, strict=True),
    ),
    responses=openapi.errors(400, 401, 422, 503),
)
async def list_tenants(request: Call) -> Response[schemas.TenantPage]:
    """List tenants by their creation."""
    deps = request.deps
    query = queries.Query(request.scope["query_string"])
    wanted = query.many("id")
    max_bytes = deps.settings.api_max_page_bytes
    page_request = query.tenant_page(max_bytes)
    query.settle()
    await request.reads.reserve(request.scope, max_bytes, queries.only(wanted))
    start = _start(page_request)
    await asyncio.gather(*(catch_up.to_head(deps.log, p) for p in config.ALL))
    backwards = page_request.prev is not None
    descending = (page_request.dir == "desc") != backwards
    limit = page_request.limit
    if wanted:
        listed, count = await _among(deps, wanted, descending, start, limit + 1)
    else:
        listed = await config.listing(deps.log, descending=descending, after=start, limit=limit + 1)
        count = await config.count(deps.log)
    return request.reads.answer(request.scope, await _page(deps, page_request, listed, count))


def _start(page_request: paging.PageRequest) -> config.Listed | None:
    """The place that the cursor names. Raises errors.Refused if it is none."""
    text = page_request.prev or page_request.next
    if text is None:
        return None
    position = cursor.decode_cursor(_CURSOR, text)
    if isinstance(position, cursor.CursorProblem):
        raise errors.Refused(f"{_INVALID}: {position.message.removeprefix(f'{_INVALID}: ')}")
    created, separator, tenant = position.partition("::")
    if not separator or not created.isascii() or not created.isdecimal() or len(created) > 15:
        raise errors.Refused(f"{_INVALID}: invalid timestamp")
    return config.Listed(int(created), tenant)


async def _among(
    deps: Deps, wanted: Sequence[str], descending: bool, start: config.Listed | None, limit: int
) -> tuple[list[config.Listed], int]:
    """The places of the next `limit` of the tenants with these ids, and how many of them there are."""
    there = sorted(await config.places(deps.log, list(dict.fromkeys(wanted))), reverse=descending)
    behind = [at for at in there if start is None or (at < start if descending else at > start)]
    return behind[:limit], len(there)


async def _page(
    deps: Deps, page_request: paging.PageRequest, listed: list[config.Listed], count: int
) -> schemas.TenantPage:
    """Out of what was found in the order of the scan. A tenant counts as all that is stored of it, since that has
    to be read. Cursors are made of the listing, so that a tenant that is
    deleted before it is loaded is missing and nothing else."""
    sizes = await config.sizes(deps.log, [at.tenant for at in listed[: page_request.limit]])
    fitting = listed[: paging.fitting(sizes, page_request.max_bytes)]
    texts: list[Any] = [f"{at.created_ms}::{at.tenant}" for at in fitting]
    found = paging.page(_CURSOR, page_request, fitting, texts, len(listed))
    states = await config.load(deps.log, [at.tenant for at in found.models])
    return schemas.TenantPage(
        [views.tenant(deps, state) for state in states if state.tenant is not None],
        queries.pagination(page_request, "created_at", found.next, found.prev),
        count,
    )


HANDLERS = [put_tenant, get_tenant, delete_tenant, list_tenants]
