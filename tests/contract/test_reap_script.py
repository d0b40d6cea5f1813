"""`reap` and `forget_name`: names of dead processes leave the group, never with something pending."""

from __future__ import annotations

import asyncio

import pytest

from outpost.log import partition as partitions
from outpost.log import read
from outpost.log.delivery import consumers, repair, tasks
from outpost.log.redis import client
from tests.contract import worlds
from tests.harness.polling import eventually

TENANT = worlds.TENANT


@pytest.fixture(autouse=True)
async def group(log: client.Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "LEASE_MS", 60_000)
    await repair.regroup(log)


async def _event(log: client.Log) -> str:
    fields = ("t", "event.accepted", "v", "1", "d", "{}")
    entry_id: bytes = await log.command("XADD", log.keys.partitions[worlds.P].evt, "*", *fields)
    return entry_id.decode()


async def _consumers(log: client.Log, p: int = worlds.P) -> dict[str, int]:
    found = await log.command("XINFO", "CONSUMERS", log.keys.partitions[p].evt, partitions.GROUP)
    return {row["name"].decode(): row["pending"] for row in found}


async def _slots(log: client.Log) -> set[str]:
    return {name.decode() for name in await log.command("HKEYS", log.keys.slots)}


async def test_a_name_is_ended_when_it_was_given_back_or_its_lease_is_over(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    await consumers.lease_name(log, "lives")
    await consumers.lease_name(log, "gives-back")
    monkeypatch.setattr(consumers, "LEASE_MS", 50)
    await consumers.lease_name(log, "dies")
    assert ["d0", "d1", "d2"] == sorted(await _slots(log))
    await consumers.release_name(log, "gives-back", "d1")
    await eventually(lambda: _ended(log, ["d1", "d2"]))
    assert "d1" == await consumers.lease_name(log, "next")


async def _ended(log: client.Log, expected: list[str]) -> bool:
    return expected == sorted(await consumers.ended(log))


async def test_only_its_holder_gives_a_name_back(log: client.Log) -> None:
    await consumers.lease_name(log, "a")
    await consumers.release_name(log, "b", "d0")
    assert [] == await consumers.ended(log)
    await consumers.release_name(log, "a", "d0")
    assert ["d0"] == await consumers.ended(log)


async def test_an_idle_consumer_is_deleted_and_its_name_forgotten(log: client.Log) -> None:
    name = await consumers.lease_name(log, "a")
    assert name is not None
    await _event(log)
    [found] = await read.as_group(log, name, 10, block_ms=0)
    await tasks.open_entries(log, {worlds.P: [tasks.Opening(found.position.entry_id, ())]}, 1_000)
    assert {name: 0} == await _consumers(log)
    await consumers.release_name(log, "a", name)
    assert [] == await consumers.reap(log, [name])
    assert {} == await _consumers(log)
    assert set() == await _slots(log)


async def test_one_with_something_pending_stays_until_that_is_taken_over(log: client.Log) -> None:
    await consumers.lease_name(log, "dead")
    await consumers.lease_name(log, "alive")
    entry_id = await _event(log)
    assert 1 == len(await read.as_group(log, "d0", 10, block_ms=0))
    await consumers.release_name(log, "dead", "d0")
    assert ["d0"] == await consumers.reap(log, ["d0"])
    assert {"d0": 1} == await _consumers(log)
    assert {"d0", "d1"} == await _slots(log)
    _, claimed = await read.claim_idle(log, worlds.P, "d1", 0, 10)
    assert [entry_id] == [item.position.entry_id for item in claimed]
    assert [] == await consumers.reap(log, ["d0"])
    assert {"d1": 1} == await _consumers(log)
    assert {"d1"} == await _slots(log)


async def test_a_name_that_was_leased_meanwhile_is_not_forgotten(log: client.Log) -> None:
    await consumers.lease_name(log, "a")
    await consumers.reap(log, ["d0"])  # who looked had seen its lease end
    assert {"d0"} == await _slots(log)
    assert "d0" == await consumers.lease_name(log, "a", "d0")


async def test_who_waits_for_entries_under_a_reaped_name_still_gets_them(log: client.Log) -> None:
    waiting = asyncio.create_task(read.as_group(log, "d0", 10, block_ms=5_000))

    async def blocked() -> bool:
        return b"xreadgroup" in await log.command("CLIENT", "LIST", "TYPE", "NORMAL")

    await eventually(blocked)
    await consumers.reap(log, ["d0"])
    entry_id = await _event(log)
    assert [entry_id] == [item.position.entry_id for item in await waiting]
    assert {"d0": 1} == await _consumers(log)


async def test_a_name_that_was_leased_while_the_clock_was_ahead_is_ended_and_forgotten(log: client.Log) -> None:
    now_s, _ = await log.command("TIME")
    ends = int(now_s) * 1000 + 10 * consumers.LONGEST_LEASE_MS
    await log.command("HSET", log.keys.slots, "d0", f"gone {ends}")
    await consumers.lease_name(log, "lives", "d1")
    assert ["d0"] == await consumers.ended(log)
    assert [] == await consumers.reap(log, ["d0", "d1"])
    assert {"d1"} == await _slots(log)
