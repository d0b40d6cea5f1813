"""What operators and portals ask: health, readiness, topics, destination types, the OpenAPI document."""

from __future__ import annotations

import asyncio

from litestar import Response, get

from outpost import errors
from outpost.adapters import base
from outpost.api import openapi, paths, readiness, schemas
from outpost.api.deps import Call, Probes
from outpost.domain import times

_OPEN = {openapi.OPEN: True}
_HEALTH = openapi.unready(schemas.Health)
_READINESS = openapi.unready(schemas.Readiness)


@get("/healthz", operation_id="healthCheck", tags=["Health"], opt=_OPEN, responses=_HEALTH)
async def healthz(request: Call) -> Response[schemas.Health]:
    """Whether this process does its work; 503 once a worker has failed, and then it is to be restarted."""
    return _health(request.probes)


@get("/readyz", operation_id="readinessCheck", tags=["Health"], opt=_OPEN, responses=_READINESS)
async def readyz(request: Call) -> Response[schemas.Readiness]:
    """Whether this process should get traffic now."""
    return await _readiness(request.probes)


@get(["/healthz"], include_in_schema=False, opt=_OPEN)
async def root_healthz(request: Call) -> Response[schemas.Health]:
    """The same at the root, where orchestrators look."""
    return _health(request.probes)


@get(["/readyz"], include_in_schema=False, opt=_OPEN)
async def root_readyz(request: Call) -> Response[schemas.Readiness]:
    """The same at the root."""
    return await _readiness(request.probes)


@get("/openapi.json", include_in_schema=False, opt=_OPEN)
async def openapi_json(request: Call) -> Response[bytes]:
    """The OpenAPI document of this API."""
    document = await asyncio.to_thread(request.app.state.document)  # the first time takes long
    return Response(document, media_type="application/json")


@get("/topics", operation_id="listTopics", tags=["Topics"], responses=openapi.errors(401))
async def list_topics(request: Call) -> Response[list[str]]:
    """The topics of this deployment, in their order; none if every topic is allowed."""
    return Response(list(request.deps.settings.topics))


@get(
    "/destination-types",
    operation_id="listDestinationTypeSchemas",
    tags=["Schemas"],
    responses=openapi.errors(401),
)
async def list_types(request: Call) -> Response[list[base.DestinationType]]:
    """The destination types, with the fields of their config and credentials."""
    return Response(request.deps.registry.types())


@get(
    "/destination-types/{type:str}",
    operation_id="getDestinationTypeSchema",
    tags=["Schemas"],
    responses=openapi.errors(401, 404),
)
async def get_type(request: Call) -> Response[base.DestinationType]:
    """One destination type."""
    adapter = request.deps.registry.get(paths.named(request, "type"))
    if adapter is None:
        raise errors.NotFound("destination type")
    return Response(adapter.description)


def _health(probes: Probes) -> Response[schemas.Health]:
    workers = probes.health.workers()
    healthy = all(workers.values())
    content = schemas.Health(
        "healthy" if healthy else "failed",
        times.text(probes.now_ms()),
        {name: schemas.WorkerStatus("healthy" if ok else "failed") for name, ok in workers.items()},
    )
    return Response(content, status_code=200 if healthy else 503)


async def _readiness(probes: Probes) -> Response[schemas.Readiness]:
    content, status = await readiness.look(probes)
    return Response(content, status_code=status)


ROOT = [root_healthz, root_readyz, openapi_json]
OPEN = [healthz, readyz]
HANDLERS = [list_topics, list_types, get_type]
