"""The publish queue against a real Redis: one message, one event, acknowledged after it is in the log."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping

import pytest

from outpost import errors
from outpost.commands import intake
from outpost.log import append
from outpost.log.redis import shapes
from outpost.queue import broker
from tests.harness.api_server import Api
from tests.harness.polling import eventually
from tests.harness.queues.memory import MemoryBroker, MemoryQueue


class Running:
    """A consumer of `queue` that publishes through `api`."""

    def __init__(self, api: Api, queue: MemoryQueue, limits: broker.Limits | None, dead_letters: bool) -> None:
        self.api = api
        self.broker = MemoryBroker(queue, limits, dead_letters)
        self.intake = intake.Intake(self.broker, api.deps.publisher, api.deps.settings, api.deps.now_ms)

    async def entries(self) -> list[tuple[str, str]]:
        """Tenant and id of every event in the log."""
        found = []
        for keys in self.api.log.keys.partitions:
            for _, flat in await self.api.log.command("XRANGE", keys.evt, "-", "+"):
                fields = shapes.pairs(flat)
                found.append((fields[b"ten"].decode(), fields[b"id"].decode()))
        return sorted(found)


@contextlib.asynccontextmanager
async def consuming(
    api: Api, queue: MemoryQueue, limits: broker.Limits | None = None, dead_letters: bool = True
) -> AsyncIterator[Running]:
    stop = asyncio.Event()
    running = Running(api, queue, limits, dead_letters)
    task = asyncio.create_task(running.intake.run(stop))
    try:
        yield running
    finally:
        stop.set()
        await asyncio.wait_for(task, 60)


def event(number: int | None, tenant: str = "acme", **changes: object) -> bytes:
    body: dict[str, object] = {"tenant_id": tenant, "topic": "user.created", "data": {"n": number}}
    if number is not None:
        body["id"] = f"e{number}"
    return json.dumps(body | changes).encode()


async def test_every_message_becomes_one_event_and_is_acknowledged(api: Api) -> None:
    queue = MemoryQueue()
    for number in range(300):
        queue.put(event(number, f"tenant-{number % 7}"))
    async with consuming(api, queue) as running:
        await eventually(lambda: queue.acknowledged == 300)
        assert sorted((f"tenant-{n % 7}", f"e{n}") for n in range(300)) == await running.entries()


@pytest.mark.parametrize("body", [event(1), event(None)], ids=["with an id", "without an id"])
async def test_a_message_that_comes_again_is_the_same_event(api: Api, body: bytes) -> None:
    queue = MemoryQueue()
    queue.eats_acknowledgements = True
    queue.put(body, "m-1")
    queue.put(body, "m-1")  # in one batch
    async with consuming(api, queue) as running:
        await eventually(lambda: len(queue.taken) == 2)
        await eventually(running.entries)
    queue.redeliver()
    queue.eats_acknowledgements = False
    async with consuming(api, queue) as running:  # as after a restart
        await eventually(lambda: queue.acknowledged == 2)
        assert 1 == len(await running.entries())


async def test_two_messages_that_share_a_message_id_and_not_a_body_are_two_events(api: Api) -> None:
    queue = MemoryQueue()
    queue.put(event(None, data={"n": 1}), "m-1")
    queue.put(event(None, data={"n": 2}), "m-1")
    async with consuming(api, queue) as running:
        await eventually(lambda: queue.acknowledged == 2)
        assert 2 == len(await running.entries())


async def test_without_any_id_a_message_is_an_event_of_its_own(api: Api) -> None:
    queue = MemoryQueue()
    queue.put(event(None), "")
    queue.put(event(None), "")
    async with consuming(api, queue) as running:
        await eventually(lambda: queue.acknowledged == 2)
        assert 2 == len(await running.entries())


POISON: Mapping[str, tuple[bytes, str]] = {
    "no JSON": (b"hello", "json"),
    "no object": (b"[1]", ""),
    "no tenant": (b'{"topic":"user.created","data":{}}', "tenant_id required"),
    "no topic of ours": (event(1, topic="no.such"), "topic"),
    "no data": (b'{"tenant_id":"acme","topic":"user.created"}', "data required"),
    "a secret where an object should be": (event(1, data="hunter2"), "data object"),
    "too large": (event(1, data={"x": "y" * 70_000}), "max_bytes"),
    "no UTF-8": (b'{"tenant_id":"\xff"}', ""),
}


@pytest.mark.parametrize(("body", "reason"), POISON.values(), ids=POISON)
async def test_what_breaks_a_rule_is_buried_with_path_and_rule_and_the_others_are_published(
    api: Api, body: bytes, reason: str
) -> None:
    queue = MemoryQueue()
    queue.put(event(1))
    queue.put(body)
    queue.put(event(2))
    async with consuming(api, queue) as running:
        await eventually(lambda: queue.acknowledged == 2 and queue.dead)
        assert [("acme", "e1"), ("acme", "e2")] == await running.entries()
    ((_, told),) = queue.dead
    assert reason in told
    assert "hunter2" not in told


async def test_without_dead_letters_poison_stays_at_the_longest_delay(api: Api) -> None:
    queue = MemoryQueue()
    queue.put(b"hello")
    async with consuming(api, queue, dead_letters=False) as running:
        await eventually(lambda: broker.LONGEST_DELAY_S in running.broker.given_back)
    assert not queue.acknowledged


async def test_while_the_log_takes_nothing_the_consumer_waits_and_keeps_what_is_in_hand(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = broker.Limits(message_bytes=262_144, call_messages=10, call_bytes=1 << 20, lock_s=0.03)
    queue = MemoryQueue()
    put, asked = api.commit.put, 0

    def refuse(partition: int, item: append.Item) -> asyncio.Future[append.Answer]:
        nonlocal asked
        asked += 1
        raise errors.OverBudget("redis", "the memory budget is used up")

    monkeypatch.setattr(api.commit, "put", refuse)
    await api.tenant()
    for number in range(150):
        queue.put(event(number))
    async with consuming(api, queue, limits) as running:
        await eventually(lambda: len(running.broker.extended) >= 3)
        in_hand = len(queue.taken)
        assert 0 < in_hand <= 2 * intake.RECEIVE_COUNT
        assert all(message.deliveries == 1 for message in queue.taken.values())
        monkeypatch.setattr(api.commit, "put", put)
        await eventually(lambda: queue.acknowledged == 150)
        assert 150 == len(await running.entries())


async def test_at_a_stop_what_the_log_did_not_take_goes_back(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = MemoryQueue()

    def refuse(partition: int, item: append.Item) -> asyncio.Future[append.Answer]:
        raise errors.StoreUnavailable("redis", "away")

    monkeypatch.setattr(api.commit, "put", refuse)
    await api.tenant()
    queue.put(event(1))
    async with consuming(api, queue) as running:
        await eventually(lambda: queue.taken)
    assert [0.0] == running.broker.given_back
    assert [1] == [message.deliveries for message in queue.ready]


async def test_a_broker_that_goes_away_is_connected_to_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "LONGEST_PAUSE_S", 0.1)
    queue = MemoryQueue()
    async with consuming(api, queue) as running:
        await eventually(lambda: running.broker.prepared == 1)
        queue.away = True
        await eventually(lambda: not running.intake.health.healthy)
        assert "connection_refused" in running.intake.health.reason
        queue.away = False
        queue.put(event(1))
        await eventually(lambda: queue.acknowledged == 1)
        assert running.intake.health.healthy
