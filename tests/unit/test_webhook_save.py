"""What may be saved for a webhook, and what becomes of its secret."""

from __future__ import annotations

import json
import re

import pytest

from outpost.adapters import base, descriptions, fields
from outpost.adapters.webhook import headers as webhook_headers
from outpost.adapters.webhook import save as webhook_save
from outpost.adapters.webhook import signing

NOW_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
TOMORROW = "2026-01-02T00:00:00Z"
LATER = "2027-01-01T00:00:00Z"
URL = {"url": "https://example.com/hook"}
STORED = {"secret": "s1"}
GRACE = {"secret": "s2", "previous_secret": "s1", "previous_secret_invalid_at": TOMORROW}


def save(
    *,
    config: dict[str, str] | None = None,
    sets: dict[str, str | None] | None = None,
    stored: dict[str, str] | None = None,
    admin: bool = True,
    clears: bool = False,
) -> base.Prepared:
    """`sets` are the credentials of the request; `clears` stands for `credentials: null`."""
    previous = stored and base.OpenDestination("t", "d", "webhook", URL, stored, {})
    merged = {} if clears else (stored or {}) | {k: v for k, v in (sets or {}).items() if v is not None}
    for key, value in (sets or {}).items():
        if value is None:
            merged.pop(key, None)
    return webhook_save.prepare(
        base.Save(URL if config is None else config, merged, previous or None, sets or {}, admin, NOW_MS),
        descriptions.load("webhook").config_fields,
    )


def problems(prepared: base.Prepared) -> list[tuple[str, str]]:
    return [(problem.path, problem.rule) for problem in prepared.problems]


@pytest.mark.behaviour(54)
@pytest.mark.parametrize("admin", [True, False])
def test_a_new_webhook_gets_a_secret(admin: bool) -> None:
    prepared = save(admin=admin)
    assert re.fullmatch(r"whsec_[0-9a-f]{64}", prepared.credentials["secret"])
    assert (["secret"], False, URL) == (list(prepared.credentials), prepared.rotated, prepared.config)
    assert prepared.credentials != save(admin=admin).credentials


@pytest.mark.behaviour(56)
def test_the_api_key_may_bring_its_own_secrets() -> None:
    assert {"secret": "mine"} == save(sets={"secret": "mine"}).credentials
    assert GRACE == save(sets=dict(GRACE)).credentials


@pytest.mark.behaviour(56)
def test_a_previous_secret_without_a_date_gets_a_day() -> None:
    assert GRACE == save(sets={"secret": "s2", "previous_secret": "s1"}).credentials
    assert GRACE == save(sets={"secret": "s2", "previous_secret": "s1"}, stored=STORED).credentials
    assert (
        GRACE
        == save(
            sets={"previous_secret": "s1"},
            stored={"secret": "s2", "previous_secret": "s0", "previous_secret_invalid_at": LATER},
        ).credentials
    )


@pytest.mark.behaviour(56)
@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ({"secret": ""}, [("credentials.secret", "required")]),
        ({"previous_secret": "p"}, [("credentials.secret", "required")]),
        (
            {"previous_secret_invalid_at": LATER},
            [("credentials.secret", "required"), ("credentials.previous_secret", "required")],
        ),
        ({"secret": "s", "previous_secret_invalid_at": LATER}, [("credentials.previous_secret", "required")]),
        (
            {"secret": "s", "previous_secret": "p", "previous_secret_invalid_at": "soon"},
            [("credentials.previous_secret_invalid_at", "pattern")],
        ),
        (
            {"secret": "", "previous_secret_invalid_at": "soon"},
            [
                ("credentials.secret", "required"),
                ("credentials.previous_secret", "required"),
                ("credentials.previous_secret_invalid_at", "pattern"),
            ],
        ),
    ],
)
def test_secrets_that_do_not_fit_together_are_all_named(
    sets: dict[str, str | None],
    expected: list[tuple[str, str]],
) -> None:
    assert expected == problems(save(sets=sets))


@pytest.mark.behaviour(56)
@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_previous_secret_unsets_it_and_its_date(empty: str | None) -> None:
    assert {"secret": "s2"} == save(sets={"previous_secret": empty}, stored=GRACE).credentials


@pytest.mark.parametrize("nothing", ["", None])
@pytest.mark.parametrize("more", [{}, {"previous_secret": None}, {"previous_secret": "p"}])
def test_taking_the_secret_away_in_a_patch_is_refused(nothing: str | None, more: dict[str, str | None]) -> None:
    prepared = save(sets={"secret": nothing, **more}, stored=GRACE)
    assert [("credentials.secret", "required")] == problems(prepared)


def test_a_null_secret_on_create_is_as_none() -> None:
    assert re.fullmatch(r"whsec_[0-9a-f]{64}", save(sets={"secret": None}).credentials["secret"])


def test_clearing_the_credentials_makes_a_new_secret() -> None:
    prepared = save(stored=STORED, clears=True)
    assert re.fullmatch(r"whsec_[0-9a-f]{64}", prepared.credentials["secret"])
    assert prepared.rotated


def test_a_tenant_that_clears_credentials_changes_nothing() -> None:
    prepared = save(stored=GRACE, clears=True, admin=False)
    assert (GRACE, False) == (prepared.credentials, prepared.rotated)


@pytest.mark.behaviour(55)
@pytest.mark.parametrize("word", ["true", "1", "on", "yes", "TRUE", "On", "yEs"])
@pytest.mark.parametrize("admin", [True, False])
def test_rotation_makes_a_new_secret_and_keeps_the_old_one_for_a_day(word: str, admin: bool) -> None:
    prepared = save(sets={"rotate_secret": word}, stored=STORED, admin=admin)
    secret = prepared.credentials["secret"]
    assert re.fullmatch(r"whsec_[0-9a-f]{64}", secret)
    assert GRACE | {"secret": secret} == prepared.credentials
    assert prepared.rotated


@pytest.mark.behaviour(55)
def test_a_rotation_takes_its_end_from_its_own_request_only() -> None:
    asked = save(sets={"rotate_secret": "true", "previous_secret_invalid_at": LATER, "secret": "x"}, stored=STORED)
    assert ("s1", LATER) == (asked.credentials["previous_secret"], asked.credentials["previous_secret_invalid_at"])
    assert asked.credentials["secret"].startswith("whsec_")
    again = save(sets={"rotate_secret": "true"}, stored=asked.credentials)
    assert TOMORROW == again.credentials["previous_secret_invalid_at"]
    assert asked.credentials["secret"] == again.credentials["previous_secret"]
    bad = save(sets={"rotate_secret": "true", "previous_secret_invalid_at": "soon"}, stored=STORED)
    assert [("credentials.previous_secret_invalid_at", "pattern")] == problems(bad)


@pytest.mark.behaviour(55)
@pytest.mark.parametrize("word", ["false", "0", "off", "no", "", "2", "truee"])
def test_falsy_words_do_not_rotate(word: str) -> None:
    prepared = save(sets={"rotate_secret": word}, stored=STORED)
    assert (STORED, False) == (prepared.credentials, prepared.rotated)


@pytest.mark.behaviour(55)
def test_a_secret_that_is_not_there_yet_cannot_be_rotated() -> None:
    assert [("credentials.rotate_secret", "invalid")] == problems(save(sets={"rotate_secret": "true"}))
    assert [("credentials.secret", "required")] == problems(
        save(sets={"rotate_secret": "true"}, stored={"other": "x"})
    )


@pytest.mark.behaviour(56)
@pytest.mark.parametrize(("stored", "extra"), [(None, {}), (GRACE, {}), (GRACE, {"rotate_secret": "true"})])
def test_a_tenant_sets_no_secrets(stored: dict[str, str] | None, extra: dict[str, str]) -> None:
    sets = {"secret": "x", "previous_secret": "y", "previous_secret_invalid_at": LATER, **extra}
    assert [
        ("credentials.secret", "forbidden"),
        ("credentials.previous_secret", "forbidden"),
        ("credentials.previous_secret_invalid_at", "forbidden"),
    ] == problems(save(sets=sets, stored=stored, admin=False))


@pytest.mark.behaviour(56)
def test_a_tenant_may_send_back_what_it_was_shown() -> None:
    assert GRACE == save(sets=dict(GRACE), stored=GRACE, admin=False).credentials


@pytest.mark.behaviour(57)
def test_unknown_credentials_are_dropped() -> None:
    assert {"secret": "s"} == save(sets={"secret": "s", "token": "t"}).credentials
    assert STORED == save(sets={"token": "t"}, stored=STORED, admin=False).credentials


@pytest.mark.behaviour(57)
def test_an_expired_previous_secret_is_not_shown() -> None:
    end = signing.rfc3339_ms(TOMORROW)
    assert end is not None
    assert GRACE == webhook_save.shown(GRACE | {"token": "t"}, end)
    assert {"secret": "s2"} == webhook_save.shown(GRACE, end + 1)


@pytest.mark.behaviour(84)
@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "https://user:pass@example.com:8443/a%20b?c=d%23e",
        "http://127.0.0.1:1",
        "http://[::1]/x",
        "http://localhost:3000/",
        "http://169.254.169.254/latest",
        "https://xn--bcher-kva.example/",
        "http://a_b.c/",
        "https://bücher.example/é",
        "http://example.com./",
        "http://2130706433/",
        "http://h:65535/",
        "HTTP://127.0.0.1:9000/",
        "Https://Hooks.Example.COM/In",
    ],
)
def test_addresses_of_every_published_kind_are_accepted(url: str) -> None:
    assert [] == problems(save(config={"url": url}))


@pytest.mark.case(9)
@pytest.mark.parametrize("blanks", [" ", "\n", "\t\r\n ", "\u00a0", "\u3000\n"])
def test_blanks_around_an_address_are_trimmed_and_the_rest_is_kept_as_it_is(blanks: str) -> None:
    url = "Https://Hooks.Example.COM/In/../%7e?A=%2f&&"
    for spelt in (blanks + url, url + blanks, blanks + url + blanks):
        prepared = save(config={"url": spelt})
        assert ([], url) == (problems(prepared), prepared.config["url"])


@pytest.mark.case(10)
@pytest.mark.parametrize("url", ["http://h/#/hooks/42", "http://h/a?b#c", "http://h/a#", "https://u:p@h#x"])
def test_an_address_with_a_fragment_is_refused_with_a_sentence(url: str) -> None:
    [problem] = save(config={"url": url}).problems
    assert "config.url" == problem.path
    assert problem.sentence().startswith(
        "config.url has a fragment, the part from # on, which never reaches a server"
    )


@pytest.mark.behaviour(84)
@pytest.mark.parametrize(
    "url",
    [
        "example.com",
        "ftp://example.com",
        "//example.com",
        "http://",
        "https:///path",
        "http://:80/",
        "http:example.com",
        "http://exa mple.com/",
        "http://example.com/\x00",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:port/",
        "http://[::1",
        "http://[::g]/",
        "http://%31%32%37.0.0.1/",
        "http://exa\\mple.com/",
        "http://?",
        "http://#",
        "javascript:1",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    assert [("config.url", "pattern")] == problems(save(config={"url": url}))


def test_an_address_is_required_and_of_bounded_length() -> None:
    assert [("config.url", "required")] == problems(save(config={}))
    assert [("config.url", "required")] == problems(save(config={"url": ""}))
    assert [("config.url", "maxlength")] == problems(save(config={"url": "http://h/" + "x" * 2040}))
    assert [] == problems(save(config={"url": "http://h/" + "x" * 2039}))


@pytest.mark.behaviour(83)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer x", "X-1_a": "é ü", "a": "\t"}])
def test_custom_headers_are_accepted(headers: dict[str, str]) -> None:
    config = {**URL, "custom_headers": json.dumps(headers)}
    assert config == save(config=config).config


@pytest.mark.behaviour(83)
@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        "1",
        '"x"',
        '{"a": 1}',
        '{"a": null}',
        '{"a": {}}',
        "[" * 100_000,
        '{"a":' * 100_000,
        "{} x",
        '{"a": "\ud800"}',
    ],
)
def test_custom_headers_that_are_no_object_of_texts_are_invalid(text: str) -> None:
    config = {**URL, "custom_headers": text}
    assert [("config.custom_headers", "invalid")] == problems(save(config=config))


@pytest.mark.behaviour(83)
def test_every_fault_of_config_and_credentials_is_reported_at_once() -> None:
    headers = {
        "-a": "1",
        "_a": "1",
        "a b": "1",
        "a:b": "1",
        "": "1",
        "é": "1",
        "Host": "1",
        "CONTENT-TYPE": "1",
        "transfer-encoding": "1",
        "ok": "",
        "nl": "a\r\nb: c",
        "fine": "1",
    }
    prepared = save(config={"url": "nope", "custom_headers": json.dumps(headers)}, sets={"secret": ""})
    place = "config.custom_headers."
    assert [
        ("config.url", "pattern"),
        *[(place + name, "pattern") for name in ("-a", "_a", "a b", "a:b", "", "é")],
        *[(place + name, "forbidden") for name in ("host", "content-type", "transfer-encoding")],
        (place + "ok", "required"),
        (place + "nl", "pattern"),
        ("credentials.secret", "required"),
    ] == problems(prepared)
    assert {} == prepared.credentials


def test_the_published_reserved_names_are_reserved() -> None:
    assert {"content-type", "content-length", "host", "connection", "user-agent"} <= webhook_headers.RESERVED


@pytest.mark.behaviour(58)
@pytest.mark.parametrize(
    ("value", "hidden"),
    [
        ("", ""),
        ("a", "*"),
        ("123456789", "*********"),
        ("1234567890", "1234******"),
        ("abcdé" * 3, "abcd***********"),
    ],
)
def test_masks_hide_all_of_short_values_and_most_of_long_ones(value: str, hidden: str) -> None:
    assert hidden == fields.mask(value)
    declared = [base.Field("text", "K", "", "key", required=True, sensitive=True)]
    assert {"key": hidden, "other": value} == fields.masked(declared, {"key": value, "other": value})


@pytest.mark.behaviour(130)
@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ({"minlength": 3}, "éa", None),
        ({"minlength": 3}, "ab", "minlength"),
        ({"maxlength": 2}, "éa", "maxlength"),
        ({"pattern": "^a+$"}, "aa", None),
        ({"pattern": "^a+$"}, "aa\n", "pattern"),
        ({"type": "number"}, "-12", None),
        ({"type": "number"}, "1.5", "type"),
        ({"required": True}, "", "required"),
        ({}, "", None),
    ],
)
def test_declared_rules_are_applied(field: dict[str, object], value: str, expected: str | None) -> None:
    plain = {"type": "text", "label": "", "description": "", "key": "k", "required": False}
    declared = base.Field(**plain | field)
    found = fields.check([declared], {"k": value}, "config")
    assert ([] if expected is None else [("config.k", expected)]) == [(one.path, one.rule) for one in found]
