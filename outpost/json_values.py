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


def decode(text: bytes) -> object:
    """The value of `text`. Raises msgspec.MsgspecError, UnicodeDecodeError and RecursionError as
    `msgspec.json.decode` does; numbers that no float or no Python integer can hold are among the errors."""
    if len(text) < LONG_BYTES:
        return _decode_short(text)
    with no_collection():
        return _decode_long(text)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):  # as msgspec's own parser has it
        raise ValueError("Number out of range")
    return value


_decode_short = msgspec.json.Decoder().decode
_decode_long = msgspec.json.Decoder(float_hook=_float).decode


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Keeps the cyclic collector out of decoding, which makes no cycle."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
