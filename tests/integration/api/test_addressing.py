"""Every id that may be stored is addressed by its percent-encoded form, whatever client sends it; others are
refused when they are made."""

from __future__ import annotations

import asyncio
import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from outpost.commands import values
from tests.harness import servers
from tests.harness.api_server import KEY, SETTINGS, WEBHOOK, Api

ODD = [
    "%2F",
    "a/b",
    "/",
    "//",
    "a//b",
    "/a/",
    "%",
    "%zz",
    "%252F",
    "...",
    ".a",
    "a/..",
    "../..",
    "..;",
    "\\",
    "a\\..\\b",
]
ODD += [
    "?",
    "#",
    "a?b#c",
    "enable",
    "attempts",
    "destinations",
    "{x}",
    "*",
    "a b",
    " ",
    "+",
    "~",
    "日本",
    "\ufffd",
]
ODD += [
    "a&b=c",
    "@",
    ":",
    "http://h/",
    "é",
    "e\u0301",
    "'\"<>",
    "`|^",
    "x" * 255,
    "é" * 127,
    "%2e%2e",
    "%2E",
    ";p=1",
]
UNADDRESSABLE = [".", ".."]
CONTROLS = ["\x00", "a\nb", "\x1f", "\x7f", "\x85", "\r"]

CHARACTERS = st.characters(exclude_categories=("Cc", "Cs"))
IDS = st.text(st.one_of(st.sampled_from("./%\\?#; +"), CHARACTERS), min_size=1, max_size=60)


def storable(text: str) -> bool:
    return values.id_problem("id", text) is None


class Http(NamedTuple):
    """The product's server with a client of the standard library."""

    url: str
    api: Api
    runner: asyncio.Runner

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)

        def send() -> tuple[int, bytes]:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as exc:
                with exc:
                    return exc.code, exc.read()

        status, read = self.runner.run(_threaded(send))
        return status, json.loads(read)

    def curl(self, method: str, *paths: str) -> list[int]:
        """The statuses of requests that curl makes of these paths as it likes to."""
        asked: list[str] = []
        for path in paths:
            asked += ["--next", "-sS", "-o", "/dev/null", "-w", "%{http_code}\\n", "-X", method]
            asked += ["-H", f"Authorization: Bearer {KEY}", "-g", self.url + path]
        command = ["curl", *asked[1:]]
        done = self.runner.run(
            _threaded(lambda: subprocess.run(command, capture_output=True, check=True, timeout=120))
        )
        return [int(line) for line in done.stdout.split()]


async def _threaded(work: Any) -> Any:
    return await asyncio.to_thread(work)


@pytest.fixture(scope="module")
def http(session_servers: servers.Session) -> Iterator[Http]:
    redis = session_servers.redis(servers.VALKEY_9)
    with asyncio.Runner() as runner:

        async def begin() -> tuple[Api, Any, str]:
            api = Api(SETTINGS, redis)
            listening = api.listening()
            return api, listening, await listening.__aenter__()

        api, listening, url = runner.run(begin())
        yield Http(f"{url}/api/v1", api, runner)

        async def end() -> None:
            await listening.__aexit__(None, None, None)
            await api.close()
            await redis.close_clients()

        runner.run(end())


def quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def through_all_routes(http: Http, tenant: str, destination: str) -> None:
    """Makes, reads, changes and deletes, each time by the path alone."""
    of_tenant = f"/tenants/{quoted(tenant)}"
    of_destination = f"{of_tenant}/destinations/{quoted(destination)}"
    http.ask("DELETE", of_tenant)  # of other tests
    status, made = http.ask("PUT", of_tenant)
    assert (201, tenant) == (status, made["id"])
    status, made = http.ask("POST", f"{of_tenant}/destinations", {**WEBHOOK, "id": destination})
    assert (201, destination) == (status, made["id"])
    body = {"tenant_id": tenant, "id": destination, "topic": "user.created", "data": {}}
    for path in ("/publish", "/publish?", "/%70ublish"):  # in place, and through ASGI by either way
        status, published = http.ask("POST", path, body)
        assert (202, destination, [destination]) == (status, published["id"], published["destination_ids"])
    assert (200, destination) == (lambda s, found: (s, found["id"]))(*http.ask("GET", of_destination))
    status, changed = http.ask("PATCH", of_destination, {"topics": ["order.paid"]})
    assert (200, ["order.paid"]) == (status, changed["topics"])
    assert 200 == http.ask("PUT", f"{of_destination}/disable")[0]
    status, enabled = http.ask("PUT", f"{of_destination}/enable")
    assert (200, None) == (status, enabled["disabled_at"])
    assert 503 == http.ask("GET", f"/events/{quoted(destination)}")[0]  # it is routed; there is no Postgres
    assert 503 == http.ask("GET", f"{of_destination}/attempts")[0]
    assert 200 == http.ask("DELETE", of_destination)[0]
    assert 404 == http.ask("DELETE", of_destination)[0]
    assert (200, tenant) == (lambda s, found: (s, found["id"]))(*http.ask("GET", of_tenant))
    assert 200 == http.ask("DELETE", of_tenant)[0]


@settings(max_examples=40, suppress_health_check=[*HealthCheck], database=None)
@given(tenant=IDS.filter(storable), destination=IDS.filter(storable))
@example(tenant="a", destination="..a")
def test_any_id_is_addressed_by_urllib(http: Http, tenant: str, destination: str) -> None:
    through_all_routes(http, tenant, destination)


@pytest.mark.parametrize("odd", ODD)
def test_odd_ids_are_addressed_by_urllib(http: Http, odd: str) -> None:
    through_all_routes(http, odd, odd)


@settings(max_examples=8, suppress_health_check=[*HealthCheck], database=None)
@given(st.lists(IDS.filter(storable), min_size=20, max_size=20, unique=True))
@example(sorted({*ODD}))
def test_any_id_is_addressed_by_curl(http: Http, ids: list[str]) -> None:
    paths = [f"/tenants/{quoted(id_)}" for id_ in ids]
    http.curl("DELETE", *paths)  # of other tests
    assert [201] * len(ids) == http.curl("PUT", *paths)
    assert set(ids) <= {id_ for id_ in ids if http.ask("GET", f"/tenants/{quoted(id_)}")[1]["id"] == id_}
    assert [200] * len(ids) == http.curl("DELETE", *paths)
    assert [404] * len(ids) == http.curl("GET", *paths)


@pytest.mark.parametrize("id_", [*UNADDRESSABLE, *CONTROLS, "x" * 256])
def test_what_no_url_can_name_is_refused_when_it_is_made(http: Http, id_: str) -> None:
    http.ask("PUT", "/tenants/acme")
    for path, body in [
        ("/tenants/acme/destinations", {**WEBHOOK, "id": id_}),
        ("/publish", {"tenant_id": "acme", "id": id_, "topic": "user.created", "data": {}}),
        ("/publish", {"tenant_id": id_, "topic": "user.created", "data": {}}),
    ]:
        status, told = http.ask("POST", path, body)
        assert (422, True) == (status, told["data"][0].startswith(("id must", "tenant_id must")))
    status, told = http.ask("PUT", f"/tenants/{quoted(id_)}")  # urllib sends it as it is
    assert (422, True) == (status, told["data"][0].startswith("tenant_id must"))


@pytest.mark.parametrize("dots", ["..", ".", "%2e%2e", "%2E%2E", ".%2e", "%2E"])
def test_what_a_client_folds_deletes_nothing_else(http: Http, dots: str) -> None:
    """A tenant that is gone with the DELETE of its destination is what began this."""
    http.ask("PUT", "/tenants/acme")
    assert 422 == http.ask("POST", "/tenants/acme/destinations", {**WEBHOOK, "id": urllib.parse.unquote(dots)})[0]
    assert 404 == http.ask("DELETE", f"/tenants/acme/destinations/{dots}")[0]
    assert 200 == http.ask("GET", "/tenants/acme")[0]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/tenants//destinations"),  # of the tenant "", which deleted the tenant "destinations"
        ("DELETE", "/tenants/destinations//"),
        ("PUT", "/tenants/destinations//enable"),
        ("PUT", "//tenants/destinations"),
        ("POST", "//publish"),
        ("GET", "/tenants//"),
    ],
)
def test_an_id_that_was_forgotten_is_found_nowhere(http: Http, method: str, path: str) -> None:
    http.ask("PUT", "/tenants/destinations")
    assert 404 == http.ask(method, path)[0]
    assert 200 == http.ask("GET", "/tenants/destinations")[0]


@pytest.mark.parametrize("path", ["/tenants/acme/", "/%74enants/acme", "/tenants/%61cme", "/tenants/acm%65/"])
def test_other_spellings_of_a_path_lead_to_the_same(http: Http, path: str) -> None:
    http.ask("PUT", "/tenants/acme")
    status, found = http.ask("GET", path)
    assert (200, "acme") == (status, found["id"])


@pytest.mark.parametrize(
    "path", ["/tenants/acme%2Fdestinations", "/tenants%2Facme", "/tenants/%FF", "/tenants/acme%FF"]
)
def test_an_escaped_slash_is_part_of_an_id_and_other_bytes_are_none(http: Http, path: str) -> None:
    http.ask("PUT", "/tenants/acme")
    status, _ = http.ask("GET", path)
    assert status == 404
    assert http.ask("PUT", path)[0] == (422 if "%FF" in path else 201 if path.startswith("/tenants/") else 404)


@pytest.mark.parametrize(
    "path", ["/tenants/acme/destinations/%FF", "/destination-types/%FF", "/destination-types/a%2Fb"]
)
def test_bytes_that_are_no_text_name_nothing(http: Http, path: str) -> None:
    http.ask("PUT", "/tenants/acme")
    status, told = http.ask("GET", path)
    assert (404, True) == (status, told["message"].endswith("not found"))
