"""The hookdeck type: what is a token, what is kept of its source, where events go, what an attempt shows."""

from __future__ import annotations

import base64

import pytest

from outpost import errors
from outpost import settings as settings_
from outpost.adapters import base
from outpost.adapters.hookdeck import save as hookdeck_save
from outpost.adapters.hookdeck import type as hookdeck
from outpost.adapters.shared import resources as shared

SOURCE = {"source_name": "orders", "source_id": "src_1"}


def token(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


GOOD, OTHER = token("src_1:key"), token("src_2:key")


@pytest.fixture
def adapter() -> hookdeck.Hookdeck:
    return hookdeck.build(shared.Shared(settings_.Settings()))


def save(
    credentials: dict[str, str],
    *,
    config: dict[str, str] | None = None,
    stored: str | None = None,
    verified: base.Verified = base.NOT_VERIFIED,
) -> base.Save:
    previous = None if stored is None else opened({"token": stored}, SOURCE)
    return base.Save(config or {}, credentials, previous, credentials, True, 0, verified)


def opened(credentials: dict[str, str], config: dict[str, str] | None = None) -> base.OpenDestination:
    return base.OpenDestination("t", "d", "hookdeck", config or {}, credentials, {})


def rules(prepared: base.Prepared) -> list[tuple[str, str]]:
    return [(problem.path, problem.rule) for problem in prepared.problems]


@pytest.mark.behaviour(137)
@pytest.mark.parametrize(
    ("text", "source"),
    [
        pytest.param(GOOD, "src_1", id="id and key"),
        pytest.param(token("src-1:a:b::c"), "src-1", id="further colons belong to the key"),
        pytest.param(token("src_1:"), "src_1", id="what the key is worth is for Hookdeck to say"),
        pytest.param(token("src_1"), None, id="no colon"),
        pytest.param(token(":key"), None, id="no id"),
        pytest.param(token("../x:key"), None, id="an id that would lead elsewhere"),
        pytest.param(token("s" * 129 + ":key"), None, id="an id without end"),
        pytest.param("not base64!", None, id="not base64"),
        pytest.param(GOOD + "\n", None, id="a line end"),
        pytest.param(token("src_1:ke").rstrip("="), None, id="no padding"),
        pytest.param("tökén", None, id="not ASCII"),
        pytest.param(token("src_1:" + "k" * 1_024), None, id="too long"),
    ],
)
def test_a_token_is_the_base64_of_an_id_and_a_key(text: str, source: str | None):
    assert source == hookdeck_save.source_of(text)


@pytest.mark.behaviour(137)
def test_a_token_that_is_none_has_the_published_kinds(adapter: hookdeck.Hookdeck):
    assert [("credentials.token", "token_required")] == rules(adapter.prepare(save({})))
    assert [("credentials.token", "token_required")] == rules(adapter.prepare(save({"token": ""})))
    assert [("credentials.token", "invalid_token_format")] == rules(adapter.prepare(save({"token": "x"})))


@pytest.mark.behaviour(137)
def test_a_verified_token_is_stored_with_its_source_whatever_the_request_says(adapter: hookdeck.Hookdeck):
    asked = save(
        {"token": GOOD}, config={"source_id": "src_9", "note": "mine"}, verified=base.Verified(dict(SOURCE))
    )
    prepared = adapter.prepare(asked)
    assert [] == prepared.problems
    assert {**SOURCE, "note": "mine"} == prepared.config
    assert {"token": GOOD} == prepared.credentials
    assert not prepared.rotated


@pytest.mark.behaviour(137)
@pytest.mark.parametrize("config", [{}, {"source_name": "forged", "source_id": "src_9"}, {"source_name": ""}])
def test_a_patch_does_not_change_what_is_kept_of_the_source(adapter: hookdeck.Hookdeck, config: dict[str, str]):
    prepared = adapter.prepare(save({"token": GOOD}, config=config, stored=GOOD))
    assert (SOURCE, [], False) == (prepared.config, prepared.problems, prepared.rotated)


def test_a_new_token_is_a_rotation_and_brings_its_own_source(adapter: hookdeck.Hookdeck):
    second = {"source_name": "invoices", "source_id": "src_2"}
    asked = save({"token": OTHER}, config=dict(SOURCE), stored=GOOD, verified=base.Verified(second))
    prepared = adapter.prepare(asked)
    assert (second, True) == (prepared.config, prepared.rotated)


def test_what_hookdeck_said_of_another_token_does_not_count(adapter: hookdeck.Hookdeck):
    """Between the question and the lock another request may have stored another token."""
    for verified in (base.NOT_VERIFIED, base.Verified(dict(SOURCE))):
        prepared = adapter.prepare(save({"token": OTHER}, stored=GOOD, verified=verified))
        assert [("credentials.token", "token_verification_failed")] == rules(prepared)


def test_what_hookdeck_refuses_is_not_stored(adapter: hookdeck.Hookdeck):
    refused = base.Verified(problems=[errors.Problem("credentials.token", "token_verification_failed")])
    assert refused.problems == adapter.prepare(save({"token": GOOD}, verified=refused)).problems


@pytest.mark.behaviour(137)
@pytest.mark.parametrize(
    ("credentials", "config", "target"),
    [
        ({"token": GOOD}, SOURCE, ("orders", "https://dashboard.hookdeck.com/sources/src_1")),
        (
            {"token": GOOD},
            {"source_name": "", "source_id": "src_1"},
            ("Hookdeck source ID: src_1", "https://dashboard.hookdeck.com/sources/src_1"),
        ),
        ({"token": "x"}, {}, ("Hookdeck (invalid token)", None)),
        ({}, {}, ("Hookdeck (no token)", None)),
    ],
)
def test_the_target_is_the_source(
    adapter: hookdeck.Hookdeck,
    credentials: dict[str, str],
    config: dict[str, str],
    target: tuple[str, str | None],
):
    assert target == adapter.target(opened(credentials, config))


def test_the_token_is_the_only_field_and_is_masked(adapter: hookdeck.Hookdeck):
    described = adapter.description
    assert ([], ["token"]) == (described.config_fields, [field.key for field in described.credential_fields])
    assert {"token": GOOD[:4] + "*" * (len(GOOD) - 4)} == adapter.shown_credentials({"token": GOOD}, 0)
    assert described.setup_link is not None
    assert "https://dashboard.hookdeck.com/connect" == described.setup_link["href"]


async def test_a_stored_token_that_is_none_cannot_be_connected(adapter: hookdeck.Hookdeck):
    with pytest.raises(errors.Invalid):
        await adapter.connect(opened({"token": "x"}))


def test_headers_of_an_answer_are_shown_in_the_canonical_spelling_and_bounded():
    long = b"x" * hookdeck.MOST_HEADER_BYTES
    headers = [(b"x-a", b"1"), (b"ETag", b"\xff"), (b"X-A", b"2"), (b"long", long), (b"z", b"3")]
    assert {"X-A": ["1", "2"], "Etag": "\ufffd"} == hookdeck.shown_headers(headers)
