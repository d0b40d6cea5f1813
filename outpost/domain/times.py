"""Moments: Unix milliseconds inside, RFC 3339 UTC with milliseconds as text.

Reading is strict, since a moment that is read two ways is delivered, stored and filtered two ways.
"""

from __future__ import annotations

import datetime as dt
import functools
import re

EARLIEST_MS = 0
LATEST_MS = 7_258_118_400_000  # 2200-01-01; far beyond it Postgres and Python disagree on what a time is

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,18}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - arithmetic in UTC, without the cost of a zone
_SECOND = dt.timedelta(seconds=1)
_MICROSECOND = dt.timedelta(microseconds=1)


def parse(text: str) -> int | None:
    """The milliseconds of an RFC 3339 date-time with its zone, cut off below the millisecond; None if it is none.
    Any year from 1 to 9999; what is to be stored has to be `storable`."""
    micros = parse_micros(text)
    return None if micros is None else micros // 1000


def parse_micros(text: str) -> int | None:
    """As `parse`, in microseconds, for comparisons with what may be given more exactly than it is stored."""
    found = _RFC3339.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, hours, minutes = found.groups()
    try:
        moment = dt.datetime(  # noqa: DTZ001
            int(year), int(month), int(day), int(hour), int(minute), int(second)
        )
    except ValueError:
        return None
    micros = (moment - _EPOCH) // _MICROSECOND + (int(fraction[:6].ljust(6, "0")) if fraction else 0)
    if sign is None:
        return micros
    if int(hours) > 23 or int(minutes) > 59:
        return None
    offset = (int(hours) * 60 + int(minutes)) * 60_000_000
    return micros - offset if sign == "+" else micros + offset


def parse_date_or_time(text: str) -> int | None:
    """As `parse_micros`; a plain `YYYY-MM-DD` is its midnight in UTC."""
    return parse_micros(f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text)


def text(ms: int) -> str:
    """`2026-01-02T03:04:05.678Z`."""
    second, rest = divmod(ms, 1000)
    return f"{_second(second)}.{rest:03}Z"


@functools.lru_cache(maxsize=64)  # most of what happens happens now
def _second(second: int) -> str:
    return (_EPOCH + second * _SECOND).isoformat()


def storable(ms: int | None) -> bool:
    """Whether this is a moment that we keep."""
    return ms is not None and EARLIEST_MS <= ms < LATEST_MS
