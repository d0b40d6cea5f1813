"""Seals config, credentials and delivery metadata before they are appended to the log, which lives for ever.

A sealed value opens only with the deployment's key and only for the tenant, destination and field that it was
made for, so that a value copied to another place is as useless there as a wrong key. Errors say that it did not
open, never what stands in it.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from outpost import errors

# Names format and key: a later one with keys per tenant can stand beside it in the same log.
PREFIX = "s1."

_KEY_INFO = b"outpost/seal/1"
_KEY_BYTES = 32
# The nonce length of AES-GCM (NIST SP 800-38D); random ones are safe for 2**32 values under one key.
_NONCE_BYTES = 12


class Sealer:
    """Holds the key made from AES_ENCRYPTION_SECRET; one a process."""

    __slots__ = ("_cipher", "_random")

    def __init__(self, secret: str, *, random: Callable[[int], bytes] = os.urandom) -> None:
        """`random` gives that many unpredictable bytes; only a test gives others."""
        self._cipher = AESGCM(derived_key(secret, _KEY_INFO))
        self._random = random

    def seal(self, plaintext: bytes, *, tenant: str, destination: str, field: str) -> str:
        """The text to append: PREFIX and base64url, without padding, of nonce, ciphertext and tag."""
        nonce = self._random(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, plaintext, _place(tenant, destination, field))
        return PREFIX + _spelt(nonce + sealed)

    def unseal(self, text: str, *, tenant: str, destination: str, field: str) -> bytes:
        """What was sealed. Raises UnsealError for another key, another place, or a changed text."""
        raw = _decoded(text)
        if raw is None:
            raise errors.UnsealError("the value is not sealed in a form that this version knows")
        nonce, sealed = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, sealed, _place(tenant, destination, field))
        except (InvalidTag, ValueError):
            # `from None`: nothing of the value may hang on to the error.
            raise errors.UnsealError(
                "the value does not open: AES_ENCRYPTION_SECRET is another one than it was sealed with, "
                "or the value was made for another place or changed"
            ) from None


def derived_key(secret: str, info: bytes) -> bytes:
    """32 bytes made from AES_ENCRYPTION_SECRET for the one use that `info` names."""
    return HKDF(SHA256(), length=_KEY_BYTES, salt=None, info=info).derive(secret.encode())


def _decoded(text: str) -> bytes | None:
    """The bytes behind PREFIX, if the text is the one spelling of them; Python's decoder is not that strict."""
    if not text.startswith(PREFIX) or not text.isascii():
        return None
    body = text[len(PREFIX) :]
    try:
        raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except binascii.Error:
        return None
    return raw if _spelt(raw) == body else None


def _spelt(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def _place(tenant: str, destination: str, field: str) -> bytes:
    """Ids hold no NUL, so no two places read the same."""
    return f"{tenant}\0{destination}\0{field}".encode()
