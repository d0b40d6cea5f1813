"""Cuts the secrets of a destination out of what its receiver said, before an attempt keeps it.

A receiver may echo what we sent: its URL, its headers, an error text that quotes a password. Every type goes
through this one piece. A secret is looked for as it is and in the spellings that an echo gives it (percent-encoded
or escaped for JSON or HTML); `secret_values` tells which values of a destination are secret. The search is linear
in the text and bounded: a text that would take longer is not kept at all.
"""

from __future__ import annotations

import functools
import html
import json
import operator
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator

import msgspec

from outpost.domain import delivery

MASK = "***"
WITHHELD = "The text was not stored: it could not be cleared of the destination's secrets"

# Shorter values are not looked for: they would cut ordinary words out of texts.
MIN_SECRET_LENGTH = 6
# Values that many destinations have in headers, queries and logins, and that texts have for other reasons.
COMMON_WORDS = frozenset(
    """
    accept access account active application application/json application/x-www-form-urlencoded basic bearer body
    broker bucket charset client close cluster config content content-type created customer datetime default delete
    delivery deleted denied destination development disabled enabled endpoint error events exchange expired failed
    forbidden format gateway header headers identity internal invalid keep-alive latest localhost message messages
    method metadata missing network no-cache outpost password payload private production public publisher refused
    region rejected request required response retry schema secret server service session source staging status
    stream string system tenant timeout topics unauthorized unknown updated username version webhook webhooks
    text/plain text/html utf-8
    """.split()  # noqa: SIM905 -- a list would have a line for each word
)
MAX_SPELLINGS = 256  # of all secrets of one destination that are looked for
MAX_SECRET_CHARACTERS = 16_384  # of all secrets of one destination; servers take no longer heads
MAX_FOUND = 1_000  # secrets in one text
# Spellings times characters of one text. That takes 1 ms, and up to 20 ms where both were made to be slow.
MAX_SEARCH = 4_000_000

_UNCHANGED = re.compile(r"[A-Za-z0-9_.~-]*")  # what no encoding spells in another way
_HTML_SAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}  # as Go's encoding/json escapes them


class Redactor:
    """Looks for the secrets of one destination. `secrets` gives them, and is called when the first text is looked
    at: most receivers say nothing, and finding the spellings of a destination takes some 100 microseconds."""

    __slots__ = ("_longest", "_overfull", "_secrets", "_spellings")

    def __init__(self, secrets: Callable[[], Iterable[str]]) -> None:
        self._secrets: Callable[[], Iterable[str]] | None = secrets
        self._overfull = False
        self._spellings: tuple[str, ...] = ()
        self._longest = 0

    def __repr__(self) -> str:
        return "Redactor(..)"

    def outcome(self, outcome: delivery.Outcome) -> delivery.Outcome:
        """The outcome with no secret in its response; the same object where there is none. The names at the top
        of a response are the type's own, so they are not looked at."""
        response = outcome.response
        if response is None:
            return outcome
        changed: dict[str, object] = {}
        for key, value in response.items():
            if isinstance(value, int) or (isinstance(value, str) and len(value) < MIN_SECRET_LENGTH):
                continue
            cleared = self._value(value)
            if cleared is not value:
                changed[key] = cleared
        return msgspec.structs.replace(outcome, response={**response, **changed}) if changed else outcome

    def text(self, text: str) -> str:
        """`text` with a mask in the place of every secret; the same object where there is none."""
        return self.cut(text, len(text))

    def cut(self, text: str, limit: int) -> str:
        """The first `limit` characters of `text`, with a mask in the place of every secret that begins there. What
        is behind a secret that the limit divides is not looked at, so the length of `text` does not count."""
        secrets = self._secrets
        if secrets is not None:
            self._learn(secrets())
        window = text[: limit + max(self._longest - 1, 0)] if limit < len(text) else text
        if len(window) < MIN_SECRET_LENGTH:
            return window[:limit]
        if self._overfull or len(window) * len(self._spellings) > MAX_SEARCH:
            return WITHHELD
        if not any(spelling in window for spelling in self._spellings):
            return window if len(window) <= limit else window[:limit]
        return self._masked(window, limit)

    def _learn(self, secrets: Iterable[str]) -> None:
        """Finds the spellings. Types that send in threads may do so twice at once, so `_secrets` goes last."""
        wanted = {secret for secret in secrets if is_secret(secret)}
        self._overfull = sum(map(len, wanted)) > MAX_SECRET_CHARACTERS
        found: set[str] = set()
        for secret in () if self._overfull else wanted:
            found.update(spelling for spelling in spellings(secret) if is_secret(spelling))
            if len(found) > MAX_SPELLINGS:
                self._overfull = True
                break
        self._longest = max(map(len, found), default=0)
        self._spellings = tuple(sorted(found))
        self._secrets = None

    def _masked(self, text: str, limit: int) -> str:
        found = sorted(self._found(text))
        if len(found) > MAX_FOUND:
            return WITHHELD
        parts: list[str] = []
        end = 0  # of what is in `parts`, or masked
        for start, stop in found:
            if start >= limit:
                break
            if start >= end:
                parts += text[end:start], MASK
            end = max(end, stop)
        return "".join(parts) + text[end:limit]

    def _found(self, text: str) -> list[tuple[int, int]]:
        """Where secrets stand, overlapping ones too; not all of them where they are more than `MAX_FOUND`."""
        found: list[tuple[int, int]] = []
        for spelling in self._spellings:
            at = text.find(spelling)
            while at >= 0 and len(found) <= MAX_FOUND:
                found.append((at, at + len(spelling)))
                at = text.find(spelling, at + 1)
        return found

    def _value(self, value: object) -> object:
        """A JSON-able value without secrets; the same object where there is none."""
        if isinstance(value, str):
            return self.text(value) if len(value) >= MIN_SECRET_LENGTH else value
        if isinstance(value, dict):
            names = [self._value(key) for key in value]
            items = [self._value(item) for item in value.values()]
            unchanged = all(map(operator.is_, names, value)) and all(map(operator.is_, items, value.values()))
            return value if unchanged else dict(zip(names, items, strict=True))
        if isinstance(value, list | tuple):
            items = [self._value(item) for item in value]
            return value if all(map(operator.is_, items, value)) else items
        return value


def is_secret(text: str) -> bool:
    """Whether a value is looked for in texts: it is long enough, and not one of the `COMMON_WORDS`."""
    return len(text) >= MIN_SECRET_LENGTH and text.lower() not in COMMON_WORDS


@functools.lru_cache(maxsize=256)
def of(secrets: tuple[str, ...]) -> Redactor:
    """The redactor of these secrets, made once for all texts of one publisher."""
    return Redactor(lambda: secrets)


def spellings(secret: str) -> Iterator[str]:
    """The ways in which an echo spells `secret`."""
    if _UNCHANGED.fullmatch(secret):
        yield secret
        return
    plain = {secret, secret.strip()}
    if not secret.isascii():
        # A receiver that takes our UTF-8 for Latin-1, as HTTP libraries do with headers.
        plain.add(secret.encode("utf-8", "replace").decode("latin-1"))
    for text in plain:
        yield text
        for quote in (urllib.parse.quote, urllib.parse.quote_plus):
            quoted = quote(text, safe="", errors="replace")
            yield quoted
            yield _lower_case_escapes(quoted)
        yield html.escape(text)
        yield html.escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")
        for escaped in _json_escaped(text):
            yield escaped
            yield from _json_escaped(escaped)  # JSON within JSON


def _lower_case_escapes(quoted: str) -> str:
    head, *rest = quoted.split("%")
    return head + "".join(f"%{part[:2].lower()}{part[2:]}" for part in rest)


def _json_escaped(text: str) -> Iterator[str]:
    for escape_all in (False, True):
        plain = json.dumps(text, ensure_ascii=escape_all)[1:-1]
        for escaped in (plain, "".join(_HTML_SAFE.get(character, character) for character in plain)):
            yield escaped
            yield escaped.replace("/", "\\/")
