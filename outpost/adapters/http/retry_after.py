"""The Retry-After header of an answer (RFC 9110, 10.2.3): seconds, or a date in one of HTTP's three forms."""

from __future__ import annotations

import email.utils
import re

MOST_BYTES = 64  # a date has 29 to 33
_SECONDS = re.compile(rb"[0-9]{1,18}")
_DATE = re.compile(
    rb"(?:[A-Za-z]{3,9}, [0-9]{2}[ -][A-Za-z]{3}[ -][0-9]{2,4}|[A-Za-z]{3} [A-Za-z]{3} [0-9 ][0-9])"
    rb" [0-9]{2}:[0-9]{2}:[0-9]{2}(?: GMT| [0-9]{4})"
)


def delay_ms(value: bytes, now_ms: int) -> int | None:
    """What `value` asks for as milliseconds from `now_ms` (Unix ms), 0 where that is past; None if it is neither a
    number nor a date."""
    value = value.strip(b" \t")
    if len(value) > MOST_BYTES:
        return None
    if _SECONDS.fullmatch(value):
        return int(value) * 1000
    if not _DATE.fullmatch(value):
        return None
    parsed = email.utils.parsedate_tz(value.decode("ascii"))
    if parsed is None:
        return None
    try:
        at_s = email.utils.mktime_tz((*parsed[:9], 0))  # every HTTP date is GMT
    except (ValueError, OverflowError):
        return None
    return max(0, at_s * 1000 - now_ms)
