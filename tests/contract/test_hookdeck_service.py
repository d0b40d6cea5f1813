"""What is between us and Hookdeck: the token is verified on save, the request signed, every failure retried."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator

import pytest

from outpost import errors, settings
from outpost.adapters import base, registry
from outpost.domain import delivery
from tests.harness.destinations import hookdeck as worlds
from tests.harness.receiver import Do, Script, answer, head

pytestmark = pytest.mark.behaviour(137)
DATA = b'{ "n":1,  "html": "<b>&" }'
ALLOWED = ("127.0.0.0/8",)


@pytest.fixture
async def world() -> AsyncIterator[worlds.World]:
    async with worlds.World() as started:
        yield started


class Type:
    """The type with the stand-in behind it."""

    def __init__(self, world: worlds.World, **changes: object) -> None:
        chosen = {"destinations_allowed_cidrs": ALLOWED, "http_user_agent": "Outpost/test"}
        self._registry = registry.build(settings.Settings(**{**chosen, **world.settings, **changes}))
        adapter = self._registry.get("hookdeck")
        assert adapter is not None
        self.adapter = adapter

    async def verify(self, token: str, stored: str | None = None) -> base.Verified:
        credentials = {"token": token}
        previous = None
        if stored is not None:
            previous = base.OpenDestination("t", "d", "hookdeck", {}, {"token": stored}, {})
        return await self.adapter.verify(base.Save({}, credentials, previous, credentials, True, 0))

    async def send(
        self,
        token: str,
        metadata: dict[str, str] | None = None,
        delivery_metadata: dict[str, str] | None = None,
    ) -> delivery.Outcome:
        opened = base.OpenDestination("t", "d", "hookdeck", {}, {"token": token}, delivery_metadata or {})
        publisher = await self.adapter.connect(opened)
        event = base.Delivery("evt_1", "user.created", "2026-01-01T00:00:00.000Z", metadata or {}, DATA, 1)
        [outcome] = await publisher.send([event], asyncio.get_running_loop().time() + 5)
        return outcome

    async def close(self) -> None:
        await self._registry.close()


@pytest.fixture
async def type_(world: worlds.World) -> AsyncIterator[Type]:
    one = Type(world)
    yield one
    await one.close()


async def test_hookdeck_is_asked_about_a_new_token_and_says_whose_it_is(world: worlds.World, type_: Type):
    token = world.token("src_1")
    assert base.Verified({"source_name": "name of src_1", "source_id": "src_1"}) == await type_.verify(token)
    [asked] = world.api.requests
    assert ("GET", "/2025-01-01/sources/src_1/managed/verify") == (asked.method, asked.target)
    assert token == asked.headers["x-hookdeck-source-token"]
    await type_.verify(token, stored=world.token("src_1"))
    assert 2 == len(world.api.requests)


async def test_hookdeck_is_not_asked_about_the_stored_token_nor_about_what_is_none(
    world: worlds.World, type_: Type
):
    token = world.token("src_1")
    assert base.NOT_VERIFIED == await type_.verify(token, stored=token)
    assert base.NOT_VERIFIED == await type_.verify("no token")
    assert [] == world.api.requests


async def test_a_token_that_hookdeck_does_not_know_is_refused_in_the_published_words(type_: Type):
    verified = await type_.verify(base64.b64encode(b"src_1:forged").decode())
    assert "credentials.token failed token_verification_failed validation" == told(verified)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([Do.RESET], id="reset"),
        pytest.param([head(200, "Content-Length: 90") + b"{", Do.CLOSE], id="cut short"),
        pytest.param(answer(500, b"{}"), id="broken"),
        pytest.param(answer(429, b"{}"), id="too many"),
        pytest.param(answer(302, b"", "Location: http://127.0.0.1:1/"), id="sent elsewhere"),
        pytest.param(answer(200, b"<html>"), id="not JSON"),
        pytest.param(answer(200, b'{"name": 7}'), id="another shape"),
        pytest.param(answer(200, b"\xff"), id="not UTF-8"),
        pytest.param(answer(200, b'{"name":"' + b"x" * 100_000 + b'"}'), id="endless"),
    ],
)
async def test_an_answer_that_says_nothing_of_the_token_is_a_sentence(
    world: worlds.World, type_: Type, script: Script
):
    world.api.always(script)
    assert told(await type_.verify(world.token("src_1"))).endswith(
        "Hookdeck could not be reached or did not answer; try again later"
    )


async def test_hookdeck_has_five_seconds(world: worlds.World, type_: Type, monkeypatch: pytest.MonkeyPatch):
    assert 5.0 == base.VERIFY_S
    monkeypatch.setattr(base, "VERIFY_S", 0.2)
    world.api.always([Do.HANG])
    async with asyncio.timeout(60):
        assert "did not answer" in told(await type_.verify(world.token("src_1")))


async def test_proxies_of_the_environment_are_not_used_to_verify(
    world: worlds.World, type_: Type, monkeypatch: pytest.MonkeyPatch
):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert [] == (await type_.verify(world.token("src_1"))).problems


async def test_the_request_is_the_published_one(world: worlds.World, type_: Type):
    token = world.token("src_1")
    outcome = await type_.send(
        token, {"trace": "t-1", "signature": "mine"}, {"x-hookdeck-signature": "forged", "team": "blue"}
    )
    assert isinstance(outcome, delivery.Delivered), outcome
    [request] = world.events.requests
    assert ("POST", "/src_1", DATA) == (request.method, request.target, request.body)
    headers = dict(request.headers)
    assert time.strptime(headers.pop("x-outpost-timestamp"), "%Y-%m-%dT%H:%M:%SZ")
    assert {
        "host": f"127.0.0.1:{world.proxy.port}",
        "content-type": "application/json",
        "content-length": str(len(DATA)),
        "user-agent": "Outpost/test",
        "accept": "*/*",
        "accept-encoding": "identity",
        "x-outpost-event-id": "evt_1",
        "x-outpost-topic": "user.created",
        "x-outpost-trace": "t-1",
        "x-outpost-signature": "mine",
        "x-outpost-team": "blue",
        "x-outpost-x-hookdeck-signature": "forged",
        "x-hookdeck-signature": worlds.signature(token, DATA),
    } == headers
    assert b"X-Outpost-event-id: " in request.raw_head


async def test_an_attempt_keeps_status_body_and_headers(world: worlds.World, type_: Type):
    outcome = await type_.send(world.token("src_1"))
    assert (
        delivery.Delivered(
            "200",
            {
                "status_code": 200,
                "body": '{"status":"ok"}',
                "headers": {
                    "Content-Length": "15",
                    "Content-Type": "application/json",
                    "X-Hookdeck-Requestid": "req_1",
                },
            },
        )
        == outcome
    )
    json.dumps(outcome.response)


@pytest.mark.parametrize("status", [301, 400, 401, 404, 410, 500, 503])
async def test_every_other_status_is_a_failure_that_is_retried(world: worlds.World, type_: Type, status: int):
    world.events.always(answer(status, b"no"))
    outcome = await type_.send(world.token("src_1"))
    assert (
        delivery.Failed(str(status), {"status_code": status, "body": "no", "headers": {"Content-Length": "2"}})
        == outcome
    )
    assert outcome.retryable
    assert not outcome.gone


async def test_when_hookdeck_wants_the_next_attempt_is_heard(world: worlds.World, type_: Type):
    world.events.always(answer(429, b"", "Retry-After: 7"))
    outcome = await type_.send(world.token("src_1"))
    assert isinstance(outcome, delivery.Failed)
    assert 7_000 == outcome.retry_after_ms


async def test_a_body_beyond_the_cap_is_not_stored(world: worlds.World):
    one = Type(world, webhook_max_response_body_bytes=100)
    world.events.always(answer(500, b"x" * 101))
    outcome = await one.send(world.token("src_1"))
    await one.close()
    assert outcome.response is not None
    assert "Response body exceeded 100 bytes and was not stored" == outcome.response["body"]


async def test_no_answer_is_retried_and_says_what_was_in_the_way(world: worlds.World, type_: Type):
    world.events.always([Do.RESET])
    outcome = await type_.send(world.token("src_1"))
    assert delivery.Failed("ERROR", {"error": "Request failed: connection_reset"}) == outcome


async def test_the_guard_judges_the_events_host_too(world: worlds.World):
    one = Type(world, destinations_allowed_cidrs=())
    outcome = await one.send(world.token("src_1"))
    await one.close()
    assert delivery.Failed("blocked_address", None, retryable=False) == outcome
    assert [] == world.events.requests


async def test_metadata_that_cannot_stand_in_a_header_is_percent_encoded(world: worlds.World, type_: Type):
    outcome = await type_.send(world.token("src_1"), {"a": "b\r\nInjected: 1"})
    assert isinstance(outcome, delivery.Delivered)
    [request] = world.events.requests
    assert "b%0D%0AInjected: 1" == request.headers["x-outpost-a"]


def told(verified: base.Verified) -> str:
    [problem] = verified.problems
    assert isinstance(problem, errors.Problem)
    assert ("credentials.token", "token_verification_failed") == (problem.path, problem.rule)
    return problem.sentence()
