"""The clock of Redis in this process."""

from __future__ import annotations

import time

from outpost.log import clock


def test_it_is_unknown_until_redis_told_it_and_then_goes_on_by_itself() -> None:
    made = clock.Clock()
    assert made.now_ms() is None
    began = time.monotonic()
    made.told(5_000_000)
    time.sleep(0.002)
    now_ms = made.now_ms()
    passed_ms = (time.monotonic() - began) * 1000
    assert now_ms is not None
    assert 5_000_001 <= now_ms <= 5_000_000 + passed_ms


def test_it_follows_redis_back_as_well() -> None:
    made = clock.Clock()
    made.told(5_000_000)
    made.told(1_000_000)
    now_ms = made.now_ms()
    assert now_ms is not None
    assert 1_000_000 <= now_ms < 4_000_000
