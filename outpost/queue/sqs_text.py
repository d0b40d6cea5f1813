"""Bodies as SQS takes them: text of certain characters. Any other bytes go as base64, with an attribute that says
so, so that what producers send stays as it is."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

ENCODING = "outpost-encoding"
BASE64 = "base64"
STRING = "String"
MARK_BYTES = len(ENCODING) + len(STRING) + len(BASE64)  # as SQS counts the attribute
MOST_ATTRIBUTES = 10  # of one message

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html: what XML 1.0 has.
_REFUSED = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def written(body: bytes) -> tuple[str, dict[str, Any], int]:
    """The text, its attributes, and the bytes of both as SQS counts them."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = ""
    if text and not _REFUSED.search(text):
        return text, {}, len(body)
    text = base64.b64encode(body).decode()
    return text, {ENCODING: string(BASE64)}, len(text) + MARK_BYTES


def read(text: str, attributes: Mapping[str, Any]) -> bytes:
    """What was `written`, or sent by anybody else."""
    if string_of(attributes.get(ENCODING)) == BASE64:
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            pass
    return text.encode(errors="replace")


def room(message_bytes: int) -> int:
    """How many bytes of any sort fit into a message of so many."""
    return (message_bytes - MARK_BYTES) // 4 * 3


def string(value: str) -> dict[str, str]:
    """A text as an attribute."""
    return {"DataType": STRING, "StringValue": _REFUSED.sub("?", value)}


def string_of(attribute: object) -> str:
    """The text of an attribute; "" where it is none."""
    value = attribute.get("StringValue") if isinstance(attribute, dict) else None
    return value if isinstance(value, str) else ""


def with_one_more(attributes: Mapping[str, Any], name: str, value: str) -> dict[str, Any]:
    """The attributes of a message that was received, as they are sent again, and one of ours. SQS takes no more
    than `MOST_ATTRIBUTES`: the mark of ours and those that come first are kept."""
    order = sorted(attributes, key=lambda each: each != ENCODING)
    kept = {
        each: {part: told for part, told in attributes[each].items() if part in _PARTS}
        for each in [one for one in order if one != name][: MOST_ATTRIBUTES - 1]
    }
    return kept | {name: string(value)}


_PARTS = ("DataType", "StringValue", "BinaryValue")
