"""Senders: what waits for one publisher goes out together, every sending gets its own outcome, nothing hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from outpost.adapters import base, registry
from outpost.dispatch import publishers, senders
from outpost.domain import delivery, events
from outpost.queue import base as queues
from tests.harness.fake_type import SEALER, Adapter, Publisher, field
from tests.harness.polling import eventually

SLOTS = 8
LIMITS = senders.Limits(SLOTS, timeout_ms=5_000, margin_ms=1_000)


class Scene:
    """Senders over publishers of the fake type; `done` are the sendings that have their outcome."""

    def __init__(self, adapter: Adapter, limits: senders.Limits = LIMITS) -> None:
        self.adapter = adapter
        self.publishers = publishers.Publishers(registry.Registry([adapter]), SEALER)
        self.senders = senders.Senders(self.publishers, limits, self._finished)
        self.done: list[senders.Sending] = []
        self._tasks: list[asyncio.Task[None]] = []

    def watch(self) -> None:
        self._tasks.append(asyncio.create_task(self.senders.watch()))

    def cold(self, *numbers: int, destination: str = "d") -> None:
        """Puts events whose destination has no publisher yet."""
        for number in numbers:
            self.senders.put(sending(number, destination, field(1, id_=destination), None))
        self.senders.staff()

    def warm(self, *numbers: int, destination: str = "d") -> None:
        """Puts events whose publisher is open."""
        for number in numbers:
            lease = self.publishers.known("t", destination)
            assert lease is not None
            self.senders.put(sending(number, destination, None, lease))
        self.senders.staff()

    async def open(self, destination: str = "d") -> publishers.Lease:
        """Opens the publisher, which is then known."""
        lease = await self.publishers.open("t", destination, field(1, id_=destination))
        self.publishers.give_back(lease)
        return lease

    async def outcomes(self, count: int) -> dict[str, delivery.Outcome]:
        """By event, when that many sendings are over."""
        await eventually(lambda: len(self.done) >= count)
        assert count == len(self.done)
        found: dict[str, delivery.Outcome] = {}
        for each in self.done:
            assert each.outcome is not None
            found[each.task.event.id] = each.outcome
        return found

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait_for(self.senders.close(), 60)
        self.adapter.closing.set()
        await self.publishers.close()

    def _finished(self, finished: senders.Sending) -> None:
        self.done.append(finished)
        if finished.lease is not None:
            self.publishers.give_back(finished.lease)


def sending(number: int, destination: str, state: bytes | None, lease: publishers.Lease | None) -> senders.Sending:
    id_ = delivery.TaskId(1, f"{number}-0", destination, 1)
    event = events.Event("t", f"e{number}", 1, "topic", "", True, {}, (), "admin/r", b"{}")
    return senders.Sending(queues.Task(3, str(id_), id_, event), False, state, lease)


@pytest.fixture
async def scenes() -> AsyncIterator[list[Scene]]:
    """Those in it are closed after the test."""
    made: list[Scene] = []
    yield made
    for scene in made:
        await scene.close()


def made(scenes: list[Scene], limits: senders.Limits = LIMITS, **adapter: int) -> Scene:
    scenes.append(Scene(Adapter(**adapter), limits))
    return scenes[-1]


def delivered(*numbers: int) -> dict[str, delivery.Outcome]:
    return {f"e{number}": delivery.Delivered(f"e{number}") for number in numbers}


async def test_what_waits_for_one_publisher_goes_together_as_far_as_it_takes(scenes: list[Scene]):
    scene = made(scenes, max_batch=4)
    await scene.open()
    scene.warm(*range(10))
    assert delivered(*range(10)) == await scene.outcomes(10)
    assert [4, 4, 2] == [len(batch) for batch in scene.adapter.batches]
    assert [f"e{n}" for n in range(10)] == [id_ for batch in scene.adapter.batches for id_ in batch]


async def test_nothing_waits_for_a_batch_to_fill(scenes: list[Scene]):
    """The first goes at once, alone, and those that come while it is under way go beside it."""
    scene = made(scenes, max_batch=100)
    await scene.open()
    scene.adapter.sending.clear()
    scene.warm(1)
    await eventually(lambda: scene.adapter.batches == [["e1"]])
    scene.warm(2, 3)
    await eventually(lambda: scene.adapter.batches == [["e1"], ["e2", "e3"]])
    scene.adapter.sending.set()
    assert delivered(1, 2, 3) == await scene.outcomes(3)


async def test_a_publisher_that_takes_one_gets_one(scenes: list[Scene]):
    scene = made(scenes, max_batch=1)
    await scene.open()
    scene.warm(*range(5))
    assert delivered(*range(5)) == await scene.outcomes(5)
    assert [1] * 5 == [len(batch) for batch in scene.adapter.batches]


@pytest.mark.parametrize(("max_batch", "sizes"), [(10, [6]), (4, [4, 2]), (1, [1] * 6)])
async def test_what_waits_for_a_publisher_to_be_opened_goes_together_too(
    scenes: list[Scene], max_batch: int, sizes: list[int]
):
    scene = made(scenes, max_batch=max_batch)
    scene.adapter.gate.clear()
    scene.cold(*range(6))
    await asyncio.sleep(0)
    scene.adapter.gate.set()
    assert delivered(*range(6)) == await scene.outcomes(6)
    assert sizes == [len(batch) for batch in scene.adapter.batches]
    assert 1 == len(scene.adapter.built)
    assert [0] == [lease.users for lease in scene.publishers._leases.values()]


async def test_what_comes_while_a_publisher_is_opened_waits_for_the_same_one(scenes: list[Scene]):
    scene = made(scenes, max_batch=10)
    scene.adapter.gate.clear()
    scene.cold(1, 2)
    await eventually(lambda: scene.publishers._building)
    scene.cold(3)
    scene.adapter.gate.set()
    assert delivered(1, 2, 3) == await scene.outcomes(3)
    assert 1 == len(scene.adapter.built)
    assert [0] == [lease.users for lease in scene.publishers._leases.values()]


async def test_each_gets_the_outcome_in_its_place(scenes: list[Scene], monkeypatch: pytest.MonkeyPatch):
    async def send(self: Publisher, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        return [
            delivery.Failed("bad") if event.event_id == "e1" else delivery.Delivered(event.event_id)
            for event in batch
        ]

    monkeypatch.setattr(Publisher, "send", send)
    scene = made(scenes, max_batch=10)
    await scene.open()
    scene.warm(0, 1, 2)
    assert delivered(0, 2) | {"e1": delivery.Failed("bad")} == await scene.outcomes(3)


async def test_what_a_publisher_raises_fails_its_group_and_no_other(scenes: list[Scene]):
    scene = made(scenes, max_batch=10)
    await scene.open()
    scene.adapter.send_failure = RuntimeError("a bug of an adapter")
    scene.warm(1, 2)
    assert {"e1": senders.FAULTY, "e2": senders.FAULTY} == await scene.outcomes(2)
    scene.adapter.send_failure = None
    scene.warm(3)
    assert delivered(3).items() <= (await scene.outcomes(3)).items()


async def test_too_few_outcomes_fail_the_group(scenes: list[Scene], monkeypatch: pytest.MonkeyPatch):
    async def send(self: Publisher, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        return [delivery.Delivered("OK")]

    monkeypatch.setattr(Publisher, "send", send)
    scene = made(scenes, max_batch=10)
    await scene.open()
    scene.warm(1, 2)
    assert {"e1": senders.FAULTY, "e2": senders.FAULTY} == await scene.outcomes(2)


async def test_a_publisher_that_cannot_be_opened_fails_all_that_wait_for_it(scenes: list[Scene]):
    scene = made(scenes, max_batch=10)
    scene.adapter.failure = RuntimeError("a bug of an adapter")
    scene.cold(1, 2)
    failed = delivery.Failed("ERR", {"error": "client_creation_failed"})
    assert {"e1": failed, "e2": failed} == await scene.outcomes(2)


async def test_a_state_that_cannot_be_read_fails_what_waits_for_it(scenes: list[Scene]):
    scene = made(scenes)
    scene.senders.put(sending(1, "d", b"no state", None))
    scene.senders.staff()
    assert {"e1": senders.FAULTY} == await scene.outcomes(1)


async def test_destinations_take_turns_however_much_waits_for_one(scenes: list[Scene]):
    """One sender: after a batch of the crowded destination, the others are next."""
    scene = made(scenes, senders.Limits(1, 5_000, 1_000), max_batch=2)
    for destination in ("crowded", "b", "c"):
        await scene.open(destination)
    scene.warm(*range(6), destination="crowded")
    scene.warm(10, destination="b")
    scene.warm(20, destination="c")
    await scene.outcomes(8)
    assert [["e0", "e1"], ["e10"], ["e20"], ["e2", "e3"], ["e4", "e5"]] == scene.adapter.batches


async def test_fifty_destinations_at_once_are_each_sent_to(scenes: list[Scene]):
    scene = made(scenes, max_batch=10)
    for number in range(50):
        scene.cold(2 * number, 2 * number + 1, destination=f"d{number}")
    assert delivered(*range(100)) == await scene.outcomes(100)
    assert SLOTS >= len(scene.senders._tasks)
    assert {2} == {len(batch) for batch in scene.adapter.batches}


async def test_a_group_that_overruns_its_deadline_is_cut_off_as_a_timeout(scenes: list[Scene]):
    scene = made(scenes, senders.Limits(2, timeout_ms=100, margin_ms=100), max_batch=10)
    scene.watch()
    await scene.open()
    scene.adapter.sending.clear()
    scene.warm(1, 2)
    late = delivery.Failed("timeout")
    assert {"e1": late, "e2": late} == await scene.outcomes(2)
    scene.adapter.sending.set()
    scene.warm(3)
    assert delivered(3).items() <= (await scene.outcomes(3)).items()  # its sender lives


async def test_opening_that_overruns_is_cut_off_as_a_timeout_too(scenes: list[Scene]):
    scene = made(scenes, senders.Limits(2, timeout_ms=100, margin_ms=100), max_batch=10)
    scene.watch()
    scene.adapter.gate.clear()
    scene.cold(1, 2)
    late = delivery.Failed("timeout")
    assert {"e1": late, "e2": late} == await scene.outcomes(2)
    scene.adapter.gate.set()
    scene.cold(3)
    assert delivered(3).items() <= (await scene.outcomes(3)).items()
    assert 1 == len(scene.adapter.built)


async def test_the_time_that_opening_took_is_not_given_again_to_sending(scenes: list[Scene]):
    scene = made(scenes)
    scene.adapter.gate.clear()
    began = asyncio.get_running_loop().time()
    scene.cold(1)
    await eventually(lambda: scene.publishers._building)
    before = asyncio.get_running_loop().time()
    await eventually(lambda: asyncio.get_running_loop().time() > before + 0.2)
    scene.adapter.gate.set()
    await scene.outcomes(1)
    [deadline] = scene.adapter.deadlines
    assert began + 5.0 <= deadline <= before + 5.0
    assert scene.done[0].took_ms >= 200


async def test_a_publisher_that_does_not_hear_of_its_end_costs_no_sender(
    scenes: list[Scene], monkeypatch: pytest.MonkeyPatch
):
    async def deaf(self: Publisher, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return [delivery.Delivered(event.event_id) for event in batch]
        raise AssertionError

    monkeypatch.setattr(Publisher, "send", deaf)
    scene = made(scenes, senders.Limits(1, timeout_ms=50, margin_ms=50))
    scene.watch()
    await scene.open()
    for number in (1, 2, 3):
        scene.warm(number)
        await scene.outcomes(number)
    assert delivered(1, 2, 3) == await scene.outcomes(3)
    scene.warm(4)
    await eventually(lambda: scene.senders._under_way)
    await asyncio.wait_for(scene.senders.close(), 60)


async def test_a_cancellation_that_nobody_asked_for_is_a_fault_of_the_adapter(scenes: list[Scene]):
    """Of a task inside its library, for one: the sender lives, and the delivery has its outcome."""
    scene = made(scenes)
    await scene.open()
    scene.adapter.send_failure = asyncio.CancelledError()
    scene.warm(1)
    assert {"e1": senders.FAULTY} == await scene.outcomes(1)
    scene.adapter.send_failure = None
    scene.warm(2)
    assert delivered(2).items() <= (await scene.outcomes(2)).items()
    assert [False] == [task.done() for task in scene.senders._tasks]


async def test_closing_cuts_off_what_is_under_way_without_an_outcome(scenes: list[Scene]):
    scene = made(scenes, max_batch=10)
    await scene.open()
    scene.adapter.sending.clear()
    scene.warm(1, 2)
    await eventually(lambda: scene.adapter.batches)
    await scene.senders.close()
    assert [] == scene.done
