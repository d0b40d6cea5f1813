"""JSON that its grammar (RFC 8259) allows and no decoder holds: halves of surrogate pairs, numbers of any size.

A publish passes its data on byte for byte, so it takes what the grammar takes. msgspec decodes neither; here
such a text is read nevertheless, in time linear in its length: to find the members of an object as they were
sent, and to see data as filters and templates do.
"""

from __future__ import annotations

import hashlib
import json
import re

import msgspec

from outpost import json_values

# Escapes of surrogates; pairs are among them. A backslash that is escaped itself has to be hidden first.
_PREFIXES = tuple(f"\\u{d}{second}".encode() for d in "dD" for second in "89abcdefABCDEF")
_BROKEN = re.compile(rb"\\u[dD][89a-fA-F](?![0-9a-fA-F]{2})")
_HALF = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F][0-9a-fA-F]{2}",
    re.DOTALL,
)
_NO_CHARACTER = rb"\\ufffd"  # in the place of a half, where data is looked at
_LONG_INTEGER = re.compile(
    rb"(?<![\d.eE])(?<![eE][-+])\d{4300,}(?![\d.eE])"
)  # Python refuses to read it; no such filter can be saved
_INFINITE = b"1e400"

_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder(msgspec.Raw).decode
_decode_infinite = msgspec.json.Decoder(float_hook=float).decode


def members(text: bytes) -> dict[str, bytes]:
    """The members of the object `text`, their values as they were sent. Raises as `msgspec.json.decode` does,
    if it is not JSON or no object."""
    try:
        return {key: bytes(raw) for key, raw in _decode_members(text).items()}
    except msgspec.ValidationError:
        raise
    except msgspec.MsgspecError:
        hidden = _Hidden(text)
        if not hidden.surrogates:
            raise
        return {hidden.key(key): hidden.shown(bytes(raw)) for key, raw in hidden.members().items()}


def check(text: bytes) -> None:
    """Raises as `msgspec.json.decode` does if `text` is not JSON by its grammar."""
    try:
        _decode_any(text)
    except msgspec.MsgspecError:
        hidden = _Hidden(text)
        if not hidden.surrogates:
            raise
        hidden.check()


def decode(text: bytes) -> object:
    """The value of `text`, which `members` found to be JSON. Halves of surrogate pairs are replacement characters,
    and numbers beyond a float infinite: they equal nothing that a filter may say."""
    try:
        return json_values.decode(text)
    except msgspec.MsgspecError:
        pass
    backslash = _token(text, b"backslash")
    text = text.replace(b"\\\\", backslash)
    text = _HALF.sub(_NO_CHARACTER, text)
    text = _without_long_integers(text).replace(backslash, b"\\\\")
    with json_values.no_collection():
        return _decode_infinite(text)


class _Hidden:
    """A text in which tokens stand for escapes that msgspec does not take; its values can be shown as they
    were."""

    def __init__(self, text: bytes) -> None:
        self._backslash, self._escape = _token(text, b"backslash"), _token(text, b"escape")
        hidden = text.replace(b"\\\\", self._backslash)
        self._broken = _BROKEN.search(hidden) is not None
        self._text = hidden
        for prefix in _PREFIXES:
            self._text = self._text.replace(prefix, self._escape + prefix[2:])
        self.surrogates = self._text != hidden

    def members(self) -> dict[str, msgspec.Raw]:
        if self._broken:
            raise msgspec.DecodeError("a broken escape")
        return _decode_members(self._text)

    def check(self) -> None:
        """Raises if the text is no JSON."""
        if self._broken:
            raise msgspec.DecodeError("a broken escape")
        _decode_any(self._text)

    def key(self, key: str) -> str:
        return str(json.loads(self.shown(msgspec.json.encode(key))))

    def shown(self, part: bytes) -> bytes:
        return part.replace(self._escape, b"\\u").replace(self._backslash, b"\\\\")


def _token(text: bytes, use: bytes) -> bytes:
    """A word that is not in `text`, and no JSON outside of a string. It is made of a digest of the text, which
    nobody can write into it."""
    token = b"x" + hashlib.blake2b(text, digest_size=8, person=use).hexdigest().encode()
    while token in text:
        token += b"x"
    return token


def _without_long_integers(text: bytes) -> bytes:
    """`text` with an infinite number in the place of each integer of 4,300 digits and more. Digits in strings
    stay: quotes before them are counted, once for all."""
    quotes = text.replace(b'\\"', b"__")
    pieces: list[bytes] = []
    end, inside = 0, 0
    for found in _LONG_INTEGER.finditer(text):
        inside += quotes.count(b'"', end, found.start())
        pieces += (text[end : found.start()], found[0] if inside % 2 else _INFINITE)
        end = found.end()
    return b"".join([*pieces, text[end:]])
