"""The OpenAPI document: complete, and what the API really answers."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from outpost import settings
from tests.harness.api_server import WEBHOOK, Api

Json = dict[str, Any]
# The published operation ids, from which SDKs make the names of their methods; the readiness probe is ours.
OPERATIONS = {
    "createTenantDestination": "POST /tenants/{tenant_id}/destinations",
    "deleteTenant": "DELETE /tenants/{tenant_id}",
    "deleteTenantDestination": "DELETE /tenants/{tenant_id}/destinations/{destination_id}",
    "disableTenantDestination": "PUT /tenants/{tenant_id}/destinations/{destination_id}/disable",
    "enableTenantDestination": "PUT /tenants/{tenant_id}/destinations/{destination_id}/enable",
    "getAttempt": "GET /attempts/{attempt_id}",
    "getDestinationTypeSchema": "GET /destination-types/{type}",
    "getEvent": "GET /events/{event_id}",
    "getTenant": "GET /tenants/{tenant_id}",
    "getTenantDestination": "GET /tenants/{tenant_id}/destinations/{destination_id}",
    "getTenantDestinationAttempt": "GET /tenants/{tenant_id}/destinations/{destination_id}/attempts/{attempt_id}",
    "healthCheck": "GET /healthz",
    "listAttempts": "GET /attempts",
    "listDestinationTypeSchemas": "GET /destination-types",
    "listEvents": "GET /events",
    "listTenantDestinationAttempts": "GET /tenants/{tenant_id}/destinations/{destination_id}/attempts",
    "listTenantDestinations": "GET /tenants/{tenant_id}/destinations",
    "listTenants": "GET /tenants",
    "listTopics": "GET /topics",
    "publishEvent": "POST /publish",
    "readinessCheck": "GET /readyz",
    "retryEvent": "POST /retry",
    "updateTenantDestination": "PATCH /tenants/{tenant_id}/destinations/{destination_id}",
    "upsertTenant": "PUT /tenants/{tenant_id}",
}
OPEN = {"healthCheck", "readinessCheck"}
WITH_BODY = {"createTenantDestination", "publishEvent", "retryEvent", "updateTenantDestination", "upsertTenant"}


@pytest.fixture
async def document(api: Api) -> Json:
    async with api.client({}) as http:
        answer = await http.get("http://outpost/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    return answer.json()


def operations(document: Json) -> dict[str, tuple[str, str, Json]]:
    return {
        operation["operationId"]: (method.upper(), path.removeprefix("/api/v1"), operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


async def test_every_operation_is_there_under_its_published_name(document: Json) -> None:
    found = {name: f"{method} {path}" for name, (method, path, _) in operations(document).items()}
    assert found == OPERATIONS
    assert document["openapi"].startswith("3.1")


async def test_every_reference_leads_somewhere(document: Json) -> None:
    references = set(
        re.findall(r'"\$ref": ?"#/components/schemas/(\w+)"', httpx.Response(200, json=document).text)
    )
    assert references
    assert references <= document["components"]["schemas"].keys()


async def test_every_operation_says_what_it_takes_and_what_may_go_wrong(document: Json) -> None:
    for name, (method, path, operation) in operations(document).items():
        parameters = operation.get("parameters", [])
        assert {p["name"] for p in parameters if p["in"] == "path"} == set(re.findall(r"{(\w+)}", path)), name
        assert ("requestBody" in operation) == (name in WITH_BODY), name
        assert operation["description"], name
        answers = operation["responses"]
        assert any(status.startswith("2") for status in answers), name
        for status, answer in answers.items():
            schema = answer["content"]["application/json"]["schema"]
            if status >= "400" and name not in OPEN:
                assert schema == {"$ref": "#/components/schemas/Error"}, name
        if method != "GET":
            success = next(answer for status, answer in answers.items() if status.startswith("2"))
            assert "X-Outpost-Position" in success["headers"], name


async def test_all_but_health_needs_the_key(document: Json) -> None:
    (scheme,) = document["security"][0]
    assert document["components"]["securitySchemes"][scheme] == {"type": "http", "scheme": "bearer"}
    for name, (_, _, operation) in operations(document).items():
        assert (operation.get("security") == []) == (name in OPEN), name
        assert ("401" in operation["responses"]) == (name not in OPEN), name


async def test_lists_document_their_parameters(document: Json) -> None:
    def named(operation: str) -> set[str]:
        return {p["name"] for p in operations(document)[operation][2]["parameters"] if p["in"] == "query"}

    pages = {"limit", "next", "prev", "dir", "order_by"}
    assert named("listTenants") == {"id", *pages}
    assert named("listTenantDestinations") == {"type", "topics"}
    assert named("listEvents") == {"id", "tenant_id", "destination_id", "topic", "time", *pages}
    of_destination = {"event_id", "destination_type", "status", "topic", "time", "include", *pages}
    assert named("listTenantDestinationAttempts") == of_destination
    assert named("listAttempts") == {"tenant_id", "destination_id", *of_destination}
    assert named("getEvent") == {"tenant_id"}
    assert named("getAttempt") == {"tenant_id", "include"}


async def test_answers_are_as_documented(api: Api, document: Json) -> None:
    known = operations(document)

    async def call(name: str, path: str, body: object = None) -> httpx.Response:
        method, _, operation = known[name]
        answer = await api.http.request(method, path, json=body)
        documented = operation["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
        assert misfits(document, documented, answer.json()) == [], name
        return answer

    full = {**WEBHOOK, "id": "d1", "filter": {"data": {"n": 1}}, "metadata": {"a": "b"}}
    await call("upsertTenant", "/tenants/acme", {"metadata": {"a": 1}})
    await call("upsertTenant", "/tenants/acme")
    await call("upsertTenant", "/tenants/acme", {"metadata": 1})
    await call("getTenant", "/tenants/acme")
    await call("getTenant", "/tenants/nobody")
    await call("listTenants", "/tenants")
    await call("listTenants", "/tenants?limit=0")
    await call("listTenants", "/tenants?dir=x")
    one = "/tenants/acme/destinations/d1"
    await call("createTenantDestination", "/tenants/acme/destinations", {**full, "delivery_metadata": {"c": "d"}})
    await call("createTenantDestination", "/tenants/acme/destinations", full)
    await call("createTenantDestination", "/tenants/acme/destinations", {})
    await call("listTenantDestinations", "/tenants/acme/destinations")
    await call("getTenantDestination", one)
    await call("updateTenantDestination", one, {"filter": None})
    await call("disableTenantDestination", f"{one}/disable")
    await call("enableTenantDestination", f"{one}/enable")
    await call("publishEvent", "/publish", {"tenant_id": "acme", "topic": "user.created", "data": {}})
    await call("publishEvent", "/publish", {})
    await call("deleteTenantDestination", one)
    await call("deleteTenant", "/tenants/acme")
    await call("listTopics", "/topics")
    await call("listDestinationTypeSchemas", "/destination-types")
    await call("getDestinationTypeSchema", "/destination-types/webhook")
    await call("getDestinationTypeSchema", "/destination-types/pigeon")
    await call("healthCheck", "/healthz")
    await call("readinessCheck", "/readyz")
    await call("listEvents", "/events")
    await call("listAttempts", "/attempts")


TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


def misfits(document: Json, schema: Json, value: Any, at: str = "$") -> list[str]:
    """Where `value` is not what `schema` says; nothing undocumented is allowed in an object of ours."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return misfits(document, document["components"]["schemas"][name], value, f"{at}({name})")
    if any_of := schema.get("anyOf"):
        return [] if any(not misfits(document, one, value, at) for one in any_of) else [f"{at}: fits none"]
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{at}: {value!r}"]
    wanted = schema.get("type")
    if wanted is not None and not isinstance(value, TYPES[wanted]):
        return [f"{at}: {value!r} is no {wanted}"]
    if isinstance(value, list):
        return [x for i, item in enumerate(value) for x in misfits(document, schema["items"], item, f"{at}[{i}]")]
    if not isinstance(value, dict):
        return []
    found = [f"{at}.{name} is missing" for name in schema.get("required", ()) if name not in value]
    for name, item in value.items():
        if name in schema.get("properties", {}):
            found += misfits(document, schema["properties"][name], item, f"{at}.{name}")
        elif isinstance(schema.get("additionalProperties"), dict):
            found += misfits(document, schema["additionalProperties"], item, f"{at}.{name}")
        elif "properties" in schema:
            found.append(f"{at}.{name} is not documented")
    return found


def beyond(schema: Json) -> list[str]:
    """A value beyond each bound of a parameter."""
    values = [str(schema["minimum"] - 1)] if "minimum" in schema else []
    values += [str(schema["maximum"] + 1), "1e9", "x"] if "maximum" in schema else []
    return values + (["other", schema["enum"][0].upper()] if "enum" in schema else [])


async def test_every_declared_bound_of_a_parameter_is_enforced(api: Api, document: Json) -> None:
    await api.tenant()
    asked = set()
    for id_, (method, path, operation) in operations(document).items():
        for parameter in operation.get("parameters", []):
            schema, name = parameter["schema"], parameter["name"]
            for value in beyond(schema) if parameter["in"] == "query" else []:
                url = path.format(
                    tenant_id="acme", destination_id="d", attempt_id="a", event_id="e", type="webhook"
                )
                answer = await api.http.request(method, url, params={name: value})
                assert answer.status_code in (400, 422), (id_, name, value, answer.text)
                told = answer.json()
                limit = (400, "limit") == (answer.status_code, name) and told["message"].startswith(
                    "invalid limit"
                )
                assert limit or [f"query.{name}"] == list(told["data"])
                asked.add((id_, name))
    lists = ("listEvents", "listAttempts", "listTenantDestinationAttempts", "listTenants")
    assert {(id_, name) for id_ in lists for name in ("dir", "order_by")} | {("listTenants", "limit")} == asked


async def test_every_declared_length_in_a_body_is_enforced(api: Api, document: Json) -> None:
    await api.tenant()
    asked = set()
    for id_, (method, path, operation) in operations(document).items():
        if id_ not in WITH_BODY:
            continue
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        struct = document["components"]["schemas"][reference.rpartition("/")[2]]
        for name, schema in struct["properties"].items():
            for each in schema.get("anyOf", [schema]):
                if "maxLength" not in each:
                    continue
                body = {name: "x" * (each["maxLength"] + 1)}
                url = path.format(tenant_id="acme", destination_id="d")
                if id_ == "updateTenantDestination":
                    url = path.format(tenant_id="acme", destination_id=(await api.destination())["id"])
                answer = await api.http.request(method, url, json=body)
                assert 422 == answer.status_code, (id_, name)
                assert any(sentence.startswith(name) for sentence in answer.json()["data"]), (id_, name)
                asked.add((id_, name))
    assert {("publishEvent", "tenant_id"), ("publishEvent", "id"), ("retryEvent", "event_id")} <= asked


async def test_there_are_no_pages_about_the_document_and_no_release_in_it(api: Api, document: Json) -> None:
    assert settings.VERSION not in httpx.Response(200, json=document).text
    async with api.client({}) as http:
        for path in (
            "/schema",
            "/schema/swagger",
            "/schema/openapi.json",
            "/schema/openapi.yaml",
            "/schema/redoc",
        ):
            answer = await http.get(f"http://outpost{path}")
            assert (404, {"status": 404, "message": "not found"}) == (answer.status_code, answer.json()), path
