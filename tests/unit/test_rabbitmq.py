"""The rabbitmq type: what may be saved, what it is shown as, and what its library makes of a password."""

from __future__ import annotations

import asyncio
import importlib.util
import struct
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost import errors
from outpost import settings as settings_
from outpost.adapters import base
from outpost.adapters.rabbitmq import type as rabbitmq
from outpost.adapters.shared import resources as shared_

CONFIG = {"server_url": "rabbitmq.example.com:5672", "exchange": "events", "tls": "true"}
CREDENTIALS = {"username": "outpost", "password": "a-long-password"}
TYPE = rabbitmq.build(shared_.Shared(settings_.Settings()))
pytestmark = pytest.mark.behaviour(134)


def prepare(config: dict[str, str], credentials: dict[str, str] | None = None) -> base.Prepared:
    credentials = CREDENTIALS if credentials is None else credentials
    return TYPE.prepare(base.Save(config, credentials, None, credentials, True, 0))


def problems(config: dict[str, str], credentials: dict[str, str] | None = None) -> list[tuple[str, str]]:
    return [(problem.path, problem.rule) for problem in prepare(config, credentials).problems]


def test_what_is_right_is_stored_as_it_was_sent() -> None:
    assert (CONFIG, CREDENTIALS) == (prepare(CONFIG).config, prepare(CONFIG).credentials)


@pytest.mark.behaviour(130)
def test_every_missing_field_is_named_at_once() -> None:
    expected = ["config.server_url", "credentials.username", "credentials.password"]
    assert [(path, "required") for path in expected] == problems({}, {})


@pytest.mark.parametrize(
    ("sent", "stored"),
    [({"tls": "on"}, "true"), ({"tls": "true"}, "true"), ({"tls": "false"}, "false"), ({}, "false")],
)
def test_tls_is_stored_as_true_or_false(sent: dict[str, str], stored: str) -> None:
    assert stored == prepare({"server_url": "h", **sent}).config["tls"]


@pytest.mark.case(39)
def test_tls_is_shown_as_it_is_stored_where_it_is_left_out() -> None:
    [field] = [each for each in TYPE.description.config_fields if each.key == "tls"]
    assert field.default == prepare({"server_url": "h"}).config["tls"] == "false"


@pytest.mark.parametrize("tls", ["", "yes", "True", "off", "1"])
def test_any_other_tls_is_refused(tls: str) -> None:
    assert [("config.tls", "invalid")] == problems({**CONFIG, "tls": tls})


@pytest.mark.parametrize("config", [{"server_url": "h"}, {"server_url": "h", "exchange": ""}])
def test_the_exchange_may_be_left_out(config: dict[str, str]) -> None:
    assert [] == problems(config)


def test_an_exchange_longer_than_amqp_can_say_is_refused() -> None:
    assert [("config.exchange", "maxlength")] == problems({**CONFIG, "exchange": "e" * 256})


@pytest.mark.case(39)
@pytest.mark.parametrize(
    ("server_url", "expected"),
    [
        ("rabbitmq:5672", rabbitmq.Place("rabbitmq", 5672, "/")),
        ("rabbitmq:5672/production", rabbitmq.Place("rabbitmq", 5672, "production")),
        ("rabbitmq:5672/%2Fprod", rabbitmq.Place("rabbitmq", 5672, "/prod")),
        ("[::1]:5672//", rabbitmq.Place("[::1]", 5672, "/")),
        ("rabbitmq.example.com", rabbitmq.Place("rabbitmq.example.com", None, "/")),
        ("10.0.0.1:5672", rabbitmq.Place("10.0.0.1", 5672, "/")),
        ("h:5672/", rabbitmq.Place("h", 5672, "/")),
        ("h/team", rabbitmq.Place("h", None, "team")),
        ("h:1/a/b", rabbitmq.Place("h", 1, "a/b")),
        ("h/%2F", rabbitmq.Place("h", None, "/")),
        ("h/%2Fteam%20a", rabbitmq.Place("h", None, "/team a")),
        ("[2001:db8::1]", rabbitmq.Place("[2001:db8::1]", None, "/")),
        ("[::1]:65535/v", rabbitmq.Place("[::1]", 65535, "v")),
    ],
)
def test_a_server_is_host_port_and_virtual_host(server_url: str, expected: rabbitmq.Place) -> None:
    assert [] == problems({"server_url": server_url})
    assert expected == rabbitmq.parse(server_url)


@pytest.mark.parametrize(
    "server_url",
    [
        *("host name:5672", " h", "h\n", "amqp://h:5672", "h:port", "h:0", "h:65536", "h:", ":5672", "/v"),
        *("2001:db8::1:5672", "[::1", "[h]:1", "h:1/v?heartbeat=0", "h#x", "me:secret@h:5672", "h/" + "v" * 256),
    ],
)
def test_a_server_that_is_anything_else_is_refused(server_url: str) -> None:
    assert [("config.server_url", "pattern")] == problems({"server_url": server_url})


async def test_what_is_stored_and_cannot_be_used_is_invalid() -> None:
    with pytest.raises(errors.Invalid):
        await TYPE.connect(base.OpenDestination("t", "d", "rabbitmq", {"server_url": "amqp://h"}, {}, {}))


@pytest.mark.parametrize(
    ("exchange", "topics", "expected"),
    [("events", ("*",), "events -> *"), ("events", ("a.b", "c"), "events -> a.b, c"), ("", ("a",), " -> a")],
)
def test_the_target_is_the_exchange_and_the_topics(exchange: str, topics: tuple[str, ...], expected: str) -> None:
    config = {**CONFIG, "exchange": exchange}
    opened = base.OpenDestination("t", "d", "rabbitmq", config, CREDENTIALS, {}, topics)
    assert (expected, None) == TYPE.target(opened)


def test_the_password_is_masked_and_the_user_is_not() -> None:
    assert {"username": "outpost", "password": "a-lo***********"} == TYPE.shown_credentials(CREDENTIALS, 0)


def test_a_new_password_is_a_rotation() -> None:
    stored = base.OpenDestination("t", "d", "rabbitmq", CONFIG, {**CREDENTIALS, "password": "old"}, {})
    assert TYPE.prepare(base.Save(CONFIG, CREDENTIALS, stored, CREDENTIALS, True, 0)).rotated


def test_the_library_is_not_imported_before_a_destination_connects() -> None:
    program = "import sys; from outpost.adapters import registry; sys.exit('aiormq' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", program], check=False).returncode


def test_without_the_library_the_type_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    built = rabbitmq.build(shared_.Shared(settings_.Settings()))
    expected = "rabbitmq needs a library that is not installed: pip install 'outpost-events[rabbitmq]'"
    assert expected == built.description.unavailable


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(username=TEXTS, password=TEXTS)
def test_any_user_and_password_reach_the_broker_as_they_are(username: str, password: str) -> None:
    from outpost.adapters.rabbitmq import wire as rabbitmq_wire

    login = rabbitmq_wire.Login("h", 5672, "/", username, password, None)
    url = rabbitmq_wire._url(login)
    assert (username, password) == (url.user, url.password)
    assert "60" != url.query["heartbeat"]
    assert password not in repr(login) or len(password) <= len("Login(..)")


def test_a_broker_that_lists_no_capabilities_is_asked_for_confirms_all_the_same() -> None:
    from outpost.adapters.rabbitmq import wire as rabbitmq_wire

    connection = object.__new__(rabbitmq_wire._Connection)
    for told in ({}, {"capabilities": {}}, {"capabilities": None}, {"capabilities": "none"}):
        connection.server_properties = told
        assert connection.publisher_confirms, told
    connection.server_properties = {"capabilities": {"publisher_confirms": False, "basic.nack": True}}
    assert not connection.publisher_confirms
    assert connection.basic_nack


@given(reason=st.text(max_size=60))
async def test_what_the_broker_says_of_an_alarm_is_kept_until_it_takes_messages_again(reason: str) -> None:
    from outpost.adapters.rabbitmq import frames as rabbitmq_frames

    said = reason.encode()
    reader = asyncio.StreamReader()
    for method in ((60, bytes([len(said)]) + said), (61, b"")):
        payload = struct.pack(">HH", 10, method[0]) + method[1]
        reader.feed_data(b"\1" + struct.pack(">HI", 0, len(payload)) + payload + b"\xce")
    frames = rabbitmq_frames.Frames(reader, reader.feed_eof)
    found = []
    for _ in range(2):
        await frames.readexactly(1)
        size = int.from_bytes((await frames.readexactly(6))[2:], "big")
        await frames.readexactly(size + 1)
        found.append(frames.blocked)
    assert [reason, None] == found


def channel_closed(text: str, code: int = 403) -> Any:
    from aiormq import channel, spec

    return channel.exception_by_code(spec.Channel.Close(code, text, 60, 40))


@given(
    topic=st.text(min_size=1, max_size=80).filter(lambda topic: "' in " not in topic),
    size=st.integers(0, 2_000_000),
)
def test_what_a_closed_channel_refuses_is_read_from_the_words_of_the_broker(topic: str, size: int) -> None:
    from outpost.adapters.rabbitmq import proven

    text = f"ACCESS_REFUSED - access to topic '{topic}' in exchange 'e' in vhost '/' refused for user 'u'"
    assert proven.Refusal(topic) == proven.refusal(channel_closed(text))
    for words in (
        "message size {} is larger than configured max size 10",
        "message size {} larger than max size 1",
    ):
        text = f"PRECONDITION_FAILED - {words.format(size)}"
        assert proven.Refusal(size=size) == proven.refusal(channel_closed(text, 406))
    exchange = channel_closed("ACCESS_REFUSED - access to exchange 'e' in vhost '/' refused for user 'u'")
    missing = channel_closed("NOT_FOUND - no exchange 'e' in vhost '/'", 404)
    assert proven.Refusal().of_all
    assert [proven.Refusal()] * 2 == [proven.refusal(exchange), proven.refusal(missing)]
    assert proven.refusal(channel_closed("PRECONDITION_FAILED - invalid expiration", 406)) is None
    assert proven.refusal(channel_closed("INTERNAL_ERROR", 541)) is None


def test_what_a_publisher_knows_of_topics_has_a_bound_and_ends_with_a_refusal() -> None:
    from outpost.adapters import codes
    from outpost.adapters.rabbitmq import proven

    def event(topic: str, size: int) -> base.Delivery:
        return base.Delivery("e", topic, "2026-01-02T03:04:05Z", {}, b"x" * size, 1)

    known = proven.Proven()
    assert not known.covers(event("a", 0))
    for number in range(proven.MAX_TOPICS + 1):
        known.taken(event(f"t{number}", number))
    assert [False, True, True] == [known.covers(event(f"t{n}", 9)) for n in (0, 1, proven.MAX_TOPICS)]
    assert not known.covers(event("t1", proven.MAX_TOPICS + 1))
    refused = codes.failed(codes.Code.ACCESS_DENIED)
    known.refused(proven.Refusal("t1"), refused, 5.0)
    known.refused(proven.Refusal(size=9), refused, 6.0)
    assert [False, True] == [known.covers(event("t1", 1)), known.covers(event("t2", 8))]
    assert not known.covers(event("t2", 9))
    assert (refused, None) == (known.refused_since(4.0, event("t1", 1)), known.refused_since(5.5, event("t1", 1)))
    assert (refused, None) == (known.refused_since(5.5, event("x", 9)), known.refused_since(5.5, event("x", 8)))
