"""Which values of a destination are secret, for every field of every type."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Mapping

import pytest
import yarl
from hypothesis import given
from hypothesis import strategies as st

from outpost.adapters import base, registry
from outpost.adapters.shared import redaction, secret_values
from outpost.settings import Settings

REGISTRY = registry.build(Settings())
TYPES = {type_.type: type_ for type_ in REGISTRY.types()}
CREDENTIALS = [(type_.type, field) for type_ in TYPES.values() for field in type_.credential_fields]
CONFIG = [(type_.type, field.key) for type_ in TYPES.values() for field in type_.config_fields]
SECRET = "Qz7~hunter2/+="
# A user name is no secret by the published rules, which show it in clear.
IN_CLEAR = {("rabbitmq", "username"), ("kafka", "username")}


def cleared(
    text: str,
    type_: str = "webhook",
    *,
    config: Mapping[str, str] | None = None,
    credentials: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """`text` as an attempt at a delivery to this destination keeps it."""
    opened = base.OpenDestination(
        "acme", "d", type_, dict(config or {}), dict(credentials or {}), dict(metadata or {})
    )
    return redaction.Redactor(lambda: secret_values.of(TYPES[type_], opened)).text(text)


@pytest.mark.parametrize(("type_", "field"), CREDENTIALS, ids=lambda value: getattr(value, "key", value))
def test_every_credential_of_every_type_is_cut_out_of_an_echo(type_: str, field: base.Field) -> None:
    told = cleared(f"you sent {SECRET}!", type_, credentials={field.key: SECRET})
    assert ((type_, field.key) in IN_CLEAR) == (SECRET in told) == (not field.sensitive)


@pytest.mark.parametrize(("type_", "key"), CONFIG)
def test_a_url_in_any_config_field_is_cut_out_of_an_echo(type_: str, key: str) -> None:
    quoted = urllib.parse.quote(SECRET, safe="")
    for url in (
        f"https://user-name:{quoted}@example.com/",
        f"https://{quoted}@example.com/",
        f"https://example.com/?a=1&token={quoted}",
        f"https://example.com/?{quoted}",
        f"amqps://user-name:{quoted}@example.com/vhost",
    ):
        told = cleared(f"{url} {SECRET}", type_, config={key: url})
        assert SECRET not in told
        assert quoted not in told


@pytest.mark.parametrize(("type_", "key"), CONFIG)
def test_a_map_in_any_config_field_is_cut_out_of_an_echo(type_: str, key: str) -> None:
    told = cleared(f"you sent {SECRET}", type_, config={key: json.dumps({"X-Key": SECRET})})
    assert "you sent ***" == told


@pytest.mark.parametrize("key", ["secret", "previous_secret", "undeclared"])
def test_a_webhook_has_secrets_that_are_not_declared(key: str) -> None:
    assert "***" == cleared("whsec_0123456789", credentials={key: "whsec_0123456789"})


def test_a_declared_config_field_that_is_sensitive_is_cut_out() -> None:
    field = base.Field("text", "Key", "", "api_key", required=True, sensitive=True)
    type_ = base.DestinationType("own", "Own", "", "", "", [field], [])
    opened = base.OpenDestination("acme", "d", "own", {"api_key": "0123456789", "name": "a name"}, {}, {})
    assert {"0123456789"} == secret_values.of(type_, opened)


@pytest.mark.parametrize(
    ("header", "echo"),
    [
        ("Bearer 0123456789abc", "token 0123456789abc is over"),
        ("Basic " + base64.b64encode(b"user-name:pass-word").decode(), "user-name pass-word"),
        ("Basic " + base64.b64encode(b"user-name:pass-word").decode(), "dXNlci1uYW1lOnBhc3Mtd29yZA"),
        ("sid=0123456789abc; theme=dark", "0123456789abc"),
        ('Signature keyId="my-key-id", signature="abcdef0123"', "abcdef0123"),
    ],
)
def test_a_header_is_cut_out_in_parts(header: str, echo: str) -> None:
    told = cleared(echo, config={"custom_headers": json.dumps({"Authorization": header})})
    assert set() == {"0123456789abc", "pass-word", "abcdef0123", "dXNlci1uYW1lOnBhc3Mtd29yZA"} & {*told.split()}


def test_the_login_of_a_url_is_cut_out_as_it_is_sent() -> None:
    sent = base64.b64encode("us er:pä/ss".encode()).decode()
    told = cleared(f"Authorization: Basic {sent}", config={"url": "https://us%20er:p%C3%A4%2Fss@example.com/"})
    assert "Authorization: Basic ***" == told


def test_a_query_is_cut_out_in_the_spelling_of_the_request() -> None:
    """yarl spells a URL anew: it escapes what must be, and no more."""
    url = "https://example.com/hook?key=a%7Eb%2cc(d)eé"
    sent = str(yarl.URL(url).raw_path_qs)
    assert "/hook?key=a~b,c(d)e%C3%A9" == sent
    assert "/hook?key=***" == cleared(sent, config={"url": url})


def test_tokens_in_the_path_of_a_webhook_are_cut_out_and_words_are_not() -> None:
    url = "https://hooks.example.com/services/orders-2024-production/XxYy0123456789ZzXxYy0123"
    echo = "services orders-2024-production XxYy0123456789ZzXxYy0123"
    assert "services orders-2024-production ***" == cleared(echo, config={"url": url})


def test_a_connection_string_is_cut_out_in_parts_but_for_names() -> None:
    string = "Endpoint=sb://ns.example.com/;SharedAccessKeyName=RootManage;SharedAccessKey=a2V5LWtleS1rZXk="
    told = cleared("RootManage a2V5LWtleS1rZXk=", "azure_servicebus", credentials={"connection_string": string})
    assert "RootManage ***" == told
    signed = "Endpoint=sb://ns.example.com/;SharedAccessSignature=SharedAccessSignature sr=x&sig=abc%2Bdef%3D&se=1"
    told = cleared("abc%2Bdef%3D abc+def=", "azure_servicebus", credentials={"connection_string": signed})
    assert "*** ***" == told


def test_a_key_file_is_cut_out_in_parts_but_for_names() -> None:
    file = json.dumps({"type": "service_account", "project_id": "my-project", "private_key": "--BEGIN--\nabc\n"})
    told = cleared("my-project --BEGIN--\\nabc\\n", "gcp_pubsub", credentials={"service_account_json": file})
    assert "my-project ***" == told


def test_delivery_metadata_is_cut_out_where_its_name_says_that_it_is_secret() -> None:
    told = cleared("eu-central 0123456789", metadata={"region": "eu-central", "api-key": "0123456789"})
    assert "eu-central ***" == told


@given(
    config=st.dictionaries(st.sampled_from(["url", "custom_headers", "other"]), st.text(max_size=60)),
    credentials=st.dictionaries(st.sampled_from(["secret", "other"]), st.text(max_size=60)),
    scheme=st.sampled_from(["", "https://", "https://[", "{", '{"a":', "Basic "]),
)
def test_no_value_breaks_it(config: dict[str, str], credentials: dict[str, str], scheme: str) -> None:
    config = {key: scheme + value for key, value in config.items()}
    credentials = {key: scheme + value for key, value in credentials.items()}
    cleared("some text", config=config, credentials=credentials, metadata={"token": scheme})


@given(
    secrets=st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=6, max_size=20),
        min_size=4,
        max_size=4,
    )
)
def test_no_part_of_any_url_or_header_is_left_in_an_echo(secrets: list[str]) -> None:
    user, password, token, header = (f"Qz7~{secret}" for secret in secrets)
    quoted = [urllib.parse.quote(text, safe="") for text in (user, password, token)]
    config = {
        "url": "https://{}:{}@example.com/hook?token={}".format(*quoted),
        "custom_headers": json.dumps({"Authorization": f"Bearer {header}"}),
    }
    login = base64.b64encode(f"{user}:{password}".encode()).decode()
    echo = json.dumps({"headers": [header, login], "url": config["url"], "told": [user, password, token]})
    told = cleared(echo, config=config)
    assert "Qz7" not in told
    assert login not in told
