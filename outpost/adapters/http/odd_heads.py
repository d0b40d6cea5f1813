"""Heads of answers that the parser refuses and browsers understand, written anew so that it takes them.

The parser is quick and strict. Where it refuses a head, status and body are as a rule clear all the same: a
header line is broken, a length is there twice. Only then is the head read here, line by line; a connection that
brought such a head carries no second answer.
"""

from __future__ import annotations

import re

import msgspec

MAX_LENGTH_DIGITS = 15  # of a Content-Length: more than anybody waits for

_BLANK = re.compile(rb"[\r\n]*")
_END = re.compile(rb"\n\r*\n")
_STATUS_LINE = re.compile(rb"HTTP/[0-9]+(?:\.[0-9]+)?[ \t]*[ \t]([1-9][0-9]{2})(?![0-9])", re.IGNORECASE)
_NAME = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_NUMBER = re.compile(rb"\+?([0-9]+)")
_START = b"HTTP/"
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"upgrade"})


class Unreadable(Exception):
    """No browser would know either what it means; its text says what is wrong with the answer."""


class Head(msgspec.Struct, frozen=True):
    """`text` is in the parser's form and says that the connection ends; `rest` is what came behind it."""

    status: int
    text: bytes
    rest: bytes


def begins_otherwise(said: bytes | bytearray) -> bool:
    """Whether what came is not the begin of any answer."""
    blank = _blank(said)
    start = said[blank : blank + len(_START)]
    return start.upper() != _START[: len(start)]


def read(said: bytes | bytearray, seen: int = 0) -> Head | None:
    """The first head in `said`, of which `seen` bytes are known to hold the end of none; None while it has no end.
    Raises Unreadable."""
    if begins_otherwise(said):
        raise Unreadable("it does not begin with an HTTP status line")
    blank = _blank(said)
    first = said.find(b"\n", blank)
    if first < 0:
        return None
    found = _STATUS_LINE.match(said, blank)
    if found is None or found.end() > first:
        raise Unreadable("its first line is no HTTP status line")
    end = _END.search(said, max(seen - 3, first))
    if end is None:
        return None
    text = b"HTTP/1.1 %b -\r\n%b\r\n" % (found[1], _lines(bytes(said[first + 1 : end.start() + 1])))
    return Head(int(found[1]), text, bytes(said[end.end() :]))


def _blank(said: bytes | bytearray) -> int:
    """How many bytes stand before the first line, of which some servers send empty ones."""
    found = _BLANK.match(said)
    return found.end() if found is not None else 0


def _lines(block: bytes) -> bytes:
    """The header lines of `block` that are some, and how long the body is."""
    kept: list[bytes] = []
    lengths: list[bytes] = []
    codings: list[bytes] = []
    for name, value in _unfolded(block):
        match name.lower():
            case b"content-length":
                lengths += value.split(b",")
            case b"transfer-encoding":
                codings += value.lower().split(b",")
            case lowered if lowered not in _FRAMING:
                kept.append(b"%b: %b\r\n" % (name, value))
    return b"".join(kept) + _framing(lengths, codings) + b"Connection: close\r\n"


def _unfolded(block: bytes) -> list[tuple[bytes, bytes]]:
    """Names and values; a line that begins with a blank goes on with the value before it."""
    found: list[tuple[bytes, list[bytes]]] = []
    going_on = False
    for line in block.split(b"\n"):
        if line[:1] in (b" ", b"\t"):
            if going_on:
                found[-1][1].append(line.strip())
            continue
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t")
        going_on = bool(colon) and _NAME.fullmatch(name) is not None
        if going_on:
            found.append((name, [value.strip()]))
    return [(name, b" ".join(parts).replace(b"\r", b" ").strip()) for name, parts in found]


def _framing(lengths: list[bytes], codings: list[bytes]) -> bytes:
    """Chunks win over a length (RFC 9112, 6.3), equal lengths are one, and what is no number is none: then the
    body ends with the connection."""
    codings = [coding for part in codings if (coding := part.partition(b";")[0].strip()) not in (b"", b"identity")]
    if codings:
        return b"Transfer-Encoding: %b\r\n" % b", ".join(codings)
    numbers = {int(found[1]) for part in lengths if (found := _number(part.strip())) is not None}
    if len(numbers) > 1:
        raise Unreadable("it has several Content-Length headers that differ")
    return b"Content-Length: %d\r\n" % numbers.pop() if numbers else b""


def _number(text: bytes) -> re.Match[bytes] | None:
    """Digits, whatever follows them, as curl reads a length."""
    found = _NUMBER.match(text)
    return found if found is not None and len(found[1]) <= MAX_LENGTH_DIGITS else None
