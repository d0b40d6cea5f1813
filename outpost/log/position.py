"""A place in the log: stream, partition, milliseconds, sequence.

As text `evt.07.1790000000000-0`, compared as integers. An *entry id* is the `ms-seq` of it, as Redis spells it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from outpost.log import partition as partitions

# One spelling each: no leading noughts. Milliseconds below 2**48 fit in an attempt id.
_TEXT = re.compile(r"(cfg|evt|dlv)\.([0-9]{2})\.(0|[1-9][0-9]{0,14})-(0|[1-9][0-9]{0,19})", re.ASCII)
_MOST_MS, _MOST_SEQUENCE = 2**48, 2**64


class Position(NamedTuple):
    """Ordered within one stream of one partition."""

    stream: str
    partition: int
    ms: int
    seq: int

    @property
    def entry_id(self) -> str:
        return f"{self.ms}-{self.seq}"

    def __str__(self) -> str:
        return f"{self.stream}.{self.partition:02}.{self.ms}-{self.seq}"


def parse(text: str) -> Position | None:
    """The inverse of `str`; None if `text` is not a position."""
    found = _TEXT.fullmatch(text)
    if found is None:
        return None
    position = Position(found[1], int(found[2]), int(found[3]), int(found[4]))
    fits = position.partition < partitions.PARTITIONS and position.ms < _MOST_MS and position.seq < _MOST_SEQUENCE
    return position if fits else None


def of_entry(stream: str, partition: int, entry_id: bytes | str) -> Position:
    """The position of an entry id that Redis gave. Raises ValueError."""
    ms: bytes | str
    ms, _, seq = entry_id.partition(b"-") if isinstance(entry_id, bytes) else entry_id.partition("-")
    return tuple.__new__(Position, (stream, partition, int(ms), int(seq)))  # without the detour of a NamedTuple


def entry_key(entry_id: bytes | str) -> tuple[int, int]:
    """An entry id as a pair that compares in stream order."""
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    ms, _, seq = text.partition("-")
    return int(ms), int(seq)
