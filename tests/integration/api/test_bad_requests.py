"""Bad requests: each with its exact status, and the path and rule of every fault; none is a 500."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

import httpx
import msgspec
import pytest
import pytest_asyncio

from outpost import cursor
from outpost.commands import values
from outpost.log import partition as partitions
from tests.harness import servers
from tests.harness.api_server import SETTINGS, WEBHOOK, Api

pytestmark = pytest.mark.asyncio(loop_scope="module")

TENANT = "/tenants/acme"
DESTINATIONS = "/tenants/acme/destinations"
ONE = "/tenants/acme/destinations/d1"
LONG = "x" * 256
DEEP = b"[" * 10_000 + b"]" * 10_000
PUBLISH = {"tenant_id": "acme", "topic": "user.created", "data": {}}
Data = list[str] | dict[str, str] | None
NO_JSON = "invalid JSON"  # what values of a wrong type are told as well


class Bad(NamedTuple):
    """`body`: bytes as they are, anything else as JSON, None for none."""

    name: str
    method: str
    path: str
    body: object
    status: int
    data: Data
    message: str = "validation error"


def publish(name: str, change: dict[str, object], *data: str, message: str = "validation error") -> Bad:
    return Bad(f"publish {name}", "POST", "/publish", {**PUBLISH, **change}, 422, list(data), message)


def create(name: str, change: dict[str, object], *data: str, message: str = "validation error") -> Bad:
    return Bad(f"create {name}", "POST", DESTINATIONS, {**WEBHOOK, **change}, 422, list(data), message)


def patch(name: str, change: object, *data: str, message: str = "validation error") -> Bad:
    return Bad(f"patch {name}", "PATCH", ONE, change, 422, list(data), message)


def get(name: str, path: str, status: int, data: Data, message: str = "validation error") -> Bad:
    return Bad(f"get {name}", "GET", path, None, status, data, message)


def malformed(name: str, method: str, path: str) -> list[Bad]:
    """What no route that reads a body accepts."""
    json, utf8, type_ = ([f"body failed {rule} validation"] for rule in ("json", "utf8", "type"))
    deep = [f"body must be nested at most {values.MAX_DEPTH} deep"]
    large = [f"body must be at most {SETTINGS.api_max_body_bytes} bytes"]
    rows: list[tuple[str, bytes, list[str]]] = [
        ("cut off", b'{"a":', json),
        ("trailing comma", b'{"a":1,}', json),
        ("two values", b"{}{}", json),
        ("no JSON", b"tenant_id=acme", json),
        ("NaN", b'{"a":NaN}', json),
        ("invalid UTF-8 in a value", b'{"tenant_id":"\xff"}', utf8),
        ("invalid UTF-8 in a key", b'{"\xc3\x28":1}', utf8),
        (
            "invalid UTF-8 in the data",
            b'{"tenant_id":"acme","topic":"user.created","data":{"a":"\xed\xa0\x80"}}',
            utf8,
        ),
        ("nested objects", b'{"data":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001, deep),
        ("nested lists", b'{"config":' + DEEP + b"}", deep),
        ("an array", b"[]", type_),
        ("a string", b'"acme"', type_),
        ("null", b"null", type_),
    ]
    if not name.startswith("publish"):  # which keeps data that nothing decodes
        rows.append(("half a surrogate pair", b'{"metadata":"\\ud800"}', json))
        rows.append(("a number that nothing holds", b'{"metadata":{"a":1e400}}', json))
    bad = [Bad(f"{name} {what}", method, path, body, 422, data, NO_JSON) for what, body, data in rows]
    oversized = b'{"metadata":{"a":"' + b"x" * SETTINGS.api_max_body_bytes + b'"}}'
    return [*bad, Bad(f"{name} too large", method, path, oversized, 413, large, "request body too large")]


MALFORMED = [
    *malformed("publish", "POST", "/publish"),
    *malformed("publish by Litestar", "POST", "/publish/"),
    *malformed("put tenant", "PUT", TENANT),
    *malformed("create", "POST", DESTINATIONS),
    *malformed("patch", "PATCH", ONE),
    Bad("publish nothing", "POST", "/publish", None, 422, ["body failed json validation"], NO_JSON),
    Bad("create nothing", "POST", DESTINATIONS, None, 422, ["body failed json validation"], NO_JSON),
    Bad("patch nothing", "PATCH", ONE, None, 422, ["body failed json validation"], NO_JSON),
]

CONTROL = "must not contain control characters"
MOMENT = "must be an RFC 3339 date-time between 1970 and 2200"
NO_OBJECT = "data must be a valid JSON object"
PUBLISHES = [
    Bad(
        "publish an empty object",
        "POST",
        "/publish",
        {},
        422,
        ["tenant_id is required", "topic is required", "data is required"],
    ),
    publish("without a tenant", {"tenant_id": ""}, "tenant_id is required"),
    publish("for a null tenant", {"tenant_id": None}, "tenant_id is required"),
    publish("for a numeric tenant", {"tenant_id": 5}, "tenant_id failed type validation", message=NO_JSON),
    publish("tenant control", {"tenant_id": "a\x00"}, f"tenant_id {CONTROL}"),
    publish(
        "tenant too long",
        {"tenant_id": LONG},
        "tenant_id must be at most 255 bytes",
    ),
    publish("id of wrong type", {"id": ["x"]}, "id failed type validation", message=NO_JSON),
    publish("id control", {"id": "a\nb"}, f"id {CONTROL}"),
    publish("id too long", {"id": LONG}, "id must be at most 255 bytes"),
    publish(
        "destination of wrong type",
        {"destination_id": {}},
        "destination_id failed type validation",
        message=NO_JSON,
    ),
    publish(
        "destination control",
        {"destination_id": "\x7f"},
        f"destination_id {CONTROL}",
    ),
    publish("topic of wrong type", {"topic": 1}, "topic failed type validation", message=NO_JSON),
    publish("topic missing", {"topic": None}, "topic is required"),
    publish("topic unknown", {"topic": "user.updated"}, "topic is invalid"),
    publish("topic control", {"topic": "user\x00"}, f"topic {CONTROL}"),
    publish("data null", {"data": None}, NO_OBJECT),
    publish("data text", {"data": "x"}, NO_OBJECT),
    publish("data number", {"data": 1.5}, NO_OBJECT),
    publish("data list", {"data": [{}]}, NO_OBJECT),
    publish("metadata list", {"metadata": []}, "metadata failed type validation", message=NO_JSON),
    publish("metadata text", {"metadata": "x"}, "metadata failed type validation", message=NO_JSON),
    publish(
        "metadata values",
        {"metadata": {"a": 1, "b": "fine", "c": None, "d": {}}},
        "metadata.a failed type validation",
        "metadata.c failed type validation",
        "metadata.d failed type validation",
        message=NO_JSON,
    ),
    publish(
        "metadata control",
        {"metadata": {"a": "x\r\ny", "b\x00": "z"}},
        f"metadata.a {CONTROL}",
        f"metadata.b? {CONTROL}",
    ),
    publish(
        "metadata too long",
        {"metadata": {"a": "y" * 8_193, LONG: "a"}},
        "metadata.a must be at most 8192 bytes",
        f"metadata.{'x' * 64} must be at most 255 bytes",
    ),
    publish("time of wrong type", {"time": 1790000000}, "time failed type validation", message=NO_JSON),
    publish("time a date", {"time": "2024-01-01"}, f"time {MOMENT}", message=f"time {MOMENT}"),
    publish("time without a zone", {"time": "2024-01-01T00:00:00"}, f"time {MOMENT}", message=f"time {MOMENT}"),
    publish("time far away", {"time": "9999-01-01T00:00:00Z"}, f"time {MOMENT}", message=f"time {MOMENT}"),
    publish(
        "eligibility of wrong type",
        {"eligible_for_retry": "no"},
        "eligible_for_retry failed type validation",
        message=NO_JSON,
    ),
    publish(
        "much wrong at once",
        {"id": 1, "data": None, "time": "x", "topic": "nope", "metadata": {"k": 1}},
        "id failed type validation",
        "metadata.k failed type validation",
        "topic is invalid",
        NO_OBJECT,
        f"time {MOMENT}",
        message=NO_JSON,
    ),
]

TENANTS = [
    Bad("put metadata list", "PUT", TENANT, {"metadata": []}, 422, ["metadata failed type validation"], NO_JSON),
    Bad("put metadata text", "PUT", TENANT, {"metadata": "x"}, 422, ["metadata failed type validation"], NO_JSON),
    Bad(
        "put metadata control and length",
        "PUT",
        TENANT,
        {"metadata": {"a": "\x00", LONG: "b", "c": "y" * 2049}},
        422,
        [
            f"metadata.a {CONTROL}",
            f"metadata.{'x' * 64} must be at most 255 bytes",
            "metadata.c must be at most 2048 bytes",
        ],
    ),
    Bad("put id control", "PUT", "/tenants/a%00b", None, 422, [f"tenant_id {CONTROL}"]),
    Bad(
        "put id too long",
        "PUT",
        f"/tenants/{LONG}",
        None,
        422,
        ["tenant_id must be at most 255 bytes"],
    ),
    get("id control", "/tenants/a%0Ab", 404, None, "tenant not found"),
    Bad("delete id control", "DELETE", "/tenants/%7F", None, 404, None, "tenant not found"),
    Bad("put id not UTF-8", "PUT", "/tenants/a%FF", None, 422, ["tenant_id failed utf8 validation"]),
    Bad("put without an id", "PUT", "/tenants/", None, 404, None, "not found"),
    get("unknown tenant", "/tenants/nobody", 404, None, "tenant not found"),
    Bad("delete unknown tenant", "DELETE", "/tenants/nobody", None, 404, None, "tenant not found"),
]

TOPICS = "validation failed: invalid topics"
FORMAT = "validation failed: invalid topics format"
FUTURE = "cannot be in the future"
URL = "https://example.com/hook"
HEADER = "config.custom_headers"
CREATES = [
    Bad(
        "create an empty object",
        "POST",
        DESTINATIONS,
        {},
        422,
        ["topics is required", "type is required"],
    ),
    create("type missing", {"type": None}, "type is required"),
    create("type of wrong type", {"type": 1}, "type failed type validation", message=NO_JSON),
    create(
        "type unknown",
        {"type": "pigeon"},
        "type failed invalid_type validation",
        message="no provider registered for destination type: pigeon",
    ),
    create("topics missing", {"topics": None}, "topics is required"),
    create("topics empty", {"topics": []}, "topics is required", message=TOPICS),
    create("topics text", {"topics": "user.created"}, "topics failed format validation", message=FORMAT),
    create("topics of wrong type", {"topics": [1]}, "topics failed format validation", message=FORMAT),
    create("topic of nothing", {"topics": [""]}, "topics failed unknown validation", message=TOPICS),
    create("topic unknown", {"topics": ["nope"]}, "topics failed unknown validation", message=TOPICS),
    create("topic control", {"topics": ["user.\x00*"]}, "topics failed control validation", message=TOPICS),
    create("topic too long", {"topics": [LONG]}, "topics failed length validation", message=TOPICS),
    create("topic pattern of nothing", {"topics": ["x.*"]}, "topics failed unknown validation", message=TOPICS),
    create("topics mixed", {"topics": ["*", "order.paid"]}, "topics failed invalid validation", message=TOPICS),
    create("config missing", {"config": None}, "config.url is required"),
    create("config empty", {"config": {}}, "config.url is required"),
    create("url without a scheme", {"config": {"url": "example.com"}}, "config.url failed pattern validation"),
    create(
        "url of another scheme", {"config": {"url": "ftp://example.com"}}, "config.url failed pattern validation"
    ),
    create("url without a host", {"config": {"url": "https:///x"}}, "config.url failed pattern validation"),
    create("url with a bad port", {"config": {"url": "http://a:99999/"}}, "config.url failed pattern validation"),
    create("url with a line break", {"config": {"url": "http://a/\r\nb"}}, "config.url failed pattern validation"),
    *(
        create(f"header {name}", {"config": {"url": URL, "custom_headers": {name: value}}}, f"{HEADER}.{rule}")
        for name, value, rule in (
            ("Host", "a", "host is forbidden"),
            ("content-type", "a", "content-type is forbidden"),
            ("CONTENT-LENGTH", "1", "content-length is forbidden"),
            ("Connection", "close", "connection is forbidden"),
            ("User-Agent", "a", "user-agent is forbidden"),
            ("x-Empty", "", "x-empty is required"),
            ("x a", "b", "x a failed pattern validation"),
            ("_x", "b", "_x failed pattern validation"),
        )
    ),
    create(
        "headers of wrong type",
        {"config": {"url": URL, "custom_headers": [1]}},
        f"{HEADER} failed invalid validation",
    ),
    create("metadata list", {"metadata": []}, "metadata failed type validation", message=NO_JSON),
    create("metadata control", {"metadata": {"a": "\x01"}}, f"metadata.a {CONTROL}"),
    create(
        "delivery metadata line break",
        {"delivery_metadata": {"a": "b\r\nc: d"}},
        f"delivery_metadata.a {CONTROL}",
    ),
    create("id of wrong type", {"id": 5}, "id failed type validation", message=NO_JSON),
    create("id control", {"id": "\x1b"}, f"id {CONTROL}"),
    create("id too long", {"id": LONG}, "id must be at most 255 bytes"),
    create("filter text", {"filter": "x"}, "filter must be a JSON object", message=NO_JSON),
    create("filter list", {"filter": [1]}, "filter must be a JSON object", message=NO_JSON),
    create(
        "created in the future",
        {"created_at": "2100-01-01T00:00:00Z"},
        f"created_at {FUTURE}",
        message=f"created_at {FUTURE}",
    ),
    create(
        "all times wrong",
        {"created_at": "2100-01-01T00:00:00Z", "updated_at": "yesterday", "disabled_at": 5},
        "disabled_at failed type validation",
        f"created_at {FUTURE}",
        f"updated_at {MOMENT}",
        message=NO_JSON,
    ),
    create("empty secret", {"credentials": {"secret": ""}}, "credentials.secret is required"),
    create(
        "rotation of nothing",
        {"credentials": {"rotate_secret": True}},
        "credentials.rotate_secret failed invalid validation",
    ),
    create(
        "much wrong at once",
        {"type": "webhook", "topics": ["nope"], "config": {"url": "x"}, "metadata": 1, "filter": 1},
        "metadata failed type validation",
        "topics failed unknown validation",
        "filter must be a JSON object",
        "config.url failed pattern validation",
        message=NO_JSON,
    ),
    Bad("create taken id", "POST", DESTINATIONS, {**WEBHOOK, "id": "d1"}, 400, None, "destination already exists"),
    Bad("create for nobody", "POST", "/tenants/x/destinations", WEBHOOK, 404, None, "tenant not found"),
]

PATCHES = [
    patch("type", {"type": "kafka"}, "type failed immutable validation", message="type cannot be updated"),
    patch("topics empty", {"topics": []}, "topics is required", message=TOPICS),
    patch("topics unknown", {"topics": ["nope"]}, "topics failed unknown validation", message=TOPICS),
    patch("url away", {"config": {"url": None}}, "config.url is required"),
    patch("config away", {"config": None}, "config.url is required"),
    patch("config list", {"config": []}, "config failed type validation", message=NO_JSON),
    patch("metadata text", {"metadata": "x"}, "metadata failed type validation", message=NO_JSON),
    patch("filter text", {"filter": "x"}, "filter must be a JSON object", message=NO_JSON),
    patch("disabled of wrong type", {"disabled_at": True}, "disabled_at failed type validation", message=NO_JSON),
    patch("disabled malformed", {"disabled_at": "x"}, f"disabled_at {MOMENT}", message=f"disabled_at {MOMENT}"),
    patch(
        "disabled in the future",
        {"disabled_at": "2100-01-01T00:00:00Z"},
        f"disabled_at {FUTURE}",
        message=f"disabled_at {FUTURE}",
    ),
    Bad("patch unknown", "PATCH", f"{DESTINATIONS}/nope", {}, 404, None, "destination not found"),
    Bad("patch control id", "PATCH", f"{DESTINATIONS}/%00", {}, 404, None, "destination not found"),
    Bad("enable unknown", "PUT", f"{DESTINATIONS}/nope/enable", None, 404, None, "destination not found"),
]

INTEGER = "invalid limit: must be an integer"
RANGE = "invalid limit: must be between 1 and 100"
BOTH = "cannot specify both 'next' and 'prev' cursors"
DIRECTION = "must be 'asc' or 'desc'"
TIME = "invalid format, expected RFC3339 or YYYY-MM-DD"
VERSION = "invalid cursor: cursor version mismatch: expected version 01"
LISTS = ("/events", "/attempts", f"{ONE}/attempts")


def operator(name: str) -> str:
    return f"operator '{name}' is not supported, use 'gte', 'lte', 'gt', or 'lt'"


def written(position: str) -> str:
    """The text of a cursor that this version does not make."""
    return cursor.base62(position.encode())


QUERIES = [
    *(
        get(f"limit {limit}", f"/tenants?limit={limit}", 400, None, INTEGER)
        for limit in ("abc", "ten", "1.5", "1e2", "10px", "%20", "99999999999999999999", "-", "\u0661")
    ),
    *(
        get(f"limit {limit}", f"/tenants?limit={limit}", 400, None, RANGE)
        for limit in ("0", "101", "-1", "1000000", "%2B0")
    ),
    get("tenant direction", "/tenants?dir=up", 422, {"query.dir": DIRECTION}),
    get("tenant order", "/tenants?order_by=id", 422, {"query.order_by": "must be one of: [created_at]"}),
    get("both cursors of tenants", "/tenants?next=a&prev=b", 400, None, BOTH),
    *(
        get(f"tenants {name} cursor {text}", f"/tenants?{name}={text}", 400, None, message)
        for name in ("next", "prev")
        for text, message in (
            ("garbage!", "invalid cursor: invalid cursor"),
            (cursor.encode_cursor("evt", "1::1-1.1"), "invalid cursor: invalid cursor"),
            (cursor.encode_cursor("tnt", "yesterday"), "invalid cursor: invalid timestamp"),
            (cursor.encode_cursor("tnt", "yesterday::acme"), "invalid cursor: invalid timestamp"),
            (written("tntv02:1::x"), VERSION),
        )
    ),
    get("tenant id control", "/tenants?id=a%00", 422, {"query.id": f"query.id {CONTROL}"}),
    *(get(f"{path} direction", f"{path}?dir=up", 422, {"query.dir": DIRECTION}) for path in LISTS),
    *(
        get(f"{path} order", f"{path}?order_by=id", 422, {"query.order_by": "must be one of: [time]"})
        for path in LISTS
    ),
    get(
        "direction and order",
        "/events?dir=x&order_by=y",
        422,
        {"query.dir": DIRECTION, "query.order_by": "must be one of: [time]"},
    ),
    *(get(f"{path} both cursors", f"{path}?next=a&prev=b", 400, None, BOTH) for path in LISTS),
    *(
        get(f"{path} operator {name}", f"{path}?time[{name}]=2024-01-01", 400, None, operator(name))
        for path in LISTS
        for name in ("any", "GTE", "eq")
    ),
    *(
        get(f"{path} time {name}", f"{path}?time[{name}]={value}", 422, {f"query.time[{name}]": TIME})
        for path in LISTS
        for name, value in (("gte", "2024-13-01"), ("lte", "yesterday"), ("gt", "1"), ("lt", "2024-01-01T00:00"))
    ),
    get("times", "/events?time[gte]=x&time[lt]=y", 422, {"query.time[gte]": TIME, "query.time[lt]": TIME}),
    get("event id control", "/events?id=%00", 422, {"query.id": f"query.id {CONTROL}"}),
    get(
        "attempt tenant control",
        "/attempts?tenant_id[]=%1F",
        422,
        {"query.tenant_id": f"query.tenant_id {CONTROL}"},
    ),
    get(
        "too many parameters",
        "/events?" + "&".join(["id=a"] * 1001),
        400,
        None,
        "at most 1000 query parameters are accepted",
    ),
]

NOBODY = [
    Bad(f"{what} of {who}", method, f"/tenants/{tenant}{path}", body, 404, None, "tenant not found")
    for who, tenant in (("nobody", "nobody"), ("control", "a%00b"), ("no UTF-8", "a%FF"), ("too long", LONG))
    for what, method, path, body in (
        ("itself with a parameter", "GET", "?name=a", None),
        ("away with a parameter", "DELETE", "?name=a", None),
        ("list", "GET", "/destinations?type=%00", None),
        ("list with a parameter", "GET", "/destinations?topic=a", None),
        ("create nothing", "POST", "/destinations", None),
        ("create no JSON", "POST", "/destinations", b'{"a":'),
        ("create an empty object", "POST", "/destinations", {}),
        ("create an unknown type", "POST", "/destinations", {**WEBHOOK, "type": "pigeon"}),
        ("create", "POST", "/destinations", WEBHOOK),
        ("one", "GET", "/destinations/d1", None),
        ("patch no JSON", "PATCH", "/destinations/d1", b"x"),
        ("patch", "PATCH", "/destinations/d1", {"topics": []}),
        ("delete", "DELETE", "/destinations/d1", None),
        ("enable", "PUT", "/destinations/d1/enable?a=b", None),
        ("disable", "PUT", "/destinations/d1/disable", None),
        ("attempts", "GET", "/destinations/d1/attempts?dir=up", None),
        ("attempt", "GET", "/destinations/d1/attempts/a1?a=b", None),
    )
]

ROUTES = [
    get("unknown path", "/nope", 404, None, "not found"),
    get("unknown path in depth", "/tenants/a/b/c/d", 404, None, "not found"),
    get("unknown type", "/destination-types/pigeon", 404, None, "destination type not found"),
    get("publish", "/publish", 404, None, "not found"),
    Bad("delete publish", "DELETE", "/publish", None, 404, None, "not found"),
    Bad("post topics", "POST", "/topics", {}, 404, None, "not found"),
    Bad("options of publish", "OPTIONS", "/publish", None, 404, None, "not found"),
    Bad("post a destination", "POST", ONE, {}, 404, None, "not found"),
    Bad("a made up method", "BREW", "/topics", None, 404, None, "not found"),
]

TABLE = [*MALFORMED, *PUBLISHES, *TENANTS, *CREATES, *PATCHES, *QUERIES, *NOBODY, *ROUTES]


async def test_the_table_is_long_enough_and_names_each_row_once() -> None:
    assert len({bad.name for bad in TABLE}) == len(TABLE)
    assert len(TABLE) - len(MALFORMED) >= 60


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prepared(session_servers: servers.Session) -> AsyncIterator[Api]:
    """One for all rows: none of them changes anything."""
    api = Api(SETTINGS, session_servers.redis(servers.VALKEY_9))
    await api.tenant()
    await api.destination(id="d1")
    yield api
    await api.close()


@pytest.mark.behaviour(1, 8, 9, 15, 16, 18, 40, 84)
@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.name)
async def test_a_bad_request_is_told_what_is_wrong(prepared: Api, bad: Bad) -> None:
    answer = await send(prepared.http, bad)
    expected: dict[str, object] = {"status": bad.status, "message": bad.message}
    if bad.data is not None:
        expected["data"] = bad.data
    assert answer.json() == expected
    assert answer.status_code == bad.status
    assert answer.headers["content-type"] == "application/json"


async def test_bad_requests_leave_nothing_behind(prepared: Api) -> None:
    before = await lengths(prepared)
    for bad in TABLE:
        assert (await send(prepared.http, bad)).status_code < 500
    assert await lengths(prepared) == before


async def test_a_body_without_a_length_is_cut_off_at_the_limit(prepared: Api) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1_000):
            sent += 8_192
            yield b" " * 8_192

    answer = await prepared.http.post("/publish", content=endless())
    assert answer.status_code == 413
    assert sent <= SETTINGS.api_max_body_bytes + 2 * 8_192


@pytest.mark.behaviour(10)
async def test_an_unknown_path_is_not_found_without_a_key_too(prepared: Api) -> None:
    async with prepared.client({}) as http:
        for path in ("/nope", "http://outpost/api/nope", "http://outpost/nope", "http://outpost/"):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()) == (404, {"status": 404, "message": "not found"})


async def send(http: httpx.AsyncClient, bad: Bad) -> httpx.Response:
    content = bad.body if isinstance(bad.body, bytes) else None
    if bad.body is not None and content is None:
        content = msgspec.json.encode(bad.body)
    return await http.request(bad.method, bad.path, content=content)


async def lengths(api: Api) -> list[int]:
    return await api.log.pipeline(
        [("XLEN", keys.stream(stream)) for keys in api.log.keys.partitions for stream in partitions.STREAMS]
    )
