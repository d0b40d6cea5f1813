"""How the listed rows are counted, and which ids are looked up to see whether the log has caught up."""

import pytest

from outpost.cli.bench import logcheck, wire
from outpost.cli.bench.target import Attempt, Event


@pytest.fixture
def listed():
    return logcheck.Listed("run", tenants=2, fan_out=2)


def attempt(number, destination, status="success", attempt_number=1):
    return Attempt(wire.event_id("run", number), wire.destination_id("run", destination), status, attempt_number)


def test_events_and_deliveries_count_once(listed):
    listed.add_event(Event(wire.event_id("run", 7)))
    listed.add_attempt(attempt(7, 3))
    assert [{7}, {15}] == [listed.events, listed.deliveries]


def test_a_row_that_comes_twice_is_a_double(listed):
    for _ in range(2):
        listed.add_event(Event(wire.event_id("run", 7)))
        listed.add_attempt(attempt(7, 3))
    assert [1, 1] == [listed.doubled_events, listed.doubled_attempts]


def test_a_retry_is_no_double_and_its_failure_no_delivery(listed):
    listed.add_attempt(attempt(7, 2, status="failed"))
    assert [set(), 1] == [listed.deliveries, listed.failed_attempts]
    listed.add_attempt(attempt(7, 2, attempt_number=2))
    assert [{14}, 0] == [listed.deliveries, listed.doubled_attempts]


def test_rows_of_another_run_or_tenant_are_foreign(listed):
    listed.add_event(Event("evt_1"))
    listed.add_event(Event(wire.event_id("other", 1)))
    listed.add_attempt(attempt(7, 0))
    assert [3, set(), set()] == [listed.foreign, listed.events, listed.deliveries]


def test_few_numbers_are_all_looked_up():
    assert [1, 2, 3] == logcheck.pick([1, 2, 3], 4)


def test_of_many_numbers_the_last_and_a_spread_are_looked_up():
    assert [0, 32, 64, 97, 98, 99] == logcheck.pick(range(100), 6)


def test_one_probe_is_the_last():
    assert [99] == logcheck.pick(range(100), 1)
