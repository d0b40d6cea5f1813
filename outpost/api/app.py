"""The API as an ASGI application, and the small one that the other roles serve.

In front stands a function that takes the hot path before Litestar sees it; everything else is routed by Litestar,
on the path as it was sent. Every exception becomes JSON in `problems`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from litestar import HttpMethod, Litestar, Router
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.openapi.config import OpenAPIConfig
from litestar.types import ASGIApp, Receive, Scope, Send

from outpost.api import (
    attempts,
    auth,
    destinations,
    events,
    openapi,
    ops,
    paths,
    problems,
    publish,
    queries,
    reads,
    retry,
    settle,
    tenants,
)
from outpost.api.deps import Call
from outpost.api.deps import Deps as Deps
from outpost.api.deps import Health as Health
from outpost.api.deps import Probes as Probes

PREFIX = "/api/v1"
HEALTH_PATHS = frozenset(f"{prefix}/{name}".encode() for prefix in ("", PREFIX) for name in ("healthz", "readyz"))
_GUARDED = [
    publish.publish,
    *tenants.HANDLERS,
    *destinations.HANDLERS,
    *events.HANDLERS,
    *attempts.HANDLERS,
    *retry.HANDLERS,
    *ops.HANDLERS,
]


def build(deps: Deps) -> ASGIApp:
    """The whole API. `deps` stay the caller's: nothing is opened or closed here."""
    guarded = Router(PREFIX, route_handlers=_GUARDED, guards=[auth.guard, queries.guard])
    open_ = Router(PREFIX, route_handlers=ops.OPEN)
    handlers = [*ops.ROOT, open_, guarded]
    document = functools.cache(lambda: openapi.document(_litestar(handlers, deps, config=openapi.CONFIG)))
    room = reads.Reads(deps.settings.api_max_read_bytes_in_flight)
    litestar = _litestar(handlers, deps, document, reads=room)

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if "path" in scope:  # it is no lifespan
                scope["path"] = paths.to_route(scope)
        except NotFoundException as exc:
            await problems.send(problems.answer_to(exc), send)
            return
        if scope.get("path") == publish.PATH and scope.get("method") == "POST":
            await publish.serve(deps, scope, receive, send)
        elif scope.get("method") == "OPTIONS":  # Litestar would answer it, without a body and without a key
            await problems.send(problems.answer_to(NotFoundException()), send)
        else:
            try:
                await litestar(_as_get(scope), receive, reads.in_pieces(send))
            finally:
                room.release(scope)

    return front


def build_health(probes: Probes) -> ASGIApp:
    """Health and readiness alone, at the root and under the prefix."""
    open_ = Router(PREFIX, route_handlers=ops.OPEN)
    litestar = _litestar([ops.root_healthz, ops.root_readyz, open_], probes)

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        await litestar(_as_get(scope), receive, send)

    return front


def _as_get(scope: Scope) -> Scope:
    """HEAD is answered where GET is; the server leaves out the body."""
    if scope.get("method") == "HEAD":
        scope["method"] = HttpMethod.GET  # type: ignore[typeddict-unknown-key]  # the scope of a request
    return scope


def _litestar(
    handlers: list[object],
    probes: Probes,
    document: Callable[[], bytes] | None = None,
    config: OpenAPIConfig | None = None,
    reads: reads.Reads | None = None,
) -> Litestar:
    return Litestar(
        route_handlers=handlers,  # type: ignore[arg-type]
        request_class=Call,
        exception_handlers={Exception: problems.handle},
        openapi_config=config,  # None where requests are served: with one there would be pages, too
        logging_config=None,
        debug=False,
        state=State(
            {"deps": probes, "settler": settle.Settler(probes.log), "document": document, "reads": reads},
            deep_copy=False,
        ),
    )
