"""Leases of background work: one holder at a time, another one when it is over or was given back."""

from __future__ import annotations

import pytest

from outpost.log.redis import client
from outpost.log.upkeep import leadership
from tests.harness.polling import eventually


async def test_work_over_all_partitions_is_one_process_s_until_it_gives_it_back(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadership, "LOOK_AGAIN_S", 0.01)
    first, second = leadership.Turn(log, "log"), leadership.Turn(log, "log")
    assert await first.ours()
    assert not await second.ours()
    assert await leadership.Turn(log, "other").ours()
    await second.give_back()  # which is not its to give
    assert not await second.ours()
    await first.give_back()
    await eventually(second.ours)


async def test_when_its_doer_is_gone_another_does_it_after_the_lease(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadership, "LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(leadership, "TURN_MS", 300)
    gone, other = leadership.Turn(log, "log"), leadership.Turn(log, "log")
    assert await gone.ours()
    assert not await other.ours()
    await eventually(other.ours)


async def test_a_lease_that_is_renewed_in_time_stays(log: client.Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leadership, "LOOK_AGAIN_S", 0.0)
    monkeypatch.setattr(leadership, "RENEW_S", 0.0)
    monkeypatch.setattr(leadership, "TURN_MS", 2_000)
    doer, other = leadership.Turn(log, "log"), leadership.Turn(log, "log")
    key = log.keys.partitions[0].lease("log")
    assert await doer.ours()

    async def worn() -> bool:
        return 1_800 > await log.command("PTTL", key)

    for _ in range(2):
        await eventually(worn)
        assert await doer.ours()
        assert 1_900 < await log.command("PTTL", key)
        assert not await other.ours()


async def test_a_lease_that_was_taken_while_the_clock_was_ahead_is_over(log: client.Log) -> None:
    keys = log.keys.partitions[0]
    await log.command("SET", keys.lease("far"), "gone", "PX", 10 * leadership.LONGEST_LEASE_MS)
    await log.command("SET", keys.lease("near"), "lives", "PX", leadership.LONGEST_LEASE_MS)
    assert [0] == await leadership.take(log, "far", "other", 1_000, [0])
    assert [] == await leadership.take(log, "near", "other", 1_000, [0])
    assert [] == await leadership.take(log, "far", "third", 1_000, [0])
