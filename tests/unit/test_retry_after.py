"""What a destination asks for by Retry-After, what becomes of it, and what jitter does to a delay."""

from __future__ import annotations

import datetime as dt
import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost.adapters.http import reading, retry_after
from outpost.domain import delivery

NOW_MS = 784_111_757_000  # Sun, 06 Nov 1994 08:49:17 GMT
POLICY = delivery.RetryPolicy(schedule_ms=(5_000, 7_000))


@pytest.mark.case(6)
@pytest.mark.parametrize(
    ("value", "delay_ms"),
    [
        (b"0", 0),
        (b"120", 120_000),
        (b" 7\t", 7_000),
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 20_000),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", 20_000),
        (b"Sun Nov  6 08:49:37 1994", 20_000),
        (b"Sun, 06 Nov 1994 08:00:00 GMT", 0),
        (b"90.5", 91_000),
        (b"0.493", 1_000),
        (b"90.0", 90_000),
        (b"120s", 120_000),
        (b"120 seconds", 120_000),
        (b"999999999999999999999", retry_after.MAX_SECONDS * 1000),
        (b"9" * 64, retry_after.MAX_SECONDS * 1000),
        (b"Sun, 6 Nov 1994 08:49:37 GMT", 20_000),
        (b"Sun, 06 Nov 1994 08:49:37 UTC", 20_000),
        (b"Sun, 06 Nov 1994 08:49:37 +0000", 20_000),
        (b"Sun, 06 Nov 1994 09:49:37 +0100", 20_000),
        (b"Sun, 06 Nov 1994 03:19:37 -05:30", 20_000),
        (b"06 Nov 1994 08:49:37 GMT", 20_000),
        (b"6 November 1994 08:49:37", 20_000),
        (b"sun, 06 nov 1994 08:49:37 gmt", 20_000),
        (b"Sun Nov 6 08:49:37 1994", 20_000),
        (b"1994-11-06T08:49:37Z", 20_000),
        (b"1994-11-06 09:49:36.5+01:00", 20_000),
    ],
)
def test_seconds_and_dates_are_understood_as_servers_write_them(value: bytes, delay_ms: int):
    assert delay_ms == retry_after.delay_ms(value, NOW_MS)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"-1",
        b"1.5.5",
        b".5",
        b"1,5",
        b"1 hour",
        b"1994-11-36T08:49:37Z",
        b"tomorrow 08:49:37",
        b"soon",
        b"1e3",
        "\u0663".encode(),
        b"Sun, 99 Foo 1994 08:49:37 GMT",
        b"x" * 65,
    ],
)
def test_anything_else_asks_for_nothing(value: bytes):
    assert retry_after.delay_ms(value, NOW_MS) is None


@given(st.datetimes(dt.datetime(1995, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC)))
def test_any_date_as_mail_and_http_write_it_is_so_far_away(at: dt.datetime):
    at = at.replace(microsecond=0)
    value = email.utils.format_datetime(at, usegmt=True).encode()
    assert round(at.timestamp() * 1000) - NOW_MS == retry_after.delay_ms(value, NOW_MS)


@given(
    st.binary(max_size=80)
    | st.from_regex(retry_after._DATE, fullmatch=True)
    | st.from_regex(retry_after._RFC3339, fullmatch=True)
)
def test_whatever_a_receiver_sends_is_no_error_and_never_in_the_past(value: bytes):
    found = retry_after.delay_ms(value, NOW_MS)
    assert found is None or found >= 0


@pytest.mark.parametrize(
    ("came", "told"),
    [
        (b"HTTP/1.1 503 X\r\nRETRY-after: 5 \r\nContent-Length: 0\r\n\r\n", b"5"),
        (b"HTTP/1.1 503 X\r\nRetry-After: 5\r\nContent-Length: 90\r\n\r\n", b"5"),  # longer than the cap
        (b"HTTP/1.1 103 X\r\nRetry-After: 5\r\n\r\nHTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nRetry-After: 5\r\n\r\n", b""),
    ],
    ids=["whole", "too large", "interim", "trailer"],
)
def test_the_header_is_that_of_the_final_head(came: bytes, told: bytes):
    reader = reading.Reader(20)
    answer = reader.feed(came + (b"x" * 30 if b"90" in came else b""))
    assert (503, told) == (answer.status, answer.retry_after.strip())


def test_the_next_answer_on_a_connection_asks_for_itself():
    reader = reading.Reader(20)
    assert b"5" == reader.feed(b"HTTP/1.1 503 X\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n").retry_after
    reader.begin()
    assert b"" == reader.feed(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n").retry_after


def test_what_is_asked_for_takes_the_place_of_the_schedule_s_delay():
    assert 2_000 == POLICY.delay_ms(1, 2_000)
    assert 60_000 == POLICY.delay_ms(2, 60_000)


def test_nobody_can_ask_for_less_than_a_second_or_for_more_than_the_limit():
    assert 1_000 == POLICY.delay_ms(1, 0)
    assert 3_600_000 == POLICY.delay_ms(1, 10**21)


def test_asking_never_adds_an_attempt():
    assert POLICY.delay_ms(3, 2_000) is None
    assert delivery.RetryPolicy(max_retries=0).delay_ms(1, 2_000) is None


def test_a_limit_of_nothing_does_not_listen():
    deaf = delivery.RetryPolicy(schedule_ms=(5_000,), retry_after_max_ms=0)
    assert 5_000 == deaf.delay_ms(1, 2_000)


@given(st.integers(1, 12), st.floats(0, 1))
def test_without_jitter_chance_decides_nothing(attempt: int, chance: float):
    policy = delivery.RetryPolicy()
    assert policy.delay_ms(attempt) == policy.delay_ms(attempt, chance=chance)


@given(st.integers(1, 10), st.floats(0, 1), st.floats(0, 1))
def test_jitter_moves_a_delay_by_its_part_at_most_either_way(attempt: int, jitter: float, chance: float):
    policy, plain = delivery.RetryPolicy(jitter=jitter), delivery.RetryPolicy().delay_ms(attempt)
    delay_ms = policy.delay_ms(attempt, chance=chance)
    assert plain is not None
    assert delay_ms is not None
    assert abs(delay_ms - plain) <= plain * jitter + 1
    assert (round(plain * (1 - jitter)), round(plain * (1 + jitter))) == (
        policy.delay_ms(attempt, chance=0.0),
        policy.delay_ms(attempt, chance=1.0),
    )


@given(st.floats(0, 1), st.floats(0, 1))
def test_jitter_makes_what_was_asked_for_later_and_never_earlier(jitter: float, chance: float):
    policy = delivery.RetryPolicy(jitter=jitter)
    delay_ms = policy.delay_ms(1, 10_000, chance)
    assert delay_ms is not None
    assert 10_000 <= delay_ms <= 10_000 * (1 + jitter) + 1


def test_jitter_stays_below_the_published_ceiling():
    policy = delivery.RetryPolicy(schedule_ms=(delivery.MAX_DELAY_MS,), jitter=1.0)
    assert delivery.MAX_DELAY_MS == policy.delay_ms(1, chance=1.0)
