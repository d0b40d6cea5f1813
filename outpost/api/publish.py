"""POST /publish, the hot path: read, check, append, answer.

`serve` is called before Litestar, which costs more than all of the rest; the handler is there for the document and
for paths spelt in other ways. Both give the same answers.
"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, post
from litestar.types import Receive, Scope, Send

from outpost.api import auth, bodies, openapi, paths, problems, schemas
from outpost.api.deps import Call, Deps
from outpost.commands import forms

PATH = "/api/v1/publish"

_encode = msgspec.json.Encoder().encode


async def serve(deps: Deps, scope: Scope, receive: Receive, send: Send) -> None:
    """The route as an ASGI application. Answers every error itself."""
    try:
        auth.check(scope["headers"], deps.settings.api_key)
        answer = await _publish(deps, receive)
    except Exception as exc:  # noqa: BLE001 - the border: whatever it is, the client gets an answer
        answer = problems.answer_to(exc)
    await problems.send(answer, send)


async def _publish(deps: Deps, receive: Receive) -> problems.Answer:
    settings = deps.settings
    body = await bodies.read(receive, settings.api_max_body_bytes)
    request = forms.publish_request(body, settings, deps.now_ms())
    actor = auth.admin()
    done = await deps.publisher.publish(actor, request)
    content = _encode(schemas.Published(done.id, done.duplicate, done.destinations))
    return problems.Answer(202, content, paths.written(actor, done.position))


@post(
    "/publish",
    status_code=202,
    operation_id="publishEvent",
    tags=["Publish"],
    opt=openapi.body(schemas.PublishRequest),
    responses=openapi.errors(401, 413, 422, 503),
)
async def publish(request: Call) -> Response[schemas.Published]:
    """Publish an event. 202 means that it is in the log; with zero matching destinations it is stored as well."""
    answer = await _publish(request.deps, request.receive)
    content: Any = answer.body  # encoded already; the annotation is for the document
    return Response(content, status_code=answer.status, headers=answer.headers, media_type="application/json")
