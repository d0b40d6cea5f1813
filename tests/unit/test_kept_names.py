"""Verdicts that are kept: bounded as a whole and for each tenant."""

from __future__ import annotations

import pytest

from outpost.adapters.egress import kept_names


def put(kept: kept_names.KeptNames[int], name: str, tenant: str, verdict: int = 0) -> None:
    kept.put(name, kept_names.Entry(verdict, 1.0, prompt=True, tenant=tenant))


def test_a_tenant_with_many_names_makes_room_among_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kept_names, "MAX_TENANT_KEPT", 10)
    kept: kept_names.KeptNames[int] = kept_names.KeptNames()
    put(kept, "b.test", "b")
    for number in range(100):
        put(kept, f"{number}.test", "a")
    assert 11 == len(kept)
    assert kept.get("b.test") is not None
    assert [f"{number}.test" for number in range(90, 100)] == [
        f"{number}.test" for number in range(100) if kept.get(f"{number}.test") is not None
    ]


def test_all_of_them_are_bounded_and_the_oldest_makes_room(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kept_names, "MAX_KEPT", 5)
    kept: kept_names.KeptNames[int] = kept_names.KeptNames()
    for number in range(20):
        put(kept, f"{number}.test", f"tenant-{number}")
    assert [f"{number}.test" for number in range(15, 20)] == list(kept._entries)
    assert 5 == len(kept._of)


def test_what_is_learned_anew_takes_the_place_of_the_old_whoever_asked():
    kept: kept_names.KeptNames[int] = kept_names.KeptNames()
    put(kept, "one.test", "a", 1)
    put(kept, "one.test", "b", 2)
    entry = kept.get("one.test")
    assert entry is not None
    assert (1, 2, "b", ["b"]) == (len(kept), entry.verdict, entry.tenant, list(kept._of))
