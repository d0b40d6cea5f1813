"""The headers of a webhook request: which names they have, and who wins where two want the same name.

Content type < custom headers < metadata under the prefix (system < delivery metadata < event metadata); the
signature, added last by the publisher, beats all of them. What never changes is worked out once a publisher.

What goes out is ASCII: receivers read other bytes in different ways, and some refuse the request. A value with
characters beyond it is percent-encoded in UTF-8, as object stores do with their metadata, and so is a name.
"""

from __future__ import annotations

import re
import string
import urllib.parse
from collections.abc import Mapping

import msgspec

from outpost import errors, settings
from outpost.adapters import base
from outpost.adapters.shared import metadata
from outpost.adapters.shared.metadata import EVENT_ID, TIMESTAMP, TIMESTAMP_MS, TOPIC

# Headers that frame the request or that we answer for: neither custom headers nor metadata may set them.
RESERVED = settings.RESERVED_HEADERS
SIGNATURE = "signature"
MAX_REMEMBERED_NAMES = 4096  # metadata keys whose header name is kept; keys come from tenants, so it is bounded

_CUSTOM_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]*")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # https://www.rfc-editor.org/rfc/rfc9110#name-field-names
_PLAIN_IN_NAMES = "!#$&'*+.^_`|~-"
_PLAIN_IN_VALUES = string.punctuation.replace("%", "") + " "
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


class Names:
    """Metadata key to header name. `pinned` renames single keys exactly, "" leaves them out."""

    def __init__(self, prefix: str, pinned: Mapping[str, str | None]) -> None:
        self._prefix = prefix.strip()
        self._pinned = {key: name.strip() for key, name in pinned.items() if name is not None}
        self._known: dict[str, str] = {}

    def of(self, key: str) -> str:
        """The header for `key`, "" if it is not to be sent."""
        try:
            return self._known[key]
        except KeyError:
            name = self._make(key)
            if len(self._known) < MAX_REMEMBERED_NAMES:
                self._known[key] = name
            return name

    def _make(self, key: str) -> str:
        pinned = self._pinned.get(key)
        name = self._prefix + key if pinned is None else pinned
        if not _NAME.fullmatch(name):
            name = urllib.parse.quote(name, safe=_PLAIN_IN_NAMES, errors="replace")
        return "" if pinned is None and name.lower() in RESERVED else name


def parse_custom(text: str) -> tuple[dict[str, str], list[errors.Problem]]:
    """The custom headers in the config value `text`, and everything that is wrong with them."""
    path = "config.custom_headers"
    if not text:
        return {}, []
    try:
        headers = msgspec.json.decode(text, type=dict[str, str])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}, [errors.Problem(path, "invalid")]
    problems: list[errors.Problem] = []
    for name, value in headers.items():
        at = f"{path}.{name.lower()}"  # as it is published
        if not _CUSTOM_NAME.fullmatch(name):
            problems.append(errors.Problem(at, "pattern"))
        elif name.lower() in RESERVED:
            problems.append(errors.Problem(at, "forbidden"))
        elif not value:
            problems.append(errors.Problem(at, "required"))
        elif _BAD_VALUE.search(value):
            problems.append(errors.Problem(at, "pattern"))
    return headers, problems


Lines = dict[str, str]  # lower-case name -> `Name: value` and CR LF


class Headers:
    """The headers of one destination. `milliseconds` adds the system key `timestamp-ms`; `signature` is the name
    of the signature's header, where that is not the one that `names` has for it."""

    def __init__(
        self,
        names: Names,
        *,
        user_agent: str,
        authorization: str | None,
        custom: Mapping[str, str],
        delivery_metadata: Mapping[str, str],
        milliseconds: bool,
        signature: str | None = None,
    ) -> None:
        self._names = names
        self._signature = signature or names.of(SIGNATURE)
        fixed: Lines = {}
        _put(fixed, "Content-Type", "application/json")
        _put(fixed, "User-Agent", user_agent)
        _put(fixed, "Accept", "*/*")
        _put(fixed, "Accept-Encoding", "identity")  # the body is stored as text, and the cap counts what came in
        if authorization is not None:
            _put(fixed, "Authorization", authorization)
        for name, value in custom.items():
            _put(fixed, name, value)
        self._fixed = fixed
        system = [EVENT_ID, TOPIC, TIMESTAMP, *([TIMESTAMP_MS] if milliseconds else [])]
        wanted = {key: names.of(key) for key in system if key not in delivery_metadata}
        # A custom header of the same name stands before the system's value, and so does delivery metadata's.
        for name in wanted.values():
            fixed.pop(name.lower(), None)
        self._put_all(fixed, delivery_metadata)
        self._event_id = self._still_mine(wanted.get(EVENT_ID))
        self._topic = self._still_mine(wanted.get(TOPIC))
        self._timestamp = self._still_mine(wanted.get(TIMESTAMP))
        self._timestamp_ms = self._still_mine(wanted.get(TIMESTAMP_MS))

    @property
    def signed(self) -> bool:
        """Whether a signature is to be sent at all."""
        return self._signature != ""

    def render(self, delivery: base.Delivery, now_ns: int, signature: str) -> bytes:
        """The lines for one request sent at `now_ns` (Unix time); an empty signature is left out."""
        lines = self._fixed.copy()
        if self._event_id:
            _put(lines, self._event_id, delivery.event_id)
        if self._topic:
            _put(lines, self._topic, delivery.topic)
        if self._timestamp:
            _put(lines, self._timestamp, metadata.seconds(now_ns))
        if self._timestamp_ms:
            _put(lines, self._timestamp_ms, metadata.nanoseconds(now_ns))
        self._put_all(lines, delivery.metadata)
        if signature:
            _put(lines, self._signature, signature)
        return "".join(lines.values()).encode("ascii")

    def _put_all(self, lines: Lines, values: Mapping[str, str]) -> None:
        for key, value in values.items():
            name = self._names.of(key)
            if name:
                _put(lines, name, value)

    def _still_mine(self, name: str | None) -> str:
        """`name`, unless delivery metadata under another key came to the same header."""
        return name if name and name.lower() not in self._fixed else ""


def _put(lines: Lines, name: str, value: str) -> None:
    lines[name.lower()] = f"{name}: {on_the_wire(value)}\r\n"


def on_the_wire(value: str) -> str:
    """`value` as it stands in a header: itself where it is ASCII without control characters, else percent-encoded,
    each `%` in it as well, so that decoding gives it back. Half a surrogate pair becomes a question mark."""
    if value.isascii() and (value.isprintable() or not _BAD_VALUE.search(value)):
        return value
    return urllib.parse.quote(value, safe=_PLAIN_IN_VALUES, errors="replace")
