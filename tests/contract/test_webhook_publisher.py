"""The webhook type over a real receiver: what a request looks like, and what becomes of the answer."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
import urllib.parse
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost import errors
from outpost import settings as settings_
from outpost.adapters import base, registry
from outpost.adapters.webhook import headers as webhook_headers
from outpost.adapters.webhook import signing
from outpost.domain import delivery
from tests.harness.polling import eventually
from tests.harness.receiver import Do, Receiver, answer, head

SECRETS = {
    "secret": "whsec_new",
    "previous_secret": "whsec_old",
    "previous_secret_invalid_at": "2100-01-01T00:00:00Z",
}
DATA = b'{ "user" :"u1",  "html": "<b>&" }'


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as one:
        yield one


class Sender:
    """Sends one event to the receiver through a registry made from settings."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.registries: list[registry.Registry] = []

    async def connect(
        self,
        options: dict[str, object] | None = None,
        custom: dict[str, str] | None = None,
        credentials: dict[str, str] | None = None,
        delivery_metadata: dict[str, str] | None = None,
        url: str | None = None,
    ) -> base.Publisher:
        chosen = {"destinations_allowed_cidrs": ("127.0.0.0/8",), "http_user_agent": "Outpost/test"}
        chosen |= options or {}
        self.registries.append(registry.build(settings_.Settings(**chosen)))
        adapter = self.registries[-1].get("webhook")
        assert adapter is not None
        config = {"url": url or self.receiver.url("/hook")}
        if custom is not None:
            config["custom_headers"] = json.dumps(custom)
        return await adapter.connect(
            base.OpenDestination(
                "t1",
                "d1",
                "webhook",
                config,
                SECRETS if credentials is None else credentials,
                delivery_metadata or {},
            )
        )

    async def send(
        self,
        metadata: dict[str, str] | None = None,
        within: float = 10.0,
        event_id: str = "evt_1",
        topic: str = "user.created",
        **connect: object,
    ) -> delivery.Outcome:
        publisher = await self.connect(**connect)
        event = base.Delivery(event_id, topic, "2026-01-01T00:00:00.000Z", metadata or {}, DATA, 1)
        [outcome] = await publisher.send([event], asyncio.get_running_loop().time() + within)
        return outcome

    async def headers(self, metadata: dict[str, str] | None = None, **connect: object) -> dict[str, str]:
        outcome = await self.send(metadata, **connect)
        assert isinstance(outcome, delivery.Delivered), outcome
        return self.receiver.requests[-1].headers


@pytest.fixture
async def sender(receiver: Receiver) -> AsyncIterator[Sender]:
    one = Sender(receiver)
    yield one
    for each in one.registries:
        await each.close()


@pytest.mark.behaviour(76, 77, 89, 91)
async def test_the_default_request_is_the_published_one(sender: Sender) -> None:
    headers = await sender.headers({"shape": "round"})
    request = sender.receiver.requests[0]
    assert (request.method, request.target, request.body) == ("POST", "/hook", DATA)
    assert signing.rfc3339_ms(headers["x-outpost-timestamp"]) is not None
    assert len(headers["x-outpost-timestamp"]) == len("2026-01-01T00:00:00Z")
    signature = signing.Signer().header((b"whsec_new", b"whsec_old"), DATA)
    assert {name: value for name, value in headers.items() if name != "x-outpost-timestamp"} == {
        "host": f"127.0.0.1:{sender.receiver.port}",
        "content-type": "application/json",
        "content-length": str(len(DATA)),
        "user-agent": "Outpost/test",
        "accept": "*/*",
        "accept-encoding": "identity",
        "x-outpost-event-id": "evt_1",
        "x-outpost-topic": "user.created",
        "x-outpost-shape": "round",
        "x-outpost-signature": signature,
    }


@pytest.mark.behaviour(80)
async def test_a_previous_secret_whose_time_is_over_does_not_sign(sender: Sender) -> None:
    past = SECRETS | {"previous_secret_invalid_at": "2020-01-01T00:00:00Z"}
    headers = await sender.headers(credentials=past)
    assert headers["x-outpost-signature"] == signing.Signer().header((b"whsec_new",), DATA)
    assert "x-outpost-signature" not in await sender.headers(credentials={})


@pytest.mark.behaviour(82)
async def test_later_metadata_wins(sender: Sender) -> None:
    headers = await sender.headers(
        {"a": "event", "topic": "mine"}, delivery_metadata={"a": "delivery", "b": "delivery", "timestamp": "noon"}
    )
    assert [headers[f"x-outpost-{key}"] for key in ("a", "b", "timestamp", "topic", "event-id")] == [
        "event",
        "delivery",
        "noon",
        "mine",
        "evt_1",
    ]


@pytest.mark.behaviour(83)
async def test_custom_headers_have_no_prefix_and_lose_to_metadata_and_signature(sender: Sender) -> None:
    headers = await sender.headers(
        {"c": "metadata"},
        custom={
            "Authorization": "Bearer x",
            "X-Outpost-C": "custom",
            "x-outpost-TOPIC": "custom",
            "X-Outpost-Signature": "forged",
            "Accept": "application/json",
        },
    )
    assert headers["authorization"] == "Bearer x"
    assert headers["accept"] == "application/json"
    assert (headers["x-outpost-c"], headers["x-outpost-topic"]) == ("metadata", "user.created")
    assert headers["x-outpost-signature"].startswith("v0=")


async def test_metadata_cannot_forge_the_signature_or_the_frame_of_the_request(sender: Sender) -> None:
    forged = {
        "signature": "forged",
        "Content-Length": "1",
        "host": "h",
        "Transfer-Encoding": "chunked",
        "content-type": "text/plain",
        "USER-AGENT": "x",
        "Connection": "close",
    }
    headers = await sender.headers(forged, options={"webhook_header_prefix": ""})
    assert headers["signature"].startswith("v0=")
    assert headers["content-length"] == str(len(DATA))
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"] == "Outpost/test"
    assert {"transfer-encoding", "connection"}.isdisjoint(headers)


@pytest.mark.behaviour(81)
async def test_system_headers_can_be_renamed_left_out_and_prefixed(sender: Sender) -> None:
    headers = await sender.headers(
        {"event-id": "mine", "topic": "mine", "k": "v"},
        options={
            "webhook_header_prefix": "acme-",
            "webhook_event_id_header": "Idempotency-Key",
            "webhook_topic_header": "",
            "webhook_signature_header": "X-Sig",
        },
    )
    assert {"idempotency-key": "mine", "acme-k": "v"}.items() <= headers.items()
    assert "acme-timestamp" in headers
    assert headers["x-sig"].startswith("v0=")
    assert {"acme-topic", "acme-event-id", "acme-signature", "x-outpost-topic"}.isdisjoint(headers)
    assert "signature" not in " ".join(await sender.headers(options={"webhook_signature_header": " "}))
    assert "event-id" in await sender.headers(options={"webhook_header_prefix": " "})


@pytest.mark.behaviour(78)
async def test_algorithm_and_encoding_come_from_the_settings(sender: Sender) -> None:
    headers = await sender.headers(
        options={"webhook_signature_algorithm": "hmac-sha1", "webhook_signature_encoding": "base64"}
    )
    expected = signing.signer("hmac-sha1", "base64").header((b"whsec_new", b"whsec_old"), DATA)
    assert headers["x-outpost-signature"] == expected


async def test_a_finer_time_is_sent_if_asked_for(sender: Sender) -> None:
    headers = await sender.headers(options={"include_millisecond_timestamp": True})
    seconds = headers["x-outpost-timestamp"].removesuffix("Z")
    assert headers["x-outpost-timestamp-ms"].startswith(seconds)
    assert signing.rfc3339_ms(headers["x-outpost-timestamp-ms"]) is not None
    assert "x-outpost-timestamp-ms" not in await sender.headers()


async def test_a_user_in_the_url_is_basic_authorization_unless_a_custom_header_says_other(sender: Sender) -> None:
    url = sender.receiver.url().replace("//", "//u:p@")
    assert (await sender.headers(url=url))["authorization"] == "Basic dTpw"
    assert (await sender.headers(url=url, custom={"authorization": "Bearer x"}))["authorization"] == "Bearer x"


@pytest.mark.case(20)
@pytest.mark.parametrize(
    ("key", "value", "name", "sent"),
    [
        ("a", "x\r\nHost: evil", "a", "x%0D%0AHost: evil"),
        ("a", "x\ny", "a", "x%0Ay"),
        ("a", "\x00\x7f", "a", "%00%7F"),
        ("a", "\ud800", "a", "?"),
        ("a", "Zoë 日本", "a", "Zo%C3%AB %E6%97%A5%E6%9C%AC"),
        ("a", "100 % für alle", "a", "100 %25 f%C3%BCr alle"),
        ("a", "100 %25 ASCII~\t!", "a", "100 %25 ASCII~\t!"),  # goes out as it is
        ("a b", "x", "a%20b", "x"),
        ("a:b", "x", "a%3Ab", "x"),
        ("a\r\nb", "x", "a%0D%0Ab", "x"),
        ("größe", "x", "gr%C3%B6%C3%9Fe", "x"),
    ],
)
@pytest.mark.parametrize("where", ["metadata", "delivery_metadata"])
async def test_what_no_header_has_is_percent_encoded_and_the_event_arrives(
    sender: Sender, key: str, value: str, name: str, sent: str, where: str
) -> None:
    headers = await sender.headers(**{where: {key: value}})
    assert sent == headers[f"x-outpost-{name.lower()}"]
    assert f"127.0.0.1:{sender.receiver.port}" == headers["host"]


@pytest.mark.case(20)
async def test_event_ids_topics_and_custom_headers_are_ascii_on_the_wire_too(sender: Sender) -> None:
    await sender.send(event_id="é\n1", topic="commande.créée", custom={"X-Team": "Größe"})
    [request] = sender.receiver.requests
    assert "%C3%A9%0A1" == request.headers["x-outpost-event-id"]
    assert "commande.cr%C3%A9%C3%A9e" == request.headers["x-outpost-topic"]
    assert "Gr%C3%B6%C3%9Fe" == request.headers["x-team"]


@given(st.text())
def test_a_value_in_a_header_is_ascii_and_decodes_to_itself(value: str) -> None:
    sent = webhook_headers.on_the_wire(value)
    assert sent.isascii()
    assert sent.replace("\t", "").isprintable()
    if sent != value:
        assert value.encode("utf-8", "replace") == urllib.parse.unquote_to_bytes(sent)


@pytest.mark.parametrize("status", [200, 201, 202, 299])
async def test_a_status_of_2xx_is_success(sender: Sender, status: int) -> None:
    sender.receiver.then(answer(status, b'{"ok": true}'))
    assert delivery.Delivered(str(status), {"status": status, "body": '{"ok": true}'}) == await sender.send()


@pytest.mark.behaviour(85)
@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 308, 400, 401, 404, 408, 425, 429, 500, 502, 599])
async def test_every_other_status_fails_with_its_digits_and_may_be_retried(sender: Sender, status: int) -> None:
    sender.receiver.then([head(status, "Location: /next", "Content-Length: 0")])
    assert delivery.Failed(str(status), {"status": status, "body": ""}) == await sender.send()
    assert len(sender.receiver.requests) == 1


async def test_a_410_says_that_the_destination_is_gone_and_is_not_retried(sender: Sender) -> None:
    sender.receiver.then(answer(410, b"bye", "Retry-After: 5"))
    response = {"status": 410, "body": "bye"}
    assert delivery.Failed("410", response, retryable=False, gone=True) == await sender.send()


@pytest.mark.parametrize("status", [302, 400, 429, 503])
async def test_any_failed_answer_may_ask_when_to_come_again(sender: Sender, status: int) -> None:
    sender.receiver.then(answer(status, b"", "Retry-After: 120"))
    outcome = await sender.send()
    assert isinstance(outcome, delivery.Failed)
    assert (True, 120_000) == (outcome.retryable, outcome.retry_after_ms)


async def test_a_date_is_told_as_the_time_until_then(sender: Sender) -> None:
    date = email.utils.formatdate(time.time() + 90, usegmt=True)
    sender.receiver.then(answer(503, b"", f"Retry-After: {date}"), answer(503, b"", "Retry-After: soon"))
    outcome = await sender.send()
    assert isinstance(outcome, delivery.Failed)
    assert outcome.retry_after_ms is not None
    assert 80_000 < outcome.retry_after_ms <= 90_000
    assert delivery.Failed("503", {"status": 503, "body": ""}) == await sender.send()


@pytest.mark.behaviour(85)
@pytest.mark.parametrize(
    ("size", "stored"),
    [
        (100, "x" * 100),
        (101, "Response body exceeded 100 bytes and was not stored"),
    ],
)
async def test_the_body_is_kept_up_to_the_cap(sender: Sender, size: int, stored: str) -> None:
    sender.receiver.then(answer(500, b"x" * size))
    outcome = await sender.send(options={"webhook_max_response_body_bytes": 100})
    assert delivery.Failed("500", {"status": 500, "body": stored}) == outcome


async def test_bytes_that_are_not_utf_8_are_replaced(sender: Sender) -> None:
    sender.receiver.then(answer(200, b"a\xff\x00b"))
    assert delivery.Delivered("200", {"status": 200, "body": "a\ufffd\x00b"}) == await sender.send()


async def test_a_body_that_is_late_leaves_the_status_and_says_so(sender: Sender) -> None:
    sender.receiver.then([head(200, "Content-Length: 5"), Do.HANG])
    outcome = await sender.send(within=0.3)
    assert isinstance(outcome, delivery.Delivered)
    assert outcome.response == {
        "status": 200,
        "body": "Response body did not arrive before the delivery timeout and was not stored",
    }


@pytest.mark.behaviour(86, 87)
async def test_failures_of_the_network_have_a_word_and_no_response(sender: Sender) -> None:
    sender.receiver.then([Do.RESET], [Do.HANG])
    assert delivery.Failed("connection_reset") == await sender.send()
    assert delivery.Failed("timeout") == await sender.send(within=0.3)
    async with Receiver() as gone:
        url = gone.url()
    assert delivery.Failed("connection_refused") == await sender.send(url=url)


async def test_a_forbidden_address_is_retried_only_where_a_name_led_to_it(sender: Sender) -> None:
    outcome = await sender.send(options={"destinations_allowed_cidrs": ()})
    assert delivery.Failed("blocked_address", retryable=False) == outcome
    local = await sender.send(
        options={"destinations_allowed_cidrs": ()}, url=sender.receiver.url(host="localhost")
    )
    assert delivery.Failed("blocked_address") == local
    assert sender.receiver.connections == 0


async def test_a_batch_is_answered_in_its_order(sender: Sender) -> None:
    sender.receiver.always(lambda request: answer(200, request.headers["x-outpost-event-id"].encode()))
    publisher = await sender.connect()
    batch = [base.Delivery(f"e{n}", "t", "2026-01-01T00:00:00.000Z", {}, DATA, 1) for n in range(5)]
    outcomes = await publisher.send(batch, asyncio.get_running_loop().time() + 10)
    assert [f"e{n}" for n in range(5)] == [outcome.response and outcome.response["body"] for outcome in outcomes]
    assert [] == await publisher.send([], asyncio.get_running_loop().time() + 10)


@pytest.mark.behaviour(87)
async def test_a_cancelled_send_raises_and_leaves_no_connection(sender: Sender) -> None:
    sender.receiver.then([Do.HANG])
    task = asyncio.ensure_future(sender.send())
    await eventually(lambda: sender.receiver.requests)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: sender.receiver.open == 0)


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({}, "config.url"),
        ({"url": "nope"}, "config.url"),
        ({"url": "http://h/", "custom_headers": "{"}, "config.custom_headers"),
        ({"url": "http://h/", "custom_headers": '{"host": "x"}'}, "config.custom_headers.host"),
    ],
)
async def test_a_stored_config_that_cannot_be_used_is_refused_at_connect(
    config: dict[str, str],
    path: str,
) -> None:
    adapter = registry.build(settings_.Settings()).get("webhook")
    assert adapter is not None
    with pytest.raises(errors.Invalid) as caught:
        await adapter.connect(base.OpenDestination("t", "d", "webhook", config, {}, {}))
    assert [problem.path for problem in caught.value.problems] == [path]


def test_the_registry_lists_its_types_and_knows_no_others() -> None:
    built = registry.build(settings_.Settings())
    assert ["webhook", "hookdeck"] == [one.type for one in built.types()][:2]
    assert built.get("smoke_signals") is None
    adapter = built.get("webhook")
    assert adapter is not None
    assert adapter.description.icon.startswith("<svg")
    assert adapter.description.instructions.startswith("# ")
    assert [(one.key, one.required) for one in adapter.description.config_fields] == [
        ("url", True),
        ("custom_headers", False),
    ]
    saved = base.OpenDestination("t", "d", "webhook", {"url": "https://example.com/x"}, {}, {})
    assert adapter.target(saved) == ("https://example.com/x", None)
