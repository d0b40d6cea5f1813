"""`lease_name`: few names in the group, one live holder each."""

from __future__ import annotations

import pytest

from outpost.log.delivery import consumers
from outpost.log.redis import client
from tests.contract import worlds


@pytest.fixture(autouse=True)
async def world(log: client.Log, clock: worlds.Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "_LEASE", worlds.with_clock(consumers._LEASE))
    await clock.set(worlds.NOW)


async def test_holders_get_the_first_free_names(log: client.Log) -> None:
    assert ["d0", "d1", "d2"] == [await consumers.lease_name(log, holder) for holder in "abc"]
    await consumers.release_name(log, "b", "d1")
    assert "d1" == await consumers.lease_name(log, "e")


async def test_a_name_is_kept_by_renewing_and_passes_on_when_its_lease_ends(
    log: client.Log, clock: worlds.Clock
) -> None:
    assert "d0" == await consumers.lease_name(log, "a")
    await clock.advance(consumers.LEASE_MS - 1)
    assert "d0" == await consumers.lease_name(log, "a", "d0")
    await clock.advance(consumers.LEASE_MS - 1)
    assert "d1" == await consumers.lease_name(log, "b")
    await clock.advance(1)
    assert "d0" == await consumers.lease_name(log, "c")
    assert await consumers.lease_name(log, "a", "d0") is None


async def test_a_holder_that_asks_again_gets_its_own_name(log: client.Log) -> None:
    await consumers.lease_name(log, "a")
    await consumers.lease_name(log, "b")
    assert "d1" == await consumers.lease_name(log, "b")


async def test_a_lease_that_was_taken_while_the_clock_was_ahead_is_over(
    log: client.Log, clock: worlds.Clock
) -> None:
    for ahead_ms, expected in ((consumers.LONGEST_LEASE_MS + 1, "d0"), (consumers.LONGEST_LEASE_MS, "d1")):
        await log.command("HSET", log.keys.slots, "d0", f"gone {worlds.NOW + ahead_ms}")
        assert expected == await consumers.lease_name(log, f"other {ahead_ms}")
