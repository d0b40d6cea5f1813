"""The Retry-After header of an answer (RFC 9110, 10.2.3): seconds or a date, also as servers write them that do
not keep to the book: with decimals or a unit, a day of one digit, another zone, no weekday, the form of RFC 3339.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import math
import re

MOST_BYTES = 64  # a date has 29 to 33
MAX_SECONDS = 10**18
_SECONDS = re.compile(rb"([0-9]+)(?:\.([0-9]*))? ?(?:s|secs?|seconds?)?", re.IGNORECASE)
_ZONE = rb"(?:GMT|UTC?|Z|[+-][0-9]{2}:?[0-9]{2})"
_DATE = re.compile(
    rb"(?:(?:[A-Za-z]{3,9},? )?[0-9]{1,2}[ -][A-Za-z]{3,9}[ -][0-9]{2,4}|[A-Za-z]{3} [A-Za-z]{3} [0-9 ]?[0-9])"
    rb" [0-9]{2}:[0-9]{2}:[0-9]{2}(?: " + _ZONE + rb"| [0-9]{4})?",
    re.IGNORECASE,
)
_COLON_IN_ZONE = re.compile(rb"([+-][0-9]{2}):([0-9]{2})$")
_RFC3339 = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?" + _ZONE + rb"?")


def delay_ms(value: bytes, now_ms: int) -> int | None:
    """What `value` asks for as milliseconds from `now_ms` (Unix ms), 0 where that is past; None if it is neither a
    number nor a date. Parts of a second count as a whole one."""
    value = value.strip(b" \t")
    if len(value) > MOST_BYTES:
        return None
    if (seconds := _SECONDS.fullmatch(value)) is not None:
        return min(int(seconds[1]) + bool((seconds[2] or b"").strip(b"0")), MAX_SECONDS) * 1000
    try:
        at_s = _at_s(value)
    except (ValueError, OverflowError):
        return None
    return None if at_s is None else max(0, at_s * 1000 - now_ms)


def _at_s(value: bytes) -> int | None:
    """The Unix time of a date; one without a zone is in GMT, as every date of HTTP."""
    if _RFC3339.fullmatch(value):
        at = dt.datetime.fromisoformat(value.decode("ascii"))
        return math.ceil((at if at.tzinfo else at.replace(tzinfo=dt.UTC)).timestamp())
    if not _DATE.fullmatch(value):
        return None
    parsed = email.utils.parsedate_tz(_COLON_IN_ZONE.sub(rb"\1\2", value).decode("ascii"))
    if parsed is None:
        return None
    return email.utils.mktime_tz((*parsed[:9], parsed[9] or 0))
