"""When the next attempt is made, and that task ids survive whatever a destination is called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost.domain import delivery


@pytest.mark.behaviour(93)
def test_without_a_schedule_the_interval_doubles_from_failure_to_failure_up_to_the_limit():
    policy = delivery.RetryPolicy()
    assert [30_000, 60_000, 120_000] == [policy.delay_ms(n) for n in (1, 2, 3)]
    assert 30_000 * 2**9 == policy.delay_ms(10)
    assert policy.delay_ms(11) is None


@pytest.mark.behaviour(93)
def test_a_schedule_gives_each_delay_and_its_length_is_the_limit():
    policy = delivery.RetryPolicy(interval_ms=1, max_retries=50, schedule_ms=(5_000, 7_000))
    assert [5_000, 7_000, None] == [policy.delay_ms(n) for n in (1, 2, 3)]


def test_no_retries_means_none():
    assert delivery.RetryPolicy(max_retries=0).delay_ms(1) is None


@given(st.integers(1, 1_000))
def test_a_delay_never_exceeds_the_published_ceiling_and_never_shrinks(attempt: int):
    policy = delivery.RetryPolicy(interval_ms=9_000, max_retries=1_001)
    delay, following = policy.delay_ms(attempt), policy.delay_ms(attempt + 1)
    assert delay is not None
    assert following is not None
    assert 0 < delay <= following <= delivery.MAX_DELAY_MS


@given(st.integers(1), st.integers(0), st.integers(0), st.text(min_size=1), st.integers(0))
def test_a_task_id_is_read_back_whatever_the_destination_is_called(
    attempt: int, ms: int, seq: int, destination: str, created: int
):
    wanted = delivery.TaskId(attempt, f"{ms}-{seq}", destination, created)
    assert wanted == delivery.parse_task_id(str(wanted))


@pytest.mark.parametrize(
    "text",
    ["", "1", "1/5-0", "1/5-0/d", "x/5-0/d@1", "1/5/d@1", "1/5-0/@1", "1/5-0/d@", "1/5-0/d@x", "-1/5-0/d@1"],
)
def test_what_is_no_task_id_is_refused(text: str):
    with pytest.raises(ValueError):
        delivery.parse_task_id(text)


@pytest.mark.parametrize(
    ("policy", "longest_ms"),
    [
        (delivery.RetryPolicy(interval_ms=1_000, max_retries=3, retry_after_max_ms=0), 4_000),
        (delivery.RetryPolicy(schedule_ms=(5_000, 9_000, 2_000), retry_after_max_ms=0), 9_000),
        (delivery.RetryPolicy(schedule_ms=(5_000,), retry_after_max_ms=60_000), 60_000),
        (delivery.RetryPolicy(schedule_ms=(10_000,), jitter=0.5, retry_after_max_ms=0), 15_000),
        (delivery.RetryPolicy(interval_ms=30_000, max_retries=1_000), delivery.MAX_DELAY_MS),
        (delivery.RetryPolicy(max_retries=0, retry_after_max_ms=0), 0),
    ],
)
def test_no_delay_is_longer_than_the_longest(policy: delivery.RetryPolicy, longest_ms: int) -> None:
    assert longest_ms == policy.longest_ms
    asked = (None, 10**12)
    delays = [policy.delay_ms(n, a, c) or 0 for n in range(1, 1_002) for a in asked for c in (0.0, 0.5, 1.0)]
    assert longest_ms == max(delays)
