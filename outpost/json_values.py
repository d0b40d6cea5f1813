"""Decoding of JSON that came from outside, in time linear in its length.

Two things make msgspec's decoder slow. A float that is hard to round costs it 8 us, so a megabyte of them takes
0.4 s. And a text of many arrays makes the cyclic collector walk everything that was decoded so far, again and
again. Texts that are long enough for this to matter are decoded in a way that avoids both.
"""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Iterator

import msgspec

LONG_BYTES = 32 * 1024  # from here on a text is decoded the careful way, which is twice as slow for common floats

MANY_VALUES = 10_000  # from here on the numbers of a text are looked at first, since that costs less than decoding

# A number that nothing can read has an exponent of three digits, or more digits than this in a row: with fewer of
# both it is below 1e299, and Python's integers may have 4,300 digits.
_MAX_PLAIN_DIGITS = 199
_SHAPES = bytes.maketrans(b"123456789E", b"000000000e")
_SIGNS = b"+-"
_LONG_RUN, _LONG_EXPONENT = b"0" * (_MAX_PLAIN_DIGITS + 1), b"e000"


def decode(text: bytes) -> object:
    """The value of `text`. Raises msgspec.MsgspecError, UnicodeDecodeError and RecursionError as
    `msgspec.json.decode` does; numbers that no float or no Python integer can hold are among the errors."""
    if len(text) < LONG_BYTES:
        return _decode_short(text)
    with _no_collection():
        return _decode_long(text)


def check_numbers(text: bytes) -> None:
    """Raises as `decode` does where `text` has a number that nothing can hold; `text` is JSON that `msgspec.Raw`
    took, which has checked everything else. It is not decoded where it has many values and its numbers are plain:
    a megabyte of empty arrays takes 25 ms to decode."""
    if text.count(b",") < MANY_VALUES or not _has_plain_numbers(text):
        decode(text)


def _has_plain_numbers(text: bytes) -> bool:
    """Whether every number in `text` is certainly one that `decode` can read. A False says nothing: the number may
    be readable, or stand inside of a string."""
    shape = text.translate(_SHAPES, _SIGNS)
    return _LONG_RUN not in shape and _LONG_EXPONENT not in shape


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):  # as msgspec's own parser has it
        raise ValueError("Number out of range")
    return value


_decode_short = msgspec.json.Decoder().decode
_decode_long = msgspec.json.Decoder(float_hook=_float).decode


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Nothing in here makes a cycle, so that there is nothing to collect."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
