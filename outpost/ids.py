"""Ids: random ones for what callers do not name, and attempt ids, which are a position in other letters.

An attempt id is computed from where the attempt stands in the log, so a rebuild makes the same one and a
look-up needs no index. Nothing here knows the log's keys or formats beyond three integers.
"""

from __future__ import annotations

import os
import time
from typing import Literal

IdType = Literal["uuidv4", "uuidv7", "nanoid"]

_BLOCK_BYTES = 16
# One system call for 256 blocks: publishing without an id asks for one a request.
_POOL_BLOCKS = 256
_pool: list[bytes] = []

_NANOID_ALPHABET = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NANOID_LENGTH = 26
# A random byte becomes a letter by its remainder; the bytes from 248 on would favour the first eight letters.
_NANOID_FAIR = 256 - 256 % len(_NANOID_ALPHABET)
_NANOID_TABLE = bytes(_NANOID_ALPHABET[byte % len(_NANOID_ALPHABET)] for byte in range(256))
_NANOID_UNFAIR = bytes(range(_NANOID_FAIR, 256))

# Crockford's base 32 in lower case: no i, l, o, u, and in ascending order, so ids sort as their numbers do.
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
_BASE32_PAIRS = tuple(high + low for high in _BASE32 for low in _BASE32)
_BASE32_VALUES = {letter: value for value, letter in enumerate(_BASE32)}
_ATTEMPT_LETTERS = 26
_PAIR_SHIFTS = tuple(range(120, -1, -10))


def new_id(kind: IdType, prefix: str = "") -> str:
    """A new random id of the given kind behind `prefix`, which is put in front as it is."""
    if kind == "nanoid":
        return prefix + _nanoid()
    text = _block().hex()
    # The variant is the two upper bits `10`, so its hex digit is one of 8, 9, a, b.
    variant = "89ab"[int(text[16], 16) & 3]
    if kind == "uuidv7":
        ms = f"{time.time_ns() // 1_000_000:012x}"
        return f"{prefix}{ms[:8]}-{ms[8:]}-7{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"
    return f"{prefix}{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"


def request_id() -> str:
    """Names one request to us: in the log, in the answers' headers and in the log lines."""
    return "req_" + _block()[:13].hex()


def attempt_id(prefix: str, partition: int, ms: int, seq: int) -> str:
    """The attempt whose record stands at (partition, ms, seq): below 2**16, 2**48 and 2**64 in that order."""
    number = partition << 112 | ms << 64 | seq
    pairs = _BASE32_PAIRS
    return prefix + "".join([pairs[number >> shift & 1023] for shift in _PAIR_SHIFTS])


def parse_attempt_id(prefix: str, text: str) -> tuple[int, int, int] | None:
    """(partition, ms, seq), or None if `attempt_id` with this prefix cannot have made the text."""
    letters = text[len(prefix) :]
    if not text.startswith(prefix) or len(letters) != _ATTEMPT_LETTERS:
        return None
    number = 0
    for letter in letters:
        value = _BASE32_VALUES.get(letter)
        if value is None:
            return None
        number = number << 5 | value
    if number >> 128:
        return None
    return number >> 112, number >> 64 & (1 << 48) - 1, number & (1 << 64) - 1


def _nanoid() -> str:
    letters = b""
    while len(letters) < _NANOID_LENGTH:
        letters = (_block() + _block()).translate(_NANOID_TABLE, _NANOID_UNFAIR)
    return letters[:_NANOID_LENGTH].decode("ascii")


def _block() -> bytes:
    try:
        return _pool.pop()
    except IndexError:
        random = os.urandom(_BLOCK_BYTES * _POOL_BLOCKS)
        _pool.extend(random[at : at + _BLOCK_BYTES] for at in range(_BLOCK_BYTES, len(random), _BLOCK_BYTES))
        return random[:_BLOCK_BYTES]


# A forked child would hand out the parent's remaining blocks a second time.
os.register_at_fork(after_in_child=_pool.clear)
