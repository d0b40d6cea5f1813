"""The OpenAPI document: Litestar's, from the handlers, completed with what the handlers read themselves.

Bodies and query parameters are read by hand, so that every fault of a request is told and lists may be spelt in
three ways; each handler names them in its `opt`, and the schemas come from the structs.
"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Components, SecurityScheme

from outpost.adapters import base
from outpost.api import schemas

API_VERSION = "1"  # of the API; anybody may read the document, and the release is nobody's business
OPEN = "open"  # in `opt`: no API key is needed
_BODY, _QUERY, _IGNORED, _REQUIRED = "body", "query", "query_ignored", "body_required"
_SCHEME = "ApiKey"
_REFERENCE = "#/components/schemas/{name}"
_METHODS = ("get", "put", "post", "patch", "delete")
_WORDS = {
    400: "The request cannot be carried out",
    401: "No API key, or another one",
    404: "There is no such thing",
    413: "The body is too large",
    415: "The body has a content coding other than gzip",
    422: "The request breaks rules; `data` names each",
    503: "A store is away or full; come again after `Retry-After` seconds",
}
_WRITTEN = {
    "X-Outpost-Position": {
        "description": "Where the change stands in the log; missing if nothing had to change.",
        "schema": {"type": "string"},
    },
    "X-Request-Id": {"description": "The request, as the log names it.", "schema": {"type": "string"}},
}
_STRUCTS = (
    schemas.Error,
    schemas.Success,
    schemas.Tenant,
    schemas.TenantPage,
    schemas.TenantUpsert,
    schemas.Destination,
    schemas.DestinationCreate,
    schemas.DestinationUpdate,
    base.DestinationType,
    schemas.PublishRequest,
    schemas.Published,
    schemas.EventPage,
    schemas.AttemptPage,
    schemas.RetryRequest,
    schemas.Health,
    schemas.Readiness,
)

CONFIG = OpenAPIConfig(
    title="Outpost",
    version=API_VERSION,
    security=[{_SCHEME: []}],
    components=Components(security_schemes={_SCHEME: SecurityScheme(type="http", scheme="bearer")}),
    use_handler_docstrings=True,
)


def body(struct: type[msgspec.Struct], *, required: bool = True) -> dict[str, Any]:
    """For `opt`: the handler reads a body of this form."""
    return {_BODY: struct, _REQUIRED: required}


def makes_tenant(opt: dict[str, Any]) -> bool:
    """Whether the tenant that the path of a handler with this `opt` names need not exist yet."""
    return opt.get(_BODY) is schemas.TenantUpsert


def query(*parameters: dict[str, Any], ignored: tuple[str, ...] = ()) -> dict[str, Any]:
    """For `opt`: the handler reads these query parameters. `ignored` may be given as well, since the path names
    them."""
    return {_QUERY: list(parameters), _IGNORED: ignored}


def parameters(opt: dict[str, Any]) -> frozenset[str]:
    """The names of the query parameters that a handler with this `opt` takes."""
    return frozenset(parameter["name"] for parameter in opt.get(_QUERY, ())).union(opt.get(_IGNORED, ()))


def parameter(name: str, description: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    """A query parameter, a text unless `schema` says otherwise."""
    return {
        "name": name,
        "in": "query",
        "required": False,
        "description": description,
        "schema": schema or {"type": "string"},
    }


def many(name: str, description: str) -> dict[str, Any]:
    """A query parameter that may be repeated."""
    text = {"type": "string"}
    schema = {"oneOf": [text, {"type": "array", "items": text}]}
    return {**parameter(name, description, schema), "style": "form", "explode": True}


def time_range(description: str) -> dict[str, Any]:
    """`time[gte]` and its siblings."""
    moment = {"type": "string", "description": "An RFC 3339 date-time, or a date."}
    schema = {"type": "object", "properties": dict.fromkeys(("gte", "lte", "gt", "lt"), moment)}
    return {**parameter("time", description, schema), "style": "deepObject", "explode": True}


def pages(order: str, default: int, most: int, *, strict: bool) -> tuple[dict[str, Any], ...]:
    """The parameters of a paged list. Bounds are declared only where they are enforced: a list that is not
    `strict` takes any limit for the nearest that it knows."""
    limit: dict[str, Any] = {"type": "integer", "default": default}
    words = "How many; fewer where they are large."
    if strict:
        limit |= {"minimum": 1, "maximum": most}
    else:
        words += f" A larger limit than {most} means {most}, one below 1 means {default}."
    return (
        parameter("limit", words, limit),
        parameter("next", "The cursor `pagination.next` of an answer; not together with `prev`."),
        parameter("prev", "The cursor `pagination.prev` of an answer; not together with `next`."),
        parameter("dir", "Direction.", {"type": "string", "enum": ["asc", "desc"], "default": "desc"}),
        parameter("order_by", "The order.", {"type": "string", "enum": [order], "default": order}),
    )


def errors(*statuses: int) -> dict[int, ResponseSpec]:
    """For `responses`: what may go wrong, beside 500."""
    return {
        status: ResponseSpec(
            schemas.Error, generate_examples=False, description=_WORDS.get(status, "Something unexpected")
        )
        for status in (*statuses, 500)
    }


def created(struct: type[msgspec.Struct]) -> dict[int, ResponseSpec]:
    """For `responses`: the answer where the request made something."""
    return {201: ResponseSpec(struct, generate_examples=False, description="It is new")}


def unready(struct: type[msgspec.Struct]) -> dict[int, ResponseSpec]:
    """For `responses` of health and readiness."""
    return {503: ResponseSpec(struct, generate_examples=False, description="The process cannot do its work")}


def document(app: Litestar) -> bytes:
    """The finished document as JSON. `app` has `CONFIG`, so it is not one that is served: it has pages about the
    document, with scripts from elsewhere."""
    whole = app.openapi_schema.to_schema()
    _, components = msgspec.json.schema_components(_STRUCTS, ref_template=_REFERENCE)
    whole["components"]["schemas"] = components
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            if not isinstance(handler, HTTPRouteHandler) or not handler.include_in_schema:
                continue
            for method in handler.http_methods:
                item = whole["paths"].get(getattr(route, "path_format", ""), {})
                if (operation := item.get(method.lower())) is not None:
                    _complete(operation, handler)
    return msgspec.json.encode(whole)


def _complete(operation: dict[str, Any], handler: HTTPRouteHandler) -> None:
    opt = handler.opt
    operation["summary"] = str(operation["description"]).partition(".")[0]
    if "GET" not in handler.http_methods:
        for status, answer in operation["responses"].items():
            if status.startswith("2"):
                answer["headers"] = _WRITTEN
    documented = {str(status) for status in handler.responses or ()}
    if "400" not in documented:
        operation["responses"].pop("400", None)  # Litestar's own error, which no client ever sees
    if opt.get(OPEN):
        operation["security"] = []
    if opt.get(_QUERY):
        operation["parameters"] = [*operation.get("parameters", []), *opt[_QUERY]]
    if struct := opt.get(_BODY):
        schema = {"$ref": _REFERENCE.format(name=struct.__name__)}
        content = {"application/json": {"schema": schema}}
        operation["requestBody"] = {"required": opt[_REQUIRED], "content": content}
