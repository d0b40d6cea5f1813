"""Values of request bodies: JSON that is safe to look into, text that is safe to keep, maps of text, moments.

Problems are collected, not raised: a request is told everything that is wrong with it at once. Only a body that is
no JSON at all, where nothing more can be said, raises.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Container, Iterable
from itertools import accumulate

import msgspec

from outpost import errors, json_values
from outpost.domain import times

MAX_TEXT_BYTES = 255  # of ids, topics and keys of metadata, in UTF-8
MAX_EVENT_VALUE_BYTES = 8_192  # of a value of event metadata, as long as what receivers take in one header
MAX_METADATA_BYTES = 16_384  # of the keys and values of one map of metadata, which become one head
MAX_VALUE_BYTES = 2_048  # of a value of tenant, destination and delivery metadata, which may hold JSON
MAX_PROBLEMS = 100  # that one answer names; a body can break a rule a hundred thousand times
MAX_DEPTH = 256  # objects and arrays within each other; leaves the stack room for those who read it again

# C0, DEL, C1 (a NUL fails a whole COPY, a line break a header) and lone surrogates, which have no UTF-8.
_UNSTORABLE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\ud800-\udfff]")
# Of a body, what says how deep it is: quotes, and brackets as 1 and -1 in a signed byte.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_STEPS = bytes(set(range(256)) - set(b'"[]{}'))
_BLOCK = 64  # brackets
_WHOLE = 1e21  # from here on JSON spells a float with an exponent
_SHOWN_KEY = 64  # characters of a key that an answer repeats

# Segments that URL libraries fold into those before them, escaped or not: DELETE of a destination `..` with curl
# deletes its tenant.
UNADDRESSABLE = frozenset({".", ".."})

INVALID_JSON = "invalid JSON"


def read_object(body: bytes) -> dict[str, object]:
    """The decoded JSON object. Raises errors.Invalid if `body` is not one, in UTF-8."""
    body = json_text(body)
    try:
        value = json_values.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise errors.Invalid([errors.Problem("body", "json")], INVALID_JSON) from None
    if not isinstance(value, dict):
        raise errors.Invalid([errors.Problem("body", "type")], INVALID_JSON)
    return value


def json_text(body: bytes) -> bytes:
    """`body` without a byte order mark. Refuses what a decoder lets through or breaks on: bytes that are not
    UTF-8, and nesting without end. Raises errors.Invalid."""
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        body.decode()
    except UnicodeDecodeError:
        raise errors.Invalid([errors.Problem("body", "utf8")], INVALID_JSON) from None
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _too_deep(body):
        text = f"body must be nested at most {MAX_DEPTH} deep"
        raise errors.Invalid([errors.Problem("body", "depth", text=text)], INVALID_JSON)
    return body


def _too_deep(body: bytes) -> bool:
    """Whether brackets are nested deeper than `MAX_DEPTH`; exact where `body` is JSON. They are counted a block at
    a time, and one by one only where a block may hold the place."""
    if b"\\" in body:  # what it escapes may be a quote
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two quotes side by side leave what is inside of a text inside, so they can go: few texts are left to split.
    kept = body.translate(_STEPS, _NO_STEPS).replace(b'""', b"")
    steps = b"".join(kept.split(b'"')[::2])
    depth = 0
    for start in range(0, len(steps), _BLOCK):
        block = steps[start : start + _BLOCK]
        opened = block.count(1)
        if depth + opened > MAX_DEPTH and depth + max(accumulate(memoryview(block).cast("b"))) > MAX_DEPTH:
            return True
        depth += 2 * opened - len(block)
    return False


def plain(text: str) -> bool:
    """Whether text may be kept, at a glance; a False has to be looked at by `text_problem`."""
    return len(text) <= MAX_TEXT_BYTES and text.isascii() and text.isprintable()


def text_problem(path: str, text: str, most: int = MAX_TEXT_BYTES) -> errors.Problem | None:
    """Why `text` may not be kept, or None."""
    if _UNSTORABLE.search(text):
        return errors.Problem(path, "control", text=f"{path} must not contain control characters")
    if len(text.encode()) > most:
        return errors.Problem(path, "maxlength", most, f"{path} must be at most {most} bytes")
    return None


def id_problem(path: str, text: str) -> errors.Problem | None:
    """Why nothing may be made with the id `text`, or None."""
    if text in UNADDRESSABLE:
        return errors.Problem(path, "dots", text=f"{path} must not be . or .., which no URL can name")
    return text_problem(path, text)


def metadata_problems(
    path: str, values: dict[str, str], most: int = MAX_EVENT_VALUE_BYTES, whole: int | None = MAX_METADATA_BYTES
) -> list[errors.Problem]:
    """What is wrong with keys (255 bytes) and values (`most` bytes) of metadata, up to `MAX_PROBLEMS`, and with
    all of them together (`whole` bytes)."""
    found: list[errors.Problem] = []
    size = 0
    for key, value in values.items():
        if plain(key) and plain(value):
            size += len(key) + len(value)
            continue
        at = path_of(path, key)
        problem = text_problem(at, key) or text_problem(at, value, most)
        if problem is None:
            size += len(key.encode()) + len(value.encode())
        else:
            found.append(problem)
        if len(found) == MAX_PROBLEMS:
            return found
    if whole is not None and size > whole:
        text = f"{path} must have at most {whole} bytes of keys and values"
        found.append(errors.Problem(path, "maxsize", whole, text))
    return found


def unknown_problems(said: Iterable[str], known: Container[str], path: str = "") -> list[errors.Problem]:
    """The names of `said` that are not `known`, up to `MAX_PROBLEMS`. What is left out without a word may be what
    should have narrowed the request. `path`: what goes before a name, with its dot."""
    unknown = [name for name in said if name not in known]
    return [
        errors.Problem(f"{path}{shown(name)}", "unknown", text=f"{path}{shown(name)} is not known here")
        for name in unknown[:MAX_PROBLEMS]
    ]


def path_of(path: str, key: str) -> str:
    """The path of a key that the client made up."""
    return f"{path}.{shown(key)}"


def shown(name: str) -> str:
    """A name that the client made up, fit to be repeated to it."""
    return _UNSTORABLE.sub("?", name)[:_SHOWN_KEY]


def coerced(value: object) -> str:
    """A JSON value as text: strings as they are, numbers and booleans as JSON spells them (whole ones without a
    fraction), null as nothing, objects and arrays as compact JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < _WHOLE:
        value = int(value)
    return msgspec.json.encode(value).decode()


def moment(path: str, value: object, found: list[errors.Problem]) -> int | None:
    """The milliseconds of an RFC 3339 text, or None and a problem."""
    if not isinstance(value, str):
        found.append(errors.Problem(path, "type"))
        return None
    ms = times.parse(value)
    if ms is None or not times.storable(ms):
        text = f"{path} must be an RFC 3339 date-time between 1970 and 2200"
        found.append(errors.Problem(path, "rfc3339", text=text))
        return None
    return ms


def past(path: str, value: object, now_ms: int, found: list[errors.Problem]) -> int | None:
    """As `moment`, and it must not lie in the future."""
    ms = moment(path, value, found)
    if ms is not None and ms > now_ms:
        found.append(errors.Problem(path, "future", text=f"{path} cannot be in the future"))
        return None
    return ms
