"""Webhook signatures: HMAC over the body under every secret that is valid now, newest first.

The key is the secret as it stands, its `whsec_` prefix included, as published.
"""

from __future__ import annotations

import base64
import datetime as dt
import hmac
import re
from collections.abc import Mapping

import msgspec

DIGESTS = {"hmac-sha256": "sha256", "hmac-sha1": "sha1", "hmac-md5": "md5"}
DEFAULT_DIGEST = "sha256"
SCHEME = "v0="

_RFC3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?"
    r"(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)


class Secrets(msgspec.Struct, frozen=True):
    """The keys of one destination. `previous` signs beside `current` while the time is at most `until_ms`."""

    current: bytes = b""
    previous: bytes = b""
    until_ms: int = 0

    def __repr__(self) -> str:
        return "Secrets(..)"

    def valid(self, now_ms: int) -> tuple[bytes, ...]:
        """The keys to sign with, newest first; an empty secret never signs."""
        current = (self.current,) if self.current else ()
        return (*current, self.previous) if self.previous and now_ms <= self.until_ms else current


class Signer(msgspec.Struct, frozen=True):
    """Turns a body into the value of the signature header."""

    digest: str = DEFAULT_DIGEST
    base64: bool = False

    def header(self, keys: tuple[bytes, ...], body: bytes) -> str:
        """`v0=` and the signatures, joined by commas; empty where there is no key."""
        if not keys:
            return ""
        return SCHEME + ",".join([self.encode(hmac.digest(key, body, self.digest)) for key in keys])

    def encode(self, signature: bytes) -> str:
        """One signature as text."""
        return base64.b64encode(signature).decode("ascii") if self.base64 else signature.hex()


class KeyedSigner:
    """A signer with the keys of one destination. Their first block is hashed once and copied for each body, which
    halves what a signature costs."""

    def __init__(self, signer: Signer, secrets: Secrets) -> None:
        self._signer = signer
        self._secrets = secrets
        keys = [key for key in (secrets.current, secrets.previous) if key]
        self._macs = {key: hmac.new(key, None, signer.digest) for key in keys}

    def header(self, now_ms: int, body: bytes) -> str:
        """As `Signer.header` under the keys that are valid at `now_ms` (Unix time)."""
        signatures: list[str] = []
        for key in self._secrets.valid(now_ms):
            mac = self._macs[key].copy()
            mac.update(body)
            signatures.append(self._signer.encode(mac.digest()))
        return SCHEME + ",".join(signatures) if signatures else ""


def signer(algorithm: str, encoding: str) -> Signer:
    """Unknown or empty words mean hmac-sha256 and hex, as published."""
    return Signer(DIGESTS.get(algorithm, DEFAULT_DIGEST), encoding == "base64")


def secrets_of(credentials: Mapping[str, str]) -> Secrets:
    """The keys in a webhook's stored credentials. A previous secret whose end cannot be read does not sign."""
    until_ms = rfc3339_ms(credentials.get("previous_secret_invalid_at", ""))
    return Secrets(
        credentials.get("secret", "").encode("utf-8", "surrogatepass"),
        b"" if until_ms is None else credentials.get("previous_secret", "").encode("utf-8", "surrogatepass"),
        until_ms or 0,
    )


def rfc3339_ms(text: str) -> int | None:
    """Unix milliseconds of an RFC 3339 time; None if `text` is none."""
    if not _RFC3339.fullmatch(text):
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:  # a day that its month does not have
        return None
    return round(moment.timestamp() * 1000)


def rfc3339(ms: int) -> str:
    """RFC 3339 UTC to the second."""
    moment = dt.datetime.fromtimestamp(ms // 1000, dt.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
