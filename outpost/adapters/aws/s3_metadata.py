"""User metadata of S3 objects: what becomes a header `x-amz-meta-<name>: <value>`, and so has to fit into one.

S3 knows names in lower case alone, and reads values with other than US-ASCII characters by RFC 2047
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html). Nothing that an event may hold breaks a
request.
"""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Mapping

_NAME = "!#$&'*+-.^_`|~"  # of a header, beside letters and digits (RFC 9110, section 5.6.2); `%` is our escape
_WORD_BYTES = 45  # of UTF-8 in one encoded word, which is at most 75 characters long
MAX_BYTES = 2_048  # of names and values of one object, all ASCII here
_MARK = "=?"  # how an encoded word begins


def headers(metadata: Mapping[str, str]) -> dict[str, str]:
    """`metadata` with names in lower case, other characters than a header's percent-encoded in them, and values as
    `value` has them. Of two names that come to the same the later one is kept; one without a name is left out."""
    return {name(key): value(text) for key, text in metadata.items() if key}


def fitting(metadata: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The headers of `metadata` that S3 takes for one object, the first ones first, and the keys that are left
    out: the system's come before delivery metadata and the event's."""
    whole = headers(metadata)
    if sum(map(len, whole)) + sum(map(len, whole.values())) <= MAX_BYTES:
        return whole, []
    kept: dict[str, str] = {}
    left_out = []
    room = MAX_BYTES
    for key in metadata:
        header = name(key)
        if header in kept or header not in whole:
            continue
        size = len(header) + len(whole[header])
        if size <= room:
            kept[header] = whole[header]
            room -= size
        else:
            left_out.append(key)
    return kept, left_out


def name(key: str) -> str:
    """`key` as a header's name has it."""
    return urllib.parse.quote(key.lower(), safe=_NAME, errors="replace")


def value(text: str) -> str:
    """`text` as it is where that is the same after the journey, else in encoded words."""
    if text.isascii() and text.isprintable() and text == text.strip() and _MARK not in text:
        return text
    return " ".join(f"=?UTF-8?B?{base64.b64encode(part).decode()}?=" for part in _parts(text))


def _parts(text: str) -> list[bytes]:
    """The UTF-8 of `text`, cut between characters."""
    parts = [b""]
    for character in text:
        encoded = character.encode("utf-8", "replace")
        if len(parts[-1]) + len(encoded) > _WORD_BYTES:
            parts.append(b"")
        parts[-1] += encoded
    return parts
