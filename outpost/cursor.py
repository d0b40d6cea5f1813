"""The opaque cursors of paged lists: a resource, a version and a position, in base 62.

The published form, so that a cursor reads the same for every client; what a position means is the query's affair.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Resource = Literal["evt", "att", "tnt"]

_VERSION = "01"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}

# A position is a time and an id of at most 255 bytes; turning digits into a number is quadratic in their count.
MAX_CURSOR_CHARACTERS = 512


class CursorProblem(msgspec.Struct, frozen=True):
    """The text is no cursor of this list; `message` is what the client is told with a 400."""

    message: str


def encode_cursor(resource: Resource, position: str) -> str:
    """The cursor of a place in a list. `position` has 1 to 350 bytes of UTF-8; others could not be read back."""
    return base62(f"{resource}v{_VERSION}:{position}".encode())


def base62(plain: bytes) -> str:
    """`plain` as a number, in the digits of a cursor."""
    number = int.from_bytes(plain, "big")
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def decode_cursor(resource: Resource, text: str) -> str | CursorProblem:
    """The position of a cursor that `encode_cursor` made for the same resource."""
    envelope = _envelope(text)
    head, colon, position = envelope.partition(":")
    if not colon or len(head) != 6 or not head.startswith(f"{resource}v") or not position:
        return CursorProblem("invalid cursor")
    if not head[4:].isdecimal():
        return CursorProblem("invalid cursor")
    if head[4:] != _VERSION:
        return CursorProblem(f"invalid cursor: cursor version mismatch: expected version {_VERSION}")
    return position


def _envelope(text: str) -> str:
    """What the digits spell; nothing for anything that `encode_cursor` cannot have written."""
    if not 0 < len(text) <= MAX_CURSOR_CHARACTERS or text[0] == _DIGITS[0]:
        return ""
    number = 0
    for letter in text:
        value = _VALUES.get(letter)
        if value is None:
            return ""
        number = number * 62 + value
    try:
        return number.to_bytes((number.bit_length() + 7) // 8, "big").decode()
    except UnicodeDecodeError:
        return ""
