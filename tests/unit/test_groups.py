"""Events of one group go out one call after the other; those of others do not wait for them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpost.adapters import base
from outpost.adapters.shared import groups
from outpost.domain import delivery

LIMIT_S = 60.0


class Service:
    """Takes calls, each of which waits for `flow`. `calls` are the ids of each, `under_way` the groups of now."""

    def __init__(self, most: int = 3, calls: int = 8, *, together: bool = False) -> None:
        self.flow = asyncio.Event()
        self.flow.set()
        self.calls: list[list[str]] = []
        self.under_way: Counter[str] = Counter()
        self.turns = 0
        self.fault: Exception | None = None
        self.sends: groups.Groups[base.Delivery] = groups.Groups(self.post, most, calls, together=together)

    async def post(self, events: list[base.Delivery], _: float) -> list[delivery.Outcome]:
        names = [event.event_id for event in events]
        self.calls.append(names)
        together = {name.partition("-")[0] for name in names}
        assert not [group for group in together if group != "none" and self.under_way[group]]
        self.under_way.update(together)
        try:
            await self.flow.wait()
            for _ in range(self.turns and random.randrange(self.turns)):
                await asyncio.sleep(0)
            if self.fault is not None:
                raise self.fault
            return [delivery.Delivered(name) for name in names]
        finally:
            self.under_way.subtract(together)

    def send(self, *names: str, limit_s: float = LIMIT_S) -> asyncio.Task[list[str]]:
        """Names are `group-number`; those of the group `none` need no order."""
        events = [base.Delivery(name, "t", "2026-01-01T00:00:00Z", {}, b"{}", 1) for name in names]
        of = [None if name.startswith("none") else name.partition("-")[0] for name in names]
        return asyncio.create_task(self._codes(events, of, asyncio.get_running_loop().time() + limit_s))

    async def _codes(self, events: list[base.Delivery], of: list[str | None], deadline: float) -> list[str]:
        return [outcome.code for outcome in await self.sends.send(events, of, deadline)]


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_events_of_a_group_go_one_call_after_the_other():
    service = Service()
    service.flow.clear()
    tasks = [service.send("a-1", "a-2", "b-1"), service.send("a-3", "c-1"), service.send("none-1", "none-2")]
    await settled()
    assert [["a-1", "b-1"], ["c-1"], ["none-1", "none-2"]] == service.calls
    service.flow.set()
    assert [["a-1", "a-2", "b-1"], ["a-3", "c-1"], ["none-1", "none-2"]] == [await task for task in tasks]
    assert [["a-2"], ["a-3"]] == service.calls[3:]
    assert {} == service.sends._groups


async def test_where_a_call_keeps_the_order_it_carries_several_of_a_group():
    service = Service(together=True)
    assert ["a-1", "a-2", "a-3", "a-4"] == await service.send("a-1", "a-2", "a-3", "a-4")
    assert [["a-1", "a-2", "a-3"], ["a-4"]] == service.calls


async def test_no_more_calls_are_under_way_than_there_may_be():
    service = Service(most=1, calls=2)
    service.flow.clear()
    task = service.send(*(f"none-{n}" for n in range(5)))
    await settled()
    assert 2 == len(service.calls)
    service.flow.set()
    assert [f"none-{n}" for n in range(5)] == await task


async def test_who_gives_up_is_not_sent_any_more_and_its_call_keeps_the_group():
    service = Service()
    service.flow.clear()
    first, hurried = service.send("a-1", limit_s=0.05), service.send("a-2", limit_s=0.05)
    patient = service.send("a-3")
    assert [["timeout"], ["timeout"]] == [await first, await hurried]
    assert [["a-1"]] == service.calls
    service.flow.set()
    assert ["a-3"] == await patient
    assert [["a-1"], ["a-3"]] == service.calls


async def test_a_fault_is_that_of_those_in_the_call_and_the_group_goes_on():
    service = Service()
    service.fault = ValueError("broken")
    with pytest.raises(ValueError, match="broken"):
        await service.send("a-1")
    service.fault = None
    assert ["a-2"] == await service.send("a-2")


async def test_what_waits_at_the_end_fails():
    service = Service()
    service.flow.clear()
    tasks = [service.send("a-1"), service.send("a-2")]
    await settled()
    await service.sends.close()
    assert [["network_error"], ["network_error"]] == [await task for task in tasks]
    assert ["network_error"] == await service.send("b-1")
    assert 1 == len(service.calls)


@settings(max_examples=60, deadline=None)
@given(
    sends=st.lists(st.lists(st.sampled_from(["a", "b", "c", "none"]), min_size=1, max_size=7), max_size=12),
    most=st.integers(1, 5),
    calls=st.integers(1, 4),
    together=st.booleans(),
)
async def test_every_event_is_sent_once_and_each_group_in_its_order(
    sends: list[list[str]], most: int, calls: int, together: bool
):
    service = Service(most, calls, together=together)
    service.turns = 4
    numbers: Counter[str] = Counter()
    named: list[list[str]] = []
    for send in sends:
        numbers_before = Counter(numbers)
        numbers.update(send)
        seen: Counter[str] = Counter()
        batch = []
        for group in send:
            batch.append(f"{group}-{numbers_before[group] + seen[group]}")
            seen[group] += 1
        named.append(batch)
    assert named == await asyncio.gather(*(service.send(*batch) for batch in named))
    order: dict[str, list[int]] = defaultdict(list)
    for call in service.calls:
        assert len(call) <= most
        for name in call:
            group, _, number = name.partition("-")
            order[group].append(int(number))
        if not together:
            assert all(
                count == 1
                for group, count in Counter(n.partition("-")[0] for n in call).items()
                if group != "none"
            )
    for group, found in order.items():
        assert list(range(numbers[group])) == (sorted(found) if group == "none" else found)
    assert {} == service.sends._groups
