"""Every error as an answer: `{"status", "message", "data"?}` as JSON, with the status that belongs to it.

What nothing expected is 500 without a word of its cause; the log line says the type and place of the exception,
never what it says, since that may quote a request.
"""

from __future__ import annotations

import traceback
from http import HTTPStatus
from pathlib import Path

import msgspec
from litestar import Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.types import Send

from outpost import errors, telemetry
from outpost.api import in_place as http_in_place
from outpost.api import schemas
from outpost.commands import values

VALIDATION_ERROR = "validation error"
QUERY = "query."  # how the paths of query parameters begin
# Rules that are told by their sentence, where nothing else is wrong; others stand in `data`.
_TOLD = frozenset({"filter", "filters", "future", "rfc3339", "unavailable"})
_WRONG_TYPE = "type"  # as bad as JSON that cannot be read
RETRY_AFTER = {"Retry-After": "1"}  # seconds; stores come back within one or are away for longer
RETRY_LATER = {"Retry-After": "5"}  # about as often as entries leave Redis

_JSON = (b"content-type", b"application/json")
_MESSAGES = {401: "unauthorized", 404: "not found"}


class TooLarge(HTTPException):
    """The body is larger than `limit` bytes. Reading stopped there, so the connection is of no more use."""

    status_code = 413

    def __init__(self, limit: int) -> None:
        super().__init__(detail="request body too large")
        self.limit = limit


class UnknownCoding(HTTPException):
    """The body has a Content-Encoding that is not undone here."""

    status_code = 415

    def __init__(self) -> None:
        super().__init__(detail="the Content-Encoding of a body must be gzip or identity")


class Unauthorized(HTTPException):
    """No API key, or another one."""

    status_code = 401


def handle(_request: Request[object, object, State], exc: Exception) -> Response[bytes]:
    """Litestar's handler of every exception."""
    answer = answer_to(exc)
    return Response(answer.body, status_code=answer.status, headers=answer.headers, media_type="application/json")


async def send(answer: http_in_place.Answer, transmit: Send) -> None:
    """The answer over ASGI, without Litestar."""
    headers = [_JSON, (b"content-length", b"%d" % len(answer.body))]
    headers += [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
    await transmit({"type": "http.response.start", "status": answer.status, "headers": headers})
    await transmit({"type": "http.response.body", "body": answer.body, "more_body": False})


def answer_to(exc: Exception) -> http_in_place.Answer:
    """What the client is told."""
    match exc:
        case errors.Invalid():
            return _invalid(exc)
        case errors.Refused(message=message, data=data):
            return _answer(400, message, data)
        case errors.NotFound():
            return _answer(404, str(exc))
        case errors.Contended() | errors.Busy():
            return _answer(503, str(exc), headers=RETRY_AFTER)
        case errors.Halted(position=position):
            return _answer(503, str(exc), {"position": position})
        case errors.OverBudget(store=store):
            return _answer(503, "the log is over its memory budget", {"store": store}, RETRY_LATER)
        case errors.StoreFull(store=store):
            return _answer(503, f"{store} is full", {"store": store}, RETRY_AFTER)
        case errors.StoreUnavailable(store=store):
            return _answer(503, f"{store} is unavailable", {"store": store}, RETRY_AFTER)
        case TooLarge(limit=limit):
            sentence = f"body must be at most {limit} bytes"
            return _answer(413, exc.detail, [sentence], {"Connection": "close"})
        case UnknownCoding():
            return _answer(415, exc.detail, headers={"Accept-Encoding": "gzip"})
        case HTTPException(status_code=status) if status < 500:
            status = 404 if status == 405 else status  # the published server does not tell methods apart
            return _answer(status, _MESSAGES.get(status, HTTPStatus(status).phrase.lower()))
    return _unexpected(exc)


def _invalid(exc: errors.Invalid) -> http_in_place.Answer:
    problems = exc.problems
    if problems and all(problem.path.startswith(QUERY) for problem in problems):
        return _answer(422, exc.message, {problem.path: problem.sentence() for problem in problems})
    message = exc.message
    if message == VALIDATION_ERROR and any(problem.rule == _WRONG_TYPE for problem in problems):
        message = values.INVALID_JSON
    elif message == VALIDATION_ERROR and len(problems) == 1 and problems[0].rule in _TOLD:
        message = problems[0].sentence()
    return _answer(422, message, [problem.sentence() for problem in problems])


def _unexpected(exc: Exception) -> http_in_place.Answer:
    frames = traceback.extract_tb(exc.__traceback__, limit=-1)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    telemetry.emit_sampled("request_failed", "error", exception=type(exc).__name__, place=place)
    return _answer(500, "internal server error")


def _answer(
    status: int,
    message: str,
    data: list[str] | dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> http_in_place.Answer:
    return http_in_place.Answer(
        status, msgspec.json.encode(schemas.Error(status, message, data or None)), headers or {}
    )
