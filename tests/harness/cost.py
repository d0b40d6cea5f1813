"""CPU time in tests: the least of several tries, because other work on the machine only ever adds to it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

TRIES = 10
UNIT_TRIES = 5
UNIT_BODY = json.dumps([{"id": n, "name": "name", "values": [1, 2.5, None, True]} for n in range(16_000)])  # 1 MB


def unit_s() -> float:
    """The CPU time that reading a megabyte of JSON takes here and now, 8 ms on a quiet machine of 2026. A bound on
    a piece of work is so many units: a machine that is slow, or busy with other things, is slow for both."""
    return statistics.median(seconds(lambda: json.loads(UNIT_BODY)) for _ in range(UNIT_TRIES))


def seconds(work: Callable[[], object]) -> float:
    """The CPU time that this thread spends on one call."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def growth(
    long: Callable[[], float], short: Callable[[], float], limit: float, tries: int = TRIES
) -> tuple[float, float]:
    """The ratio of the least times that `long` and `short` report, and the least time of `long`.

    Both are tried again while the ratio is above `limit`, so that only work which is always too much is found.
    """
    longest = shortest = float("inf")
    ratio = float("inf")
    for _ in range(tries):
        longest, shortest = min(longest, long()), min(shortest, short())
        ratio = longest / max(shortest, 1e-6)
        if ratio <= limit:
            break
    return ratio, longest
