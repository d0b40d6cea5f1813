"""The judged addresses of a host are tried one after the other, and the time is shared among them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from outpost.adapters.egress import addresses, connecting

JUDGED = ("192.0.2.1", "192.0.2.2", "192.0.2.3")


def _now() -> float:
    return asyncio.get_running_loop().time()


async def test_the_first_address_that_can_be_reached_is_taken() -> None:
    tried = []

    async def connect(address: str) -> str:
        tried.append(address)
        if address == JUDGED[0]:
            raise ConnectionRefusedError
        return address

    assert JUDGED[1] == await connecting.first_reachable(JUDGED, connect, _now() + 60)
    assert [*JUDGED[:2]] == tried


async def test_an_address_that_does_not_answer_leaves_time_for_the_others() -> None:
    async def connect(address: str) -> str:
        if address != JUDGED[2]:
            await asyncio.Event().wait()
        return address

    assert JUDGED[2] == await connecting.first_reachable(JUDGED, connect, _now() + 0.3)


async def test_the_last_failure_is_told() -> None:
    refusals = iter([ConnectionRefusedError(), ConnectionResetError(), TimeoutError(110, "timed out")])

    async def connect(_: str) -> None:
        raise next(refusals)

    with pytest.raises(TimeoutError, match="timed out"):
        await connecting.first_reachable(JUDGED, connect, _now() + 60)
    with pytest.raises(addresses.Unknown):
        await connecting.first_reachable((), connect, _now() + 60)


async def test_a_failure_that_no_other_address_mends_ends_it_at_once() -> None:
    tried = []

    async def connect(address: str) -> None:
        tried.append(address)
        raise ValueError(address)

    with pytest.raises(ValueError, match=JUDGED[0]):
        await connecting.first_reachable(JUDGED, connect, _now() + 60)
    assert [JUDGED[0]] == tried
    with pytest.raises(ValueError, match=JUDGED[2]):
        await connecting.first_reachable(JUDGED, connect, _now() + 60, lambda _: True)


async def test_whoever_is_cancelled_tries_no_other_address() -> None:
    tried = []
    begun = asyncio.Event()

    async def connect(address: str) -> None:
        tried.append(address)
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(connecting.first_reachable(JUDGED, connect, _now() + 60))
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert [JUDGED[0]] == tried


def _left(*seconds: float) -> Callable[[], float]:
    told = iter(seconds)
    return lambda: next(told)


def test_a_thread_gives_each_address_its_share_of_what_is_left() -> None:
    shares = []

    def connect(address: str, seconds: float) -> str:
        shares.append(seconds)
        if address != JUDGED[2]:
            raise TimeoutError
        return address

    assert JUDGED[2] == connecting.first_reachable_by_thread(JUDGED, connect, _left(9.0, 6.0, 5.0))
    assert [3.0, 3.0, 5.0] == shares
    with pytest.raises(addresses.Unknown):
        connecting.first_reachable_by_thread((), connect, _left())
