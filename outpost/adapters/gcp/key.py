"""A Google service account key: checked when it is saved, and the tokens that its owner signs with it.

Only keys of type `service_account` are usable. Google's libraries would, for the other types, read files, ask URLs
or start commands that the key names, here in our process. Of what a key names itself nothing is followed either:
`token_uri` is not asked, since a self-signed token (https://google.aip.dev/auth/4111) needs nobody's consent, and
its audience is fixed.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

TYPE = "service_account"
UNIVERSE = "googleapis.com"
TOKEN_S = 3_600  # the longest that Google takes
RENEWED_S = 300  # before its end a token is replaced: clocks differ, and a request takes its time
# Checking a key costs 40 ms for 2048 bits, which is what Google makes, and 290 ms for 4096, and nothing else runs
# meanwhile; a longer text is refused unread.
MOST_PEM = 4_096

RULES = {
    "format": None,  # the published sentences say enough of these two
    "missing_type": None,
    "unsupported_type": "must be the key of a service account: no other type of credentials is supported",
    "unsupported_universe": f"must belong to {UNIVERSE}: no other universe_domain is supported",
    "missing_client_email": "has no client_email",
    "missing_private_key": "has no private_key",
    "invalid_private_key": f"has a private_key that is not an RSA key in PEM of at most {MOST_PEM} characters",
}


class Key(msgspec.Struct, frozen=True):
    """What is used of a key file."""

    email: str
    id: str
    pem: str

    def __repr__(self) -> str:
        return "Key(..)"


def parse(text: str) -> Key | list[str]:
    """The key in `text`, or the names of the rules (in `RULES`) that it breaks. `check` reads the PEM as well."""
    try:
        told = msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return ["format"]
    if not isinstance(told, dict):
        return ["format"]
    if "type" not in told:
        return ["missing_type"]
    if told["type"] != TYPE:
        return ["unsupported_type"]
    broken: list[str] = []
    if told.get("universe_domain", UNIVERSE) != UNIVERSE:
        broken.append("unsupported_universe")
    email, pem, id_ = (told.get(name) for name in ("client_email", "private_key", "private_key_id"))
    if not (isinstance(email, str) and email):
        broken.append("missing_client_email")
    if not (isinstance(pem, str) and pem):
        broken.append("missing_private_key")
    if broken:
        return broken
    return Key(str(email), id_ if isinstance(id_, str) else "", str(pem))


def check(text: str) -> list[str]:
    """Every rule that the key in `text` breaks."""
    key = parse(text)
    if isinstance(key, list):
        return key
    try:
        _rsa(key, trusted=False)
    except ValueError:
        return ["invalid_private_key"]
    return []


class Tokens:
    """Signs for one audience. Raises ValueError where the key cannot be read; it was checked when it was saved,
    so that this takes microseconds. `clock` is Unix time in seconds."""

    def __init__(self, key: Key, audience: str, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._audience = audience
        self._clock = clock
        self._private = _rsa(key, trusted=True)
        self._token = ""
        self._until = 0.0

    def token(self) -> str:
        """One that is good for some minutes at least."""
        now = self._clock()
        if now >= self._until:
            self._token = self._signed(int(now))
            self._until = now + TOKEN_S - RENEWED_S
        return self._token

    async def fresh(self) -> str:
        """The same; see calls.Tokens."""
        return self.token()

    def _signed(self, now: int) -> str:
        header = {"alg": "RS256", "typ": "JWT"}
        if self._key.id:
            header["kid"] = self._key.id
        claims = {
            "iss": self._key.email,
            "sub": self._key.email,
            "aud": self._audience,
            "iat": now,
            "exp": now + TOKEN_S,
        }
        told = b".".join(_spelt(msgspec.json.encode(part)) for part in (header, claims))
        signature = self._private.sign(told, padding.PKCS1v15(), hashes.SHA256())
        return b".".join((told, _spelt(signature))).decode()


def _rsa(key: Key, *, trusted: bool) -> rsa.RSAPrivateKey:
    """Raises ValueError for what is no usable key. A `trusted` one was checked before."""
    if len(key.pem) > MOST_PEM:
        raise ValueError("too long")
    try:
        private = serialization.load_pem_private_key(
            key.pem.encode(), None, unsafe_skip_rsa_key_validation=trusted
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it wants a password
        raise ValueError("not a key") from None  # nothing of it may hang on to the error
    if not isinstance(private, rsa.RSAPrivateKey):
        raise ValueError("not an RSA key")  # noqa: TRY004 -- it is the value that is wrong
    return private


def _spelt(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
