"""Which connections there may be, and the bytes that they hold together."""

from __future__ import annotations

from outpost.process.http_server import connections


def test_bytes_of_one_address_leave_half_to_the_others_and_are_given_back() -> None:
    shared = connections.SharedBytes(100)
    assert [True, True, False] == [shared.take(count, "a") for count in (30, 20, 1)]
    assert [True, False, True] == [shared.take(count, "b") for count in (40, 11, 10)]
    assert not shared.take(1, "c")
    shared.give(50, "a")
    shared.give(50, "b")
    assert (0, True) == (shared.held, shared.take(50, "a"))
