"""Sends that share a connection which takes one at a time."""

from __future__ import annotations

import asyncio

import pytest

from outpost.adapters import base
from outpost.adapters.shared import batches
from outpost.domain import delivery
from tests.harness import cycles

LIMIT_S = 60.0  # only what fails waits so long


class Wire:
    """Posts wait for `flow`; `posted` are the ids of each, `cut` counts those that were cut off."""

    def __init__(self) -> None:
        self.flow = asyncio.Event()
        self.began = asyncio.Event()
        self.posted: list[list[str]] = []
        self.cut = 0
        self.together = batches.Batches(self.post, 3)

    async def post(self, events: list[base.Delivery]) -> list[delivery.Outcome]:
        self.posted.append([event.event_id for event in events])
        self.began.set()
        try:
            await self.flow.wait()
        except asyncio.CancelledError:
            self.cut += 1
            raise
        return [delivery.Delivered(event.event_id) for event in events]

    def send(self, *ids: str, limit_s: float = LIMIT_S) -> asyncio.Task[list[str]]:
        events = [base.Delivery(name, "t", "2026-01-01T00:00:00Z", {}, b"{}", 1) for name in ids]
        return asyncio.create_task(self._codes(events, asyncio.get_running_loop().time() + limit_s))

    async def _codes(self, events: list[base.Delivery], deadline: float) -> list[str]:
        return [outcome.code for outcome in await self.together.send(events, deadline)]


@pytest.fixture
async def wire() -> Wire:
    return Wire()


async def test_what_comes_while_one_is_under_way_goes_out_together(wire: Wire):
    first = wire.send("a")
    await wire.began.wait()
    rest = [wire.send("b"), wire.send("c"), wire.send("d"), wire.send("e")]
    await asyncio.sleep(0)
    wire.flow.set()
    assert [["a"], ["b"], ["c"], ["d"], ["e"]] == [await task for task in (first, *rest)]
    assert [["a"], ["b", "c", "d"], ["e"]] == wire.posted


async def test_the_events_of_one_send_stay_together(wire: Wire):
    wire.flow.set()
    sent = [wire.send("a", "b"), wire.send("c", "d"), wire.send("e", "f", "g", "h")]
    assert [["a", "b"], ["c", "d"], ["e", "f", "g", "h"]] == [await task for task in sent]
    assert [["a", "b"], ["c", "d"], ["e", "f", "g", "h"]] == wire.posted


async def test_a_send_that_gives_up_does_not_take_the_others_with_it(wire: Wire):
    first = wire.send("a")
    await wire.began.wait()
    short, patient = wire.send("b", limit_s=0.01), wire.send("c")
    assert ["timeout"] == await short
    wire.flow.set()
    assert (["a"], ["c"]) == (await first, await patient)
    assert [["a"], ["c"]] == wire.posted
    assert 0 == wire.cut


async def test_a_post_goes_on_while_anybody_waits_for_it_and_is_cut_off_then(wire: Wire):
    blocked = wire.send("a", limit_s=0.01)
    await wire.began.wait()
    short, patient = wire.send("b", limit_s=2.0), wire.send("c")
    assert ["timeout"] == await blocked
    assert ["timeout"] == await short
    assert 1 == wire.cut  # the one of `a`; that of `b` and `c` is still waited for
    assert [["a"], ["b", "c"]] == wire.posted
    patient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await patient
    await asyncio.sleep(0)
    assert 2 == wire.cut


async def test_closing_fails_all_that_wait_and_cuts_off_what_is_under_way(wire: Wire):
    first = wire.send("a")
    await wire.began.wait()
    second = wire.send("b")
    await asyncio.sleep(0)
    await wire.together.close()
    assert (["network_error"], ["network_error"]) == (await first, await second)
    assert 1 == wire.cut
    assert ["network_error"] == await wire.send("c")


async def test_a_post_that_raises_raises_for_those_who_wait_for_it():
    async def broken(events: list[base.Delivery]) -> list[delivery.Outcome]:
        raise ValueError(len(events))

    sends = batches.Batches(broken, 2)
    event = base.Delivery("a", "t", "2026-01-01T00:00:00Z", {}, b"{}", 1)
    for _ in range(2):
        with pytest.raises(ValueError, match="1"):
            await sends.send([event], asyncio.get_running_loop().time() + LIMIT_S)


EVENT_BYTES = 100_000


@pytest.mark.parametrize("ending", ["success", "error", "time-out", "cancelled", "closed"])
async def test_however_a_send_ends_it_leaves_no_cycle(ending: str):
    loop = asyncio.get_running_loop()

    async def use() -> None:
        arrived = asyncio.Event()

        async def post(events: list[base.Delivery]) -> list[delivery.Outcome]:
            arrived.set()
            if ending == "error":
                raise RuntimeError("a bug of the library")
            if ending != "success":
                await asyncio.Event().wait()
            return [delivery.Delivered(event.event_id) for event in events]

        one = batches.Batches(post, 3)
        until = loop.time() + (0.01 if ending == "time-out" else 60)
        sends = [
            asyncio.ensure_future(
                one.send([base.Delivery(name, "t", "2026-01-01T00:00:00Z", {}, bytes(EVENT_BYTES), 1)], until)
            )
            for name in "abcd"
        ]
        await arrived.wait()
        if ending == "cancelled":
            for send in sends:
                send.cancel()
        if ending == "closed":
            await one.close()
        await asyncio.gather(*sends, return_exceptions=True)
        await one.close()

    left = await cycles.left_behind(use)
    assert ({}, 0) == (dict(left.types), left.payload_bytes), left
