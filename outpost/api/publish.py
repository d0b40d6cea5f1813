"""POST /publish, the hot path: read, check, append, answer.

`InPlace` answers it inside the HTTP server, `serve` before Litestar, which costs more than all of the rest; the
handler is there for the document and for paths spelt in other ways. All give the same answers.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Response, post
from litestar.types import Receive, Scope, Send

from outpost import errors
from outpost.api import auth, bodies, openapi, paths, problems, queries, schemas
from outpost.api import in_place as http_in_place
from outpost.api.deps import Call, Deps
from outpost.commands import actor as actors
from outpost.commands import forms
from outpost.commands import publish as commands

PATH = "/api/v1/publish"

_encode = msgspec.json.Encoder().encode


async def serve(deps: Deps, scope: Scope, receive: Receive, send: Send) -> None:
    """The route as an ASGI application. Answers every error itself."""
    try:
        auth.check(scope["headers"], deps.settings.api_key)
        answer = await _publish(deps, scope, receive)
    except Exception as exc:  # noqa: BLE001 - the border: whatever it is, the client gets an answer
        answer = problems.answer_to(exc)
    await problems.send(answer, send)


async def _publish(deps: Deps, scope: Scope, receive: Receive) -> http_in_place.Answer:
    settings = deps.settings
    if scope["query_string"] and deps.refuses_unknown:
        queries.check_names(scope["query_string"], ())  # what somebody meant to narrow the event by
    body = await bodies.read(scope, receive, settings.api_max_body_bytes)
    request = forms.publish_request(body, settings, deps.now_ms())
    actor = auth.admin()
    return _answer(actor, await deps.publisher.publish(actor, request))


def _answer(actor: actors.Actor, done: commands.Published) -> http_in_place.Answer:
    content = _encode(schemas.Published(done.id, done.duplicate, done.destinations))
    return http_in_place.Answer(202, content, paths.written(actor, done.position))


class InPlace:
    """The route for `http_in_place`: nothing is awaited but the flush that carries the event. The few requests
    that need more (a tenant that is not in memory or has changed, filters that are much work) get a task of their
    own."""

    path = PATH.encode()

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._tasks: set[asyncio.Task[None]] = set()
        self.max_body_bytes = deps.settings.api_max_body_bytes

    def refusal(self, headers: http_in_place.Headers) -> http_in_place.Answer | None:
        """See `http_in_place.Route`."""
        try:
            auth.check(headers, self._deps.settings.api_key)
        except problems.Unauthorized as exc:
            return problems.answer_to(exc)
        return None

    def too_large(self) -> http_in_place.Answer:
        """See `http_in_place.Route`."""
        return problems.answer_to(problems.TooLarge(self.max_body_bytes))

    def accept(self, body: bytes, respond: http_in_place.Respond) -> None:
        """See `http_in_place.Route`."""
        deps = self._deps
        try:
            request = forms.publish_request(body, deps.settings, deps.now_ms())
            actor = auth.admin()
            under_way = deps.publisher.at_once(actor, request)
        except Exception as exc:  # noqa: BLE001 - the border: whatever it is, the client gets an answer
            respond(problems.answer_to(exc))
            return
        if under_way is None:
            self._slowly(actor, request, respond, fresh=False)
            return
        matched, appended = under_way
        appended.add_done_callback(lambda answered: self._answered(answered, actor, request, matched, respond))

    def _answered(
        self,
        answered: asyncio.Future[commands.Answer],
        actor: actors.Actor,
        request: commands.Publish,
        matched: commands.Matches,
        respond: http_in_place.Respond,
    ) -> None:
        # `result()` would raise here, with a traceback that refers to this frame, hence to the future and back.
        failed = _stopping() if answered.cancelled() else answered.exception()
        if failed is not None:
            respond(problems.answer_to(failed if isinstance(failed, Exception) else _stopping()))
            return
        done = commands.published(request, matched, answered.result())
        if done is None:
            self._slowly(actor, request, respond, fresh=True)
        else:
            respond(_answer(actor, done))

    def _slowly(
        self, actor: actors.Actor, request: commands.Publish, respond: http_in_place.Respond, *, fresh: bool
    ) -> None:
        async def publish() -> None:
            try:
                answer = _answer(actor, await self._deps.publisher.publish(actor, request, fresh=fresh))
            except Exception as exc:  # noqa: BLE001 - the same border
                answer = problems.answer_to(exc)
            respond(answer)

        task = asyncio.get_running_loop().create_task(publish())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _stopping() -> errors.StoreUnavailable:
    return errors.StoreUnavailable("redis", "shutting down")


@post(
    "/publish",
    status_code=202,
    operation_id="publishEvent",
    tags=["Publish"],
    opt=openapi.body(schemas.PublishRequest),
    responses=openapi.errors(401, 413, 415, 422, 503),
)
async def publish(request: Call) -> Response[schemas.Published]:
    """Publish an event. 202 means that it is in the log; with zero matching destinations it is stored as well."""
    answer = await _publish(request.deps, request.scope, request.receive)
    content: Any = answer.body  # encoded already; the annotation is for the document
    return Response(content, status_code=answer.status, headers=answer.headers, media_type="application/json")
