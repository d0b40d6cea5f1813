"""Cuts the secrets of a destination out of what its receiver said, before an attempt keeps it.

A receiver may echo what we sent: its URL, its headers, an error text that quotes a password. Every type goes
through this one piece; `secret_values` tells which values of a destination are secret. They are looked for in the
text as it is, and in what it says once its escapes are decoded (`escapes`). The search is linear in the text and
bounded: a text that would take longer is not kept at all.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Iterator

import msgspec

from outpost.adapters.shared import escapes
from outpost.domain import delivery

MASK = "***"
ERROR = "error"  # the field of a response that has a sentence
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
# In a sentence on an error, a shorter value of nothing but letters is looked for as a word: within a longer one it
# is that word's, as the user `connect` in `connection refused`.
MIN_LETTERS_IN_WORDS = 12
MAX_SECRETS = 256  # of one destination
MAX_SECRET_CHARACTERS = 16_384  # of all secrets of one destination; servers take no longer heads
MAX_FOUND = 1_000  # secrets in one text
# Secrets times characters of one text and of what it says decoded. That takes 1 ms, and up to 20 ms where both
# were made to be slow.
MAX_SEARCH = 4_000_000
SHORT_CHARACTERS = 4_096
NOWHERE: list[tuple[int, int]] = []
LONGEST_ESCAPE = 12  # characters that stand for one, such as both halves of a surrogate pair in JSON


class Redactor:
    """Looks for the secrets of one destination. `secrets` gives them, and is called when the first text is looked
    at: most receivers say nothing, and taking a destination apart takes some 100 microseconds."""

    __slots__ = ("_longest", "_overfull", "_secrets", "_wanted")

    def __init__(self, secrets: Callable[[], Iterable[str]]) -> None:
        self._secrets: Callable[[], Iterable[str]] | None = secrets
        self._overfull = False
        self._wanted: tuple[str, ...] = ()
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
            cleared = (
                self.text(value, words=True) if key == ERROR and isinstance(value, str) else self._value(value)
            )
            if cleared is not value:
                changed[key] = cleared
        return msgspec.structs.replace(outcome, response={**response, **changed}) if changed else outcome

    def text(self, text: str, *, words: bool = False) -> str:
        """`text` with a mask in the place of every secret; the same object where there is none. `words`: see
        `cut`."""
        return self.cut(text, len(text), words=words)

    def cut(self, text: str, limit: int, *, words: bool = False) -> str:
        """The first `limit` characters of `text`, with a mask in the place of every secret that begins there. What
        is behind a secret that the limit divides is not looked at, so the length of `text` does not count.
        `words`: a short word is not looked for within longer ones."""
        secrets = self._secrets
        if secrets is not None:
            self._learn(secrets())
        window = text if len(text) <= limit else text[: limit + self._longest * LONGEST_ESCAPE]
        if len(window) < MIN_SECRET_LENGTH:
            return window[:limit]
        found = NOWHERE if self._is_clear(window) else self._found(window, words=words)
        if found is None:
            return WITHHELD
        if not found:
            return window if len(window) <= limit else window[:limit]
        return _masked(window, sorted(found), limit)

    def _learn(self, secrets: Iterable[str]) -> None:
        """Types that send in threads may do so twice at once, so `_secrets` goes last."""
        found = {
            spelt for secret in secrets if is_secret(secret) for spelt in _as_sent(secret) if is_secret(spelt)
        }
        self._overfull = len(found) > MAX_SECRETS or sum(map(len, found)) > MAX_SECRET_CHARACTERS
        self._longest = max(map(len, found), default=0)
        self._wanted = tuple(sorted(found))
        self._secrets = None

    def _is_clear(self, text: str) -> bool:
        """Whether a short text without escapes has no secret, as most answers have none; in half a microsecond."""
        if len(text) > SHORT_CHARACTERS or self._overfull or "%" in text or "\\" in text or "&" in text:
            return False
        for secret in self._wanted:  # noqa: SIM110 -- `any` takes three times as long
            if secret in text:
                return False
        return True

    def _found(self, text: str, *, words: bool) -> list[tuple[int, int]] | None:
        """Where secrets stand, overlapping ones too; None where that would take too long to say."""
        if self._overfull:
            return None
        decoding = escapes.Decoding(text)
        found: list[tuple[int, int]] = []
        left = MAX_SEARCH
        while True:
            left -= len(decoding.text) * len(self._wanted)
            if left < 0:
                return None
            for secret in self._wanted:
                at = decoding.text.find(secret)
                while at >= 0:
                    if not (words and _is_within_a_word(decoding.text, secret, at)):
                        found.append(decoding.origin(at, at + len(secret)))
                    if len(found) > MAX_FOUND:
                        return None
                    at = decoding.text.find(secret, at + 1)
            if not self._wanted or not decoding.escaped:
                return found
            if not decoding.decode():
                return None if decoding.exhausted else found

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


def _is_within_a_word(text: str, secret: str, at: int) -> bool:
    """Whether `secret`, which stands at `at`, is a short word and a part of a longer one there."""
    if len(secret) >= MIN_LETTERS_IN_WORDS or not secret.isalpha():
        return False
    end = at + len(secret)
    return text[at - 1 : at].isalpha() or text[end : end + 1].isalpha()


@functools.lru_cache(maxsize=256)
def of(secrets: tuple[str, ...]) -> Redactor:
    """The redactor of these secrets, made once for all texts of one publisher."""
    return Redactor(lambda: secrets)


def _as_sent(secret: str) -> Iterator[str]:
    """What a receiver may take `secret` for: without the blanks around it, with forms' plus signs for those within
    it, and in Latin-1, for which HTTP libraries take the UTF-8 of headers."""
    for text in {secret, secret.strip()}:
        for spelt in {text, text.encode("utf-8", "replace").decode("latin-1")}:
            yield spelt
            yield spelt.replace(" ", "+")


def _masked(text: str, found: list[tuple[int, int]], limit: int) -> str:
    parts: list[str] = []
    end = 0  # of what is in `parts`, or masked
    for start, stop in found:
        if start >= limit:
            break
        if start >= end:
            parts += text[end:start], MASK
        end = max(end, stop)
    return "".join(parts) + text[end:limit]
