"""Publishers: one open way a destination and version, built once, bounded, closed only when nobody sends."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from outpost import crypto, errors
from outpost.adapters import registry
from outpost.dispatch import publishers as module
from tests.harness.fake_type import SEALER, Adapter, field
from tests.harness.polling import eventually

pytestmark = pytest.mark.behaviour(61)


@pytest.fixture
async def adapter() -> Adapter:
    return Adapter()


def opened(*adapters: Adapter, most: int = 100) -> module.Publishers:
    return module.Publishers(registry.Registry(adapters), SEALER, most)


async def test_concurrent_first_use_builds_once(adapter: Adapter):
    publishers = opened(adapter)
    adapter.gate.clear()
    uses = [asyncio.create_task(publishers.open("t", "d", field(1))) for _ in range(20)]
    await eventually(lambda: adapter.connects)
    adapter.gate.set()
    leases = await asyncio.gather(*uses)
    assert 1 == len(adapter.built)
    assert {id(leases[0])} == {id(lease) for lease in leases}
    assert 20 == leases[0].users


async def test_what_is_open_is_known_by_its_version_and_its_secrets_are_open(adapter: Adapter):
    publishers = opened(adapter)
    assert publishers.known("t", "d") is None
    lease = await publishers.open("t", "d", field(4))
    assert {"key": "k"} == adapter.built[0].destination.credentials
    publishers.give_back(lease)
    known = publishers.known("t", "d")
    assert known is lease
    assert (4, 1) == (known.version, known.users)


async def test_a_changed_destination_gets_a_new_publisher_and_the_old_one_is_closed(adapter: Adapter):
    publishers = opened(adapter)
    publishers.give_back(await publishers.open("t", "d", field(1, url="old")))
    lease = await publishers.open("t", "d", field(2, url="new"))
    await publishers.closed()
    assert [True, False] == [p.closed for p in adapter.built]
    assert lease.publisher is adapter.built[1]
    assert "new" == adapter.built[1].destination.config["url"]
    assert lease is publishers.known("t", "d")


async def test_a_publisher_in_use_is_closed_when_its_last_send_is_over(adapter: Adapter):
    publishers = opened(adapter)
    first = await publishers.open("t", "d", field(1))
    second = publishers.known("t", "d")
    assert second is first
    await publishers.open("t", "d", field(2))
    publishers.give_back(first)
    assert not adapter.built[0].closed
    publishers.give_back(first)
    await publishers.closed()
    assert adapter.built[0].closed


async def test_a_slow_build_of_an_older_state_does_not_displace_the_newer_one(adapter: Adapter):
    publishers = opened(adapter)
    adapter.gate.clear()
    slow = asyncio.create_task(publishers.open("t", "d", field(1)))
    await eventually(lambda: adapter.connects)
    adapter.gate, gate = asyncio.Event(), adapter.gate
    adapter.gate.set()
    newer = await publishers.open("t", "d", field(2))
    gate.set()
    older = await slow
    assert (1, 2) == (older.version, newer.version)
    assert newer is publishers.known("t", "d")
    publishers.give_back(older)
    assert older.publisher is None
    assert newer.publisher is not None


async def test_beyond_the_bound_the_least_recently_used_is_closed(adapter: Adapter):
    publishers = opened(adapter, most=2)
    for id_ in ("a", "b"):
        publishers.give_back(await publishers.open("t", id_, field(1, id_=id_)))
    used = publishers.known("t", "a")
    assert used is not None
    publishers.give_back(used)
    await publishers.open("t", "c", field(1, id_="c"))
    await publishers.closed()
    assert {"a": False, "b": True, "c": False} == {p.destination.id: p.closed for p in adapter.built}
    assert publishers.known("t", "b") is None


async def test_what_nobody_used_for_long_is_closed_and_use_extends_it(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
):
    publishers = opened(adapter)
    for id_ in ("idle", "fresh", "busy"):
        await publishers.open("t", id_, field(1, id_=id_))
    for id_ in ("idle", "fresh", "fresh"):  # opened once, and used once more below
        lease = publishers._leases["t", id_]
        if lease.users:
            publishers.give_back(lease)
    loop = asyncio.get_running_loop()
    for id_ in ("idle", "busy"):
        publishers._leases["t", id_].used_at = loop.time() - module.IDLE_S - 1
    publishers.close_idle()
    await publishers.closed()
    assert {"idle": True, "fresh": False, "busy": False} == {p.destination.id: p.closed for p in adapter.built}


async def test_closing_closes_all_that_nobody_uses(adapter: Adapter):
    publishers = opened(adapter)
    for id_ in ("a", "b"):
        publishers.give_back(await publishers.open("t", id_, field(1, id_=id_)))
    await publishers.close()
    assert [True, True] == [p.closed for p in adapter.built]


async def test_a_destination_that_cannot_be_used_is_kept_with_the_reason(adapter: Adapter):
    publishers = opened(adapter)
    adapter.failure = errors.Invalid([errors.Problem("config.url", "pattern")])
    lease = await publishers.open("t", "d", field(1))
    assert (None, "validation_failed") == (lease.publisher, lease.problem)
    other_key = field(1, id_="e", sealer=crypto.Sealer("another"))
    assert "validation_failed" == (await publishers.open("t", "e", other_key)).problem
    unknown = field(1, id_="f", type_="no-such-type")
    assert "client_creation_failed" == (await publishers.open("t", "f", unknown)).problem


async def test_a_build_that_fails_unexpectedly_is_remembered_briefly_and_then_tried_again(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
):
    publishers = opened(adapter)
    adapter.failure = RuntimeError("a bug of an adapter")
    assert "client_creation_failed" == (await publishers.open("t", "d", field(1))).problem
    adapter.failure = None
    assert publishers.known("t", "d") is None
    assert "client_creation_failed" == (await publishers.open("t", "d", field(1))).problem
    later = asyncio.get_running_loop().time() + module.FAILED_S + 1
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: later, raising=False)
    assert (await publishers.open("t", "d", field(1))).publisher is adapter.built[0]


async def used(publishers: module.Publishers, *ids: str, type_: str = "fake") -> None:
    """Opens and gives back, in this order."""
    for id_ in ids:
        publishers.give_back(await publishers.open("t", id_, field(1, id_=id_, type_=type_)))


async def test_beyond_the_bound_of_a_type_the_least_recently_used_of_that_type_is_closed():
    few, many = Adapter("few", max_open=2), Adapter("many")
    publishers = opened(few, many)
    await used(publishers, "old", "older", type_="many")
    await used(publishers, "a", "b", type_="few")
    fresh = publishers.known("t", "a")
    assert fresh is not None
    publishers.give_back(fresh)
    await used(publishers, "c", "d", type_="few")
    await publishers.closed()
    assert {"a": True, "b": True, "c": False, "d": False} == {p.destination.id: p.closed for p in few.built}
    assert [False, False] == [p.closed for p in many.built]


@pytest.mark.parametrize("max_open", [10, 10_000])
async def test_a_tenant_with_many_destinations_makes_room_for_those_with_few(max_open: int):
    """Whether a type bounds their number or only the process does."""
    few = Adapter("few", max_open=max_open)
    publishers = opened(few, most=20 if max_open == 10 else 10)
    opening = [("small", "d"), ("smaller", "d"), *(("large", f"d-{number}") for number in range(100))]
    for tenant, id_ in [*opening, ("newcomer", "d")]:
        told = field(1, tenant=tenant, id_=id_, type_="few")
        publishers.give_back(await publishers.open(tenant, id_, told))
    await publishers.closed()
    places = list(publishers._leases)
    assert [("small", "d"), ("smaller", "d"), ("newcomer", "d")] == [p for p in places if p[0] != "large"]
    assert [("large", f"d-{number}") for number in range(93, 100)] == [p for p in places if p[0] == "large"]
    await publishers.close()


async def test_a_changed_destination_takes_no_second_place_among_its_type():
    few = Adapter("few", max_open=2)
    publishers = opened(few)
    await used(publishers, "a", "b", type_="few")
    for version in (2, 3, 4):
        publishers.give_back(await publishers.open("t", "b", field(version, id_="b", type_="few")))
    await publishers.closed()
    assert [("a", False), ("b", True), ("b", True), ("b", True), ("b", False)] == [
        (p.destination.id, p.closed) for p in few.built
    ]


async def test_closing_is_beside_the_opener_and_one_that_hangs_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(module, "CLOSE_S", 0.1)
    few = Adapter("few", max_open=1)
    publishers = opened(few)
    few.closing.clear()
    async with asyncio.timeout(60):
        await used(publishers, *"abcdefgh", type_="few")
        assert not any(p.closed for p in few.built)
        await publishers.close()
    assert not any(p.closed for p in few.built)  # each was given up after its time


async def test_one_who_gives_up_waiting_takes_no_other_with_it(adapter: Adapter):
    publishers = opened(adapter)
    adapter.gate.clear()
    uses = [asyncio.create_task(publishers.open("t", "d", field(1))) for _ in range(3)]
    await eventually(lambda: adapter.connects)
    uses[0].cancel()
    await asyncio.sleep(0)
    adapter.gate.set()
    leases = [await use for use in uses[1:]]
    assert [2, 2] == [lease.users for lease in leases]
    assert leases[0] is publishers.known("t", "d")
    assert 1 == len(adapter.built)


async def test_one_who_gives_up_when_it_is_built_already_does_not_use_it(adapter: Adapter):
    publishers = opened(adapter)
    adapter.gate.clear()
    use = asyncio.create_task(publishers.open("t", "d", field(1)))
    await eventually(lambda: adapter.connects)
    adapter.gate.set()
    while not publishers._leases:
        await asyncio.sleep(0)
    use.cancel()
    await asyncio.gather(use, return_exceptions=True)
    assert use.cancelled()
    assert [0] == [lease.users for lease in publishers._leases.values()]


async def test_what_nobody_waits_for_any_more_is_there_for_the_next_one(adapter: Adapter):
    publishers = opened(adapter)
    adapter.gate.clear()
    use = asyncio.create_task(publishers.open("t", "d", field(1)))
    await eventually(lambda: adapter.connects)
    use.cancel()
    await asyncio.gather(use, return_exceptions=True)
    adapter.gate.set()
    lease = await publishers.open("t", "d", field(1))
    assert (1, lease.publisher) == (lease.users, adapter.built[0])
    assert 1 == len(adapter.built)
    publishers.give_back(lease)
    await publishers.close()
    assert adapter.built[0].closed


async def test_an_older_state_that_nobody_waits_for_any_more_is_closed(adapter: Adapter):
    publishers = opened(adapter)
    adapter.gate.clear()
    slow = asyncio.create_task(publishers.open("t", "d", field(1)))
    await eventually(lambda: adapter.connects)
    adapter.gate, gate = asyncio.Event(), adapter.gate
    adapter.gate.set()
    newer = await publishers.open("t", "d", field(2))
    slow.cancel()
    gate.set()
    await asyncio.gather(slow, return_exceptions=True)
    await eventually(lambda: [False, True] == [p.closed for p in adapter.built])  # of versions 2 and 1
    assert newer is publishers.known("t", "d")


async def test_one_that_makes_room_at_once_is_closed_after_its_last_use_and_not_used_again():
    """Both wait for the same build; before the second of them goes on, another destination takes the place."""
    few = Adapter("few", max_open=1)
    publishers = opened(few)
    few.gate.clear()
    first = [asyncio.create_task(publishers.open("t", "a", field(1, id_="a", type_="few"))) for _ in range(2)]
    other = asyncio.create_task(publishers.open("t", "b", field(1, id_="b", type_="few")))
    await eventually(lambda: few.connects == 2)
    few.gate.set()
    one, two = [await use for use in first]
    await other
    assert publishers.known("t", "a") is None
    publishers.give_back(one)
    assert one.publisher is not None
    publishers.give_back(two)
    assert one.publisher is None
    await publishers.closed()
    assert [True, False] == [p.closed for p in few.built]


async def test_closing_ends_what_is_being_built_and_what_is_in_use(adapter: Adapter):
    publishers = opened(adapter)
    await publishers.open("t", "busy", field(1, id_="busy"))
    adapter.gate.clear()
    use = asyncio.create_task(publishers.open("t", "d", field(1)))
    await eventually(lambda: adapter.connects == 2)
    await asyncio.wait_for(publishers.close(), 60)
    await asyncio.gather(use, return_exceptions=True)
    assert use.cancelled()
    assert [("busy", True)] == [(p.destination.id, p.closed) for p in adapter.built]


async def test_a_type_without_its_library_is_kept_with_what_to_install(adapter: Adapter):
    adapter.description = msgspec.structs.replace(adapter.description, unavailable="fake needs a library")
    lease = await opened(adapter).open("t", "d", field(1))
    assert (None, "fake needs a library") == (lease.publisher, lease.problem)
