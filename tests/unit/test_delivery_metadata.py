"""The metadata of a delivery: which keys the system sets, and who wins where two set the same one."""

from __future__ import annotations

import pytest

from outpost.adapters import base
from outpost.adapters.shared import metadata

NOW_NS = 1_790_000_000_123_456_700
EVENT = base.Delivery("evt_1", "user.created", "2026-01-01T00:00:00.000Z", {}, b"{}", 1)


def merged(
    delivery_metadata: dict[str, str], event: dict[str, str], *, milliseconds: bool = False, now_ns: int = NOW_NS
) -> dict[str, str]:
    merger = metadata.Merger(delivery_metadata, milliseconds=milliseconds, clock_ns=lambda: now_ns)
    return merger.merged(base.Delivery(EVENT.event_id, EVENT.topic, EVENT.time, event, EVENT.data, 2))


@pytest.mark.behaviour(130)
def test_every_delivery_has_the_three_keys_of_the_system():
    assert {"timestamp": "2026-09-21T14:13:20Z", "event-id": "evt_1", "topic": "user.created"} == merged({}, {})


@pytest.mark.behaviour(130)
def test_the_event_wins_over_the_destination_and_that_over_the_system():
    own = {"a": "destination", "b": "destination", "topic": "destination", "timestamp": "noon"}
    assert {
        "a": "event",
        "b": "destination",
        "c": "event",
        "topic": "event",
        "timestamp": "noon",
        "event-id": "event",
    } == merged(own, {"a": "event", "c": "event", "topic": "event", "event-id": "event"})


@pytest.mark.parametrize(
    ("now_ns", "text"),
    [
        (NOW_NS, "2026-09-21T14:13:20.1234567Z"),
        (1_790_000_000_000_000_001, "2026-09-21T14:13:20.000000001Z"),
        (1_790_000_000_500_000_000, "2026-09-21T14:13:20.5Z"),
        (1_790_000_000_000_000_000, "2026-09-21T14:13:20Z"),
    ],
)
def test_the_finer_time_is_there_where_it_is_wanted_with_the_digits_that_it_has(now_ns: int, text: str):
    assert "timestamp-ms" not in merged({}, {}, now_ns=now_ns)
    told = merged({}, {}, milliseconds=True, now_ns=now_ns)
    assert (text, "2026-09-21T14:13:20Z") == (told["timestamp-ms"], told["timestamp"])
    assert "mine" == merged({"timestamp-ms": "mine"}, {}, milliseconds=True)["timestamp-ms"]


def test_the_time_is_that_of_the_delivery():
    moments = iter((NOW_NS, NOW_NS + 61_000_000_000, NOW_NS))
    merger = metadata.Merger({}, milliseconds=False, clock_ns=lambda: next(moments))
    told = [merger.merged(EVENT)["timestamp"] for _ in range(3)]
    assert ["2026-09-21T14:13:20Z", "2026-09-21T14:14:21Z", "2026-09-21T14:13:20Z"] == told


def test_nothing_that_was_handed_in_is_changed():
    own, event = {"a": "destination"}, {"a": "event"}
    merger = metadata.Merger(own, milliseconds=True)
    own["b"] = "later"
    told = merger.merged(base.Delivery("e", "t", "", event, b"{}", 1))
    told["a"] = "changed"
    assert ({"a": "event"}, False) == (event, "b" in told)
    assert "destination" == merger.merged(EVENT)["a"]
