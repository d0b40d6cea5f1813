"""The content codings of an answer undone: receivers compress though they were asked not to.

What a body has unpacked is bounded as its bytes on the wire are, so a small one cannot become a large one here.
"""

from __future__ import annotations

import zlib

from outpost.adapters.http import client

MAX_UNPACKED_BYTES = 1_048_576  # of a body, where the stored response has no cap
MAX_CODINGS = 3  # one upon the other
KNOWN = frozenset({b"gzip", b"x-gzip", b"deflate"})
_NONE = frozenset({b"", b"identity"})


class TooLarge(Exception):
    """The body has more unpacked than is kept."""


def unpacked(answer: client.Answer, max_bytes: int) -> tuple[bytes, str]:
    """The body, and a sentence where it is kept as it came since its coding is none that can be undone here.
    Raises TooLarge beyond `max_bytes` (0: MAX_UNPACKED_BYTES)."""
    names = [name for part in answer.coding.lower().split(b",") if (name := part.strip()) not in _NONE]
    body = answer.body
    if not body or not names:
        return body, ""
    if len(names) > MAX_CODINGS or not KNOWN.issuperset(names):
        shown = b", ".join(names).decode("ascii", "replace")[:100]
        return body, f"The response body is stored as it came, in the content coding {shown}"
    for name in reversed(names):
        try:
            body = _undone(body, name, max_bytes or MAX_UNPACKED_BYTES)
        except zlib.error:
            return answer.body, "The response body is stored as it came: its content coding is broken"
    return body, ""


def _undone(body: bytes, name: bytes, max_bytes: int) -> bytes:
    """Raises zlib.error and TooLarge. Some servers send deflate without the frame of zlib (RFC 9110, 8.4.1.2)."""
    try:
        return _inflated(body, zlib.MAX_WBITS | (0 if name == b"deflate" else 16), max_bytes)
    except zlib.error:
        if name != b"deflate":
            raise
        return _inflated(body, -zlib.MAX_WBITS, max_bytes)


def _inflated(body: bytes, wbits: int, max_bytes: int) -> bytes:
    stream = zlib.decompressobj(wbits)
    found = stream.decompress(body, max_bytes + 1)
    if len(found) > max_bytes:
        raise TooLarge
    if not stream.eof:
        raise zlib.error
    return found
