"""What may be saved for a Pub/Sub topic, the tokens that are made of it, and how batches and failures are read."""

from __future__ import annotations

import base64
import functools
import json
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from google.oauth2 import service_account

from outpost import errors
from outpost import settings as settings_
from outpost.adapters import base, codes, extras
from outpost.adapters.gcp import calls as gcp_calls
from outpost.adapters.gcp import channels as grpc_channels
from outpost.adapters.gcp import key as gcp_key
from outpost.adapters.gcp import publisher as gcp_publisher
from outpost.adapters.gcp import type as gcp_pubsub
from outpost.adapters.shared import resources as shared_

CONFIG = {"project_id": "project-1", "topic": "events"}
PATH = "credentials.service_account_json"
PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
CLEAR = serialization.NoEncryption()
NOW = 1_767_225_600


@functools.cache
def private() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, 2_048)


def key(**changes: Any) -> str:
    told = {
        "type": "service_account",
        "private_key_id": "key-1",
        "private_key": private().private_bytes(PEM, PKCS8, CLEAR).decode(),
        "client_email": "publisher@project-1.iam.gserviceaccount.com",
        "token_uri": "https://169.254.169.254/token",
        **changes,
    }
    return json.dumps({name: value for name, value in told.items() if value is not None})


@pytest.fixture
def adapter() -> gcp_pubsub.PubSub:
    return gcp_pubsub.build(shared_.Shared(settings_.Settings()))


def save(adapter: gcp_pubsub.PubSub, config: dict[str, str], credentials: dict[str, str]) -> base.Prepared:
    return adapter.prepare(base.Save(config, credentials, None, {}, True, 0))


def problems(prepared: base.Prepared) -> list[tuple[str, str]]:
    return [(problem.path, problem.rule) for problem in prepared.problems]


def rules(adapter: gcp_pubsub.PubSub, text: str) -> list[str]:
    prepared = save(adapter, CONFIG, {"service_account_json": text})
    assert {PATH} >= {path for path, _ in problems(prepared)}
    return [rule for _, rule in problems(prepared)]


@pytest.mark.behaviour(130, 136)
def test_project_topic_and_key_are_required_and_an_emulator_needs_no_key(adapter: gcp_pubsub.PubSub) -> None:
    missing = [("config.project_id", "required"), ("config.topic", "required"), (PATH, "required")]
    assert missing == problems(save(adapter, {}, {}))
    assert missing[:2] == problems(save(adapter, {"endpoint": "localhost:8085", "topic": ""}, {}))
    assert [] == problems(save(adapter, CONFIG | {"endpoint": "localhost:8085"}, {}))


@pytest.mark.behaviour(136)
@pytest.mark.parametrize(
    "told", [{}, {"client_email": "a@b"}, {"private_key": "p"}, {"client_email": "", "private_key": 7}]
)
async def test_a_key_that_signs_nothing_is_saved_and_its_deliveries_fail(
    adapter: gcp_pubsub.PubSub, told: dict[str, Any]
) -> None:
    credentials = {"service_account_json": json.dumps({"type": "service_account", **told})}
    assert [] == save(adapter, CONFIG, credentials).problems
    publisher = await adapter.connect(base.OpenDestination("t", "d", "gcp_pubsub", CONFIG, credentials, {}))
    events = [base.Delivery(f"e{n}", "t", "2026-01-02T03:04:05Z", {}, b"{}", 1) for n in range(2)]
    outcomes = await publisher.send(events, 0.0)
    assert ["invalid_credentials"] * 2 == [outcome.code for outcome in outcomes]
    assert all("has no " in str(outcome.response) for outcome in outcomes)
    await publisher.close()


@pytest.mark.case(40)
@pytest.mark.parametrize(
    ("project", "topic", "stored"),
    [
        ("project-1", "projects/project-1/topics/orders", ("project-1", "orders")),
        ("", "projects/project-1/topics/orders", ("project-1", "orders")),
        ("project-1", "//pubsub.googleapis.com/projects/project-1/topics/orders", ("project-1", "orders")),
        (
            "project-1",
            "https://pubsub.googleapis.com/v1/projects/project-1/topics/orders",
            ("project-1", "orders"),
        ),
        (" project-1\t", "orders \n", ("project-1", "orders")),
        ("example.com:p", "projects/example.com:p/topics/a+b~c%", ("example.com:p", "a+b~c%")),
    ],
)
@pytest.mark.parametrize("endpoint", ["", "localhost:8085"])
def test_the_full_name_of_a_topic_is_taken_apart(
    adapter: gcp_pubsub.PubSub, project: str, topic: str, stored: tuple[str, str], endpoint: str
) -> None:
    config = {"project_id": project, "topic": topic, "endpoint": endpoint}
    prepared = save(adapter, config, {"service_account_json": key()})
    assert [] == prepared.problems
    assert stored == (prepared.config["project_id"], prepared.config["topic"])


@pytest.mark.case(40)
@pytest.mark.parametrize(
    ("topic", "sentence"),
    [
        ("projects/another/topics/orders", gcp_pubsub.PROJECT),
        ("projects/project-1/subscriptions/orders", gcp_pubsub.TOPIC),
        ("orders/new", gcp_pubsub.TOPIC),
        ("or ders", gcp_pubsub.TOPIC),
        ("1orders", gcp_pubsub.TOPIC),
        ("goog-orders", gcp_pubsub.TOPIC),
        ("ab", gcp_pubsub.TOPIC),
        ("t" * 256, gcp_pubsub.TOPIC),
    ],
)
def test_what_is_no_topic_of_the_project_is_refused_with_a_sentence(
    adapter: gcp_pubsub.PubSub, topic: str, sentence: str
) -> None:
    prepared = save(adapter, CONFIG | {"topic": topic}, {"service_account_json": key()})
    assert [sentence] == [problem.sentence() for problem in prepared.problems]


def test_an_ordering_key_template_that_is_none_is_refused(adapter: gcp_pubsub.PubSub) -> None:
    config = CONFIG | {"ordering_key_template": "data.["}
    found = problems(save(adapter, config, {"service_account_json": key()}))
    assert [("config.ordering_key_template", "pattern")] == found


@pytest.mark.behaviour(136)
def test_what_is_saved_is_stored_as_it_was_sent(adapter: gcp_pubsub.PubSub) -> None:
    prepared = save(adapter, CONFIG | {"note": "kept"}, {"service_account_json": key()})
    assert ([], CONFIG | {"note": "kept"}) == (prepared.problems, prepared.config)
    assert {"service_account_json": key()} == prepared.credentials


@pytest.mark.behaviour(136)
@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("no JSON", "format"),
        ("[]", "format"),
        ('"text"', "format"),
        ("[" * 100_000, "format"),
        ("\ud800", "format"),
        ("{}", "missing_type"),
        ('{"project_id": "p"}', "missing_type"),
    ],
)
def test_a_key_is_json_with_a_type(adapter: gcp_pubsub.PubSub, text: str, rule: str) -> None:
    assert [rule] == rules(adapter, text)
    [problem] = save(adapter, CONFIG, {"service_account_json": text}).problems
    assert f"{PATH} failed {rule} validation" == problem.sentence()


@pytest.mark.behaviour(136)
def test_with_an_endpoint_the_key_is_not_looked_at(adapter: gcp_pubsub.PubSub) -> None:
    config = CONFIG | {"endpoint": "localhost:8085"}
    assert [] == save(adapter, config, {"service_account_json": "anything"}).problems


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "external_account", "credential_source": {"executable": {"command": "touch /tmp/taken"}}}',
        '{"type": "external_account", "credential_source": {"file": "/etc/passwd"}}',
        '{"type": "external_account", "credential_source": {"url": "http://169.254.169.254/"}}',
        '{"type": "external_account_authorized_user", "token_url": "http://169.254.169.254/"}',
        '{"type": "impersonated_service_account", "source_credentials": {}}',
        '{"type": "gdch_service_account", "token_uri": "http://169.254.169.254/"}',
        '{"type": "authorized_user", "refresh_token": "r"}',
        '{"type": null}',
        '{"type": ""}',
    ],
)
def test_credentials_that_make_a_library_read_files_or_run_commands_are_refused(
    adapter: gcp_pubsub.PubSub, text: str
) -> None:
    assert ["unsupported_type"] == rules(adapter, text)
    [problem] = save(adapter, CONFIG, {"service_account_json": text}).problems
    told = "must be the key of a service account: no other type of credentials is supported"
    assert f"{PATH} {told}" == problem.sentence()


def test_all_that_is_wrong_with_a_key_is_said_at_once(adapter: gcp_pubsub.PubSub) -> None:
    wrong = key(universe_domain="169.254.169.254", client_email=None, private_key=7)
    assert ["unsupported_universe", "missing_client_email", "missing_private_key"] == rules(adapter, wrong)


def test_a_private_key_that_cannot_sign_is_refused_without_a_word_of_it(adapter: gcp_pubsub.PubSub) -> None:
    locked = private().private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"password"))
    curve = ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, PKCS8, CLEAR)
    public = private().public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    good = private().private_bytes(PEM, PKCS8, CLEAR).decode()
    for pem in (locked.decode(), curve.decode(), public.decode(), "secret", good[:500], good + " " * 4_096):
        text = key(private_key=pem)
        assert ["invalid_private_key"] == rules(adapter, text)
        prepared = save(adapter, CONFIG, {"service_account_json": text})
        told = repr(prepared) + " ".join(problem.sentence() for problem in prepared.problems)
        assert pem[-70:-30] not in told if len(pem) > 70 else pem not in told


def test_a_key_whose_numbers_do_not_fit_is_refused(adapter: gcp_pubsub.PubSub) -> None:
    numbers = private().private_numbers()
    odd = rsa.RSAPrivateNumbers(
        numbers.p, numbers.q, numbers.d + 2, numbers.dmp1, numbers.dmq1, numbers.iqmp, numbers.public_numbers
    ).private_key(unsafe_skip_rsa_key_validation=True)
    assert ["invalid_private_key"] == rules(
        adapter, key(private_key=odd.private_bytes(PEM, PKCS8, CLEAR).decode())
    )


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost:8085", "localhost", 8085),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("[::1]:65535", "::1", 65_535),
        ("pubsub.emulator_1.svc:443", "pubsub.emulator_1.svc", 443),
        ("http://localhost:8085", "localhost", 8085),
        ("http://[::1]:8085/", "::1", 8085),
    ],
)
def test_an_endpoint_is_host_and_port(text: str, host: str, port: int) -> None:
    assert gcp_calls.Service(host, port, tls=False) == gcp_pubsub.parse_endpoint(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "localhost",
            "localhost:",
            ":80",
            "localhost:0",
            "localhost:65536",
            "localhost:80/path",
            "localhost:80\n1",
        ),
        *(
            "a:1,b:2",
            "::1:80",
            "u@h:80",
            "loc alhost:80",
            "https://localhost:8085",
            "http://localhost",
            "unix:/run/x",
            "dns:///a:80",
        ),
    ],
)
def test_any_other_endpoint_is_refused(adapter: gcp_pubsub.PubSub, text: str) -> None:
    config = CONFIG | {"endpoint": text}
    assert [("config.endpoint", "pattern")] == problems(save(adapter, config, {"service_account_json": "{}"}))


@pytest.mark.behaviour(136)
def test_the_target_is_project_and_topic_with_the_page_of_the_console(adapter: gcp_pubsub.PubSub) -> None:
    def target(config: dict[str, str]) -> tuple[str, str | None]:
        return adapter.target(base.OpenDestination("t", "d", "gcp_pubsub", config, {}, {}))

    page = "https://console.cloud.google.com/cloudpubsub/topic/detail/"
    assert ("project-1/events", f"{page}events?project=project-1") == target(CONFIG)
    assert ("a&b/x?y", f"{page}x%3Fy?project=a%26b") == target({"project_id": "a&b", "topic": "x?y"})


def test_the_key_is_masked(adapter: gcp_pubsub.PubSub) -> None:
    shown = adapter.shown_credentials({"service_account_json": '{"type": "x"}'}, 0)
    assert {"service_account_json": '{"ty*********'} == shown


async def test_a_stored_endpoint_that_cannot_be_used_is_told_when_connecting(adapter: gcp_pubsub.PubSub) -> None:
    broken = [
        (CONFIG | {"endpoint": "nonsense"}, key()),
    ]
    for config, text in broken:
        stored = base.OpenDestination("t", "d", "gcp_pubsub", config, {"service_account_json": text}, {})
        with pytest.raises(errors.Invalid):
            await adapter.connect(stored)


def test_the_type_says_what_to_install_where_the_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    told = gcp_pubsub.build(shared_.Shared(settings_.Settings())).description.unavailable
    assert "gcp_pubsub needs a library that is not installed: pip install 'outpost-events[gcp]'" == told


def decoded(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, the signature checked."""
    head, body, signature = (base64.urlsafe_b64decode(part + "==") for part in token.split("."))
    signed = token.rpartition(".")[0].encode()
    private().public_key().verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
    return json.loads(head), json.loads(body)


def tokens(clock: list[float], **changes: Any) -> gcp_key.Tokens:
    parsed = gcp_key.parse(key(**changes))
    assert isinstance(parsed, gcp_key.Key)
    return gcp_key.Tokens(parsed, gcp_pubsub.AUDIENCE, lambda: clock[0])


def test_a_token_is_what_googles_own_library_would_sign() -> None:
    """Whatever the key names as `token_uri`: nobody is asked."""
    theirs = service_account.Credentials.from_service_account_info(json.loads(key()), always_use_jwt_access=True)
    theirs._create_self_signed_jwt(gcp_pubsub.AUDIENCE)
    theirs._jwt_credentials.refresh(None)
    their_header, their_claims = decoded(theirs._jwt_credentials.token.decode())
    header, claims = decoded(tokens([their_claims["iat"]]).token())
    assert (their_header, their_claims) == (header, claims)
    assert "https://pubsub.googleapis.com/" == claims["aud"]


def test_a_token_is_signed_once_and_again_before_its_end() -> None:
    clock = [float(NOW)]
    made = tokens(clock)
    first = made.token()
    clock[0] += gcp_key.TOKEN_S - gcp_key.RENEWED_S - 1
    assert first == made.token()
    clock[0] += 1
    assert NOW + gcp_key.TOKEN_S - gcp_key.RENEWED_S == decoded(made.token())[1]["iat"]


def test_a_key_without_an_id_signs_tokens_without_one() -> None:
    assert {"alg": "RS256", "typ": "JWT"} == decoded(tokens([NOW], private_key_id=None).token())[0]


def test_a_key_shows_nothing_of_itself() -> None:
    assert "Key(..)" == repr(gcp_key.parse(key()))


def test_a_batch_goes_in_as_few_requests_as_the_limits_allow_in_its_order() -> None:
    split = gcp_publisher.parts
    assert [] == split({}, 10)
    assert [[0, 1], [2], [4, 5]] == split({0: 4, 1: 6, 2: 7, 4: 4, 5: 1}, 10)
    assert [1_000, 1] == [len(part) for part in split(dict.fromkeys(range(1_001), 1), 10_000)]


def test_grpc_is_given_addresses_and_no_names() -> None:
    assert "ipv4:192.0.2.1:443,192.0.2.2:443" == grpc_channels.target(["192.0.2.1", "192.0.2.2"], 443)
    assert "ipv6:[2001:db8::1]:443" == grpc_channels.target(["2001:db8::1"], 443)
    mixed = grpc_channels.target(["2001:db8::1", "192.0.2.1"], 443)
    assert "ipv6:[2001:db8::1]:443,[::ffff:192.0.2.1]:443" == mixed


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        ("UNAUTHENTICATED", "", codes.Code.INVALID_CREDENTIALS),
        ("PERMISSION_DENIED", "", codes.Code.ACCESS_DENIED),
        ("NOT_FOUND", "", codes.Code.TARGET_NOT_FOUND),
        ("RESOURCE_EXHAUSTED", "Quota exceeded for quota metric", codes.Code.THROTTLED),
        ("RESOURCE_EXHAUSTED", "Received message larger than max (11 vs. 10)", codes.Code.MESSAGE_TOO_LARGE),
        ("INVALID_ARGUMENT", "Request payload size exceeds the limit: 1 bytes.", codes.Code.MESSAGE_TOO_LARGE),
        ("INVALID_ARGUMENT", "The value for message_count is too large.", codes.Code.MESSAGE_TOO_LARGE),
        ("INVALID_ARGUMENT", "Invalid data in message", codes.Code.ERR),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", codes.Code.TIMEOUT),
        ("UNAVAILABLE", "connect: Connection refused (111)", codes.Code.CONNECTION_REFUSED),
        ("UNAVAILABLE", "Connection reset by peer", codes.Code.CONNECTION_RESET),
        ("UNAVAILABLE", "Socket closed", codes.Code.CONNECTION_RESET),
        ("UNAVAILABLE", "connect: Network is unreachable (101)", codes.Code.NETWORK_UNREACHABLE),
        ("UNAVAILABLE", "Tls handshake failed (TSI_PROTOCOL_FAILURE)", codes.Code.TLS_ERROR),
        ("UNAVAILABLE", "Custom verification check failed with error", codes.Code.TLS_ERROR),
        ("UNAVAILABLE", "The service was unable to fulfill your request.", codes.Code.ERR),
        ("INTERNAL", "too large", codes.Code.ERR),
        ("UNIMPLEMENTED", "", codes.Code.ERR),
    ],
)
def test_a_status_has_one_code(status: str, text: str, code: codes.Code) -> None:
    assert code == grpc_channels.code_of(grpc.StatusCode[status], text)
