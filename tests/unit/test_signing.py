"""Signatures and the times until which secrets sign."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from outpost.adapters.webhook import signing

BODY = b'1234567890.{"hello":"world"}'
GOLDEN = "7054f74dae9f73e82b56ca73e8f81450097c698eeda0b00bb8728e89796baf2d"


@pytest.mark.behaviour(77)
def test_the_default_signature_is_the_published_one() -> None:
    assert f"v0={GOLDEN}" == signing.Signer().header((b"test-secret",), BODY)


@pytest.mark.behaviour(77)
def test_several_secrets_are_joined_by_commas_newest_first() -> None:
    old = hmac.new(b"old", BODY, hashlib.sha256).hexdigest()
    assert f"v0={GOLDEN},{old}" == signing.Signer().header((b"test-secret", b"old"), BODY)


@pytest.mark.behaviour(78)
@pytest.mark.parametrize(
    ("word", "digest"),
    [
        ("hmac-sha256", "sha256"),
        ("hmac-sha1", "sha1"),
        ("hmac-md5", "md5"),
        ("", "sha256"),
        ("hmac-sha512", "sha256"),
    ],
)
@pytest.mark.parametrize("encoding", ["hex", "base64", "", "base32"])
def test_algorithm_and_encoding_follow_the_words_and_unknown_ones_mean_the_defaults(
    word: str,
    digest: str,
    encoding: str,
) -> None:
    raw = hmac.new(b"key", BODY, digest).digest()
    text = base64.b64encode(raw).decode() if encoding == "base64" else raw.hex()
    assert f"v0={text}" == signing.signer(word, encoding).header((b"key",), BODY)


@pytest.mark.behaviour(80)
@pytest.mark.parametrize(
    ("now_ms", "keys"),
    [
        (999, (b"new", b"old")),
        (1000, (b"new", b"old")),
        (1001, (b"new",)),
    ],
)
def test_a_previous_secret_signs_until_its_time_is_over(now_ms: int, keys: tuple[bytes, ...]) -> None:
    assert keys == signing.Secrets(b"new", b"old", 1000).valid(now_ms)


@pytest.mark.behaviour(80)
def test_without_a_secret_there_is_no_signature() -> None:
    assert () == signing.secrets_of({}).valid(0)
    assert () == signing.secrets_of({"secret": ""}).valid(0)
    assert "" == signing.Signer().header((), BODY)


def test_stored_credentials_become_keys() -> None:
    stored = {"secret": "whsec_é", "previous_secret": "p", "previous_secret_invalid_at": "1970-01-01T00:00:01Z"}
    assert signing.Secrets("whsec_é".encode(), b"p", 1000) == signing.secrets_of(stored)
    assert (b"s",) == signing.secrets_of({"secret": "s", "previous_secret": "p"}).valid(0)
    assert "whsec" not in repr(signing.secrets_of(stored))


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:00.5Z", 500),
        ("2026-01-01T00:00:00.123456789-00:30", 1767227400123),
        ("2024-02-29T23:59:59Z", 1709251199000),
        ("", None),
        ("now", None),
        ("2026-02-29T00:00:00Z", None),
        ("2026-01-01", None),
        ("2026-01-01T00:00:00", None),
        ("2026-01-01 00:00:00Z", None),
        ("2026-01-01T24:00:00Z", None),
        ("2026-01-01T00:60:00Z", None),
        ("2026-01-01T00:00:00z", None),
        ("2026-01-01T00:00:00Z\n", None),
        ("\uff12026-01-01T00:00:00Z", None),
        ("0000-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+23:00", -62135679600000),
    ],
)
def test_times_are_read_as_rfc_3339_says(text: str, ms: int | None) -> None:
    assert ms == signing.rfc3339_ms(text)


def test_a_time_written_is_the_time_read() -> None:
    assert "2026-01-01T00:00:01Z" == signing.rfc3339(1767225601999)
    assert 1767225601000 == signing.rfc3339_ms("2026-01-01T00:00:01Z")


@pytest.mark.behaviour(77, 80)
@pytest.mark.parametrize("algorithm", ["hmac-sha256", "hmac-sha1", "hmac-md5"])
@pytest.mark.parametrize("encoding", ["hex", "base64"])
@pytest.mark.parametrize("key", [b"k", b"long" * 50])
def test_a_signer_that_was_given_its_keys_before_says_the_same(algorithm: str, encoding: str, key: bytes) -> None:
    plain = signing.signer(algorithm, encoding)
    keyed = signing.KeyedSigner(plain, signing.Secrets(key, b"before", 1000))
    for body in (b"", b"{}", b"x" * 1000, b"{}"):
        assert plain.header((key, b"before"), body) == keyed.header(1000, body)
        assert plain.header((key,), body) == keyed.header(1001, body)
    assert signing.KeyedSigner(plain, signing.Secrets()).header(0, b"{}") == ""
