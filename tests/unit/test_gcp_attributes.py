"""Which metadata a Pub/Sub message carries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from outpost.adapters.gcp import attributes

SYSTEM = {"timestamp": "2026-01-01T00:00:00Z", "event-id": "e", "topic": ""}


def test_what_the_service_refuses_is_left_out():
    told = {
        **SYSTEM,
        "token": "x" * 1_025,
        "accents": "é" * 513,
        "googclient_schema": "v",
        "": "v",
        "k" * 257: "v",
        "ok": "x" * 1_024,
        "k" * 256: "é" * 512,
    }
    kept, left_out = attributes.fitting(told)
    assert {**SYSTEM, "ok": "x" * 1_024, "k" * 256: "é" * 512} == kept
    assert ["token", "accents", "googclient_schema", "", "k" * 257] == left_out


def test_more_attributes_than_a_message_has_are_left_out():
    kept, left_out = attributes.fitting({**SYSTEM, **{f"k{number}": "v" for number in range(100)}})
    assert (100, ["k97", "k98", "k99"]) == (len(kept), left_out)
    assert SYSTEM.items() <= kept.items()


@given(st.dictionaries(st.text(max_size=300), st.text(max_size=1_100), max_size=6))
def test_what_is_kept_and_what_is_left_out_is_all(told: dict[str, str]):
    kept, left_out = attributes.fitting(told)
    assert sorted([*kept, *left_out]) == sorted(told)
