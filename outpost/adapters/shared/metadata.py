"""The metadata that goes with every delivery: the system's keys, the destination's, the event's; later ones win.

The values are texts. `timestamp` is the time of the delivery, not of the event, and so changes with every attempt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from outpost.adapters import base

LEFT_OUT = "metadata_left_out"  # in the response of an attempt
MAX_NOTED = 20  # keys that it names
TIMESTAMP, TIMESTAMP_MS, EVENT_ID, TOPIC = "timestamp", "timestamp-ms", "event-id", "topic"


class Merger:
    """For one destination. `milliseconds` adds the system key `timestamp-ms`; `clock_ns` is Unix time in
    nanoseconds."""

    def __init__(
        self,
        delivery_metadata: Mapping[str, str],
        *,
        milliseconds: bool,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._own = dict(delivery_metadata)
        self._milliseconds = milliseconds
        self._clock_ns = clock_ns

    def merged(self, event: base.Delivery) -> dict[str, str]:
        """The whole metadata of one delivery of `event`, now."""
        now_ns = self._clock_ns()
        result = {TIMESTAMP: seconds(now_ns), EVENT_ID: event.event_id, TOPIC: event.topic}
        if self._milliseconds:
            result[TIMESTAMP_MS] = nanoseconds(now_ns)
        result.update(self._own)
        result.update(event.metadata)
        return result


def noted(response: dict[str, object], left_out: Sequence[str]) -> dict[str, object]:
    """The `response` of an attempt, with the keys of metadata that its transport could not carry, if there are
    any."""
    if left_out:
        response[LEFT_OUT] = list(left_out[:MAX_NOTED])
    return response


def seconds(now_ns: int) -> str:
    """RFC 3339 in seconds, UTC."""
    return _seconds.text(now_ns // 1_000_000_000)


def nanoseconds(now_ns: int) -> str:
    """RFC 3339 with as many digits of the second as are not trailing zeros, as published under `timestamp-ms`."""
    second, rest = divmod(now_ns, 1_000_000_000)
    fraction = f".{rest:09}".rstrip("0").rstrip(".")
    return f"{_seconds.text(second)[:-1]}{fraction}Z"


class _Seconds:
    """The text of the present second, made once a second rather than once a delivery."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def text(self, second: int) -> str:
        if second != self._second:
            self._text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
            self._second = second
        return self._text


_seconds = _Seconds()
