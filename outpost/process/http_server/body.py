"""Finds the end of a request's body, by its length or by its chunks, and keeps nothing of it.

Both readers take what comes in pieces and say where the next request begins. Chunks are read strictly (RFC 9112
section 7.1): CRLF alone ends a line, extensions and trailers are dropped, each within a limit.
"""

from __future__ import annotations

import re
from typing import Protocol

from outpost.process.http_server import answers

MAX_CHUNKS = 4_096  # in one body; each costs 1.5 us of the event loop
MAX_CHUNK_LINE_BYTES = 256  # a size with its extensions
MAX_TRAILER_BYTES = 4_096

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]{0,8};[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")


class Reader(Protocol):
    """Reads one body."""

    def feed(self, data: bytes, body: bytearray) -> bytes | None:
        """Appends what `data` has of the body to `body`. Returns what follows the body once it has ended, None
        before. Raises answers.Refused with 400."""

    def left(self) -> int | None:
        """How many bytes of the body are still to come; None if that is not known."""


class ByLength:
    """A body whose length was announced."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length

    def feed(self, data: bytes, body: bytearray) -> bytes | None:
        """See `Reader`."""
        if len(data) < self._left:
            self._left -= len(data)
            body += data
            return None
        body += data[: self._left]
        rest = data[self._left :]
        self._left = 0
        return rest

    def left(self) -> int:
        """See `Reader`."""
        return self._left


class Chunked:
    """A body in chunks, with trailers that are dropped."""

    __slots__ = ("_chunks", "_left", "_line", "_state", "_trailer_bytes")

    _SIZE_LINE, _DATA, _DATA_END, _TRAILERS = range(4)
    _LINE_LIMITS = (MAX_CHUNK_LINE_BYTES, 0, 0, MAX_TRAILER_BYTES)

    def __init__(self) -> None:
        self._state = self._SIZE_LINE
        self._line = b""  # the beginning of a line whose end has not come
        self._left = 0  # of the present chunk
        self._chunks = 0
        self._trailer_bytes = 0

    def feed(self, data: bytes, body: bytearray) -> bytes | None:
        """See `Reader`."""
        at = 0
        while at < len(data):
            if self._state == self._DATA:
                piece = data[at : at + self._left]
                body += piece
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = self._DATA_END
                continue
            line, at = self._read_line(data, at)
            if line is None:
                return None
            if self._state == self._TRAILERS and not line:
                return data[at:]
            self._take_line(line)
        return None

    def left(self) -> None:
        """See `Reader`."""
        return

    def _read_line(self, data: bytes, at: int) -> tuple[bytes | None, int]:
        """The line that ends in `data` behind `at`, without its CRLF, and where the next begins; None and the end
        of `data` if it does not end there."""
        limit = self._LINE_LIMITS[self._state]
        end = data.find(b"\n", at, at + limit + 2)
        if end < 0:
            self._line += data[at : at + limit + 2]
            if len(self._line) - self._line.endswith(b"\r") > limit or b"\r" in self._line[:-1]:
                raise answers.Refused(400, "malformed chunk")
            return None, len(data)
        line = self._line + data[at:end]
        self._line = b""
        if not line.endswith(b"\r") or len(line) > limit + 1:
            raise answers.Refused(400, "malformed chunk")
        return line[:-1], end + 1

    def _take_line(self, line: bytes) -> None:
        if self._state == self._DATA_END:
            if line:
                raise answers.Refused(400, "malformed chunk")
            self._state = self._SIZE_LINE
        elif self._state == self._SIZE_LINE:
            found = _SIZE.fullmatch(line)
            self._chunks += 1
            if found is None or self._chunks > MAX_CHUNKS:
                raise answers.Refused(400, "malformed chunk" if found is None else "too many chunks")
            self._left = int(found[1], 16)
            self._state = self._DATA if self._left else self._TRAILERS
        else:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > MAX_TRAILER_BYTES or not _TRAILER.fullmatch(line):
                raise answers.Refused(400, "malformed trailer")


def reader_for(length: int, *, chunked: bool) -> Reader | None:
    """The reader of a body as its head announces it; None where there is no body."""
    if chunked:
        return Chunked()
    return ByLength(length) if length else None
