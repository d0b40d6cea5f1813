"""The path from publish to record while something goes wrong: replies get lost, Redis dies, pauses or forgets,
tenants change under a publish.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from types import ModuleType
from typing import Any

import pytest

from outpost import errors
from outpost.commands import matching, publish
from outpost.domain import events, filter_operators
from outpost.domain import tenant as tenants
from outpost.log import append, read
from outpost.log import partition as partitions
from outpost.log.delivery import consumers, tasks
from outpost.log.redis import client
from tests.harness import node as nodes
from tests.harness import receiver as receivers
from tests.harness.node import Node
from tests.harness.polling import eventually
from tests.harness.servers import REDIS_KINDS, RedisServer

TENANT = "acme"


@pytest.fixture
async def receiver() -> AsyncIterator[receivers.Receiver]:
    async with receivers.Receiver() as running:
        yield running


class LostReply:
    """Lets the first call of a function with a result of interest happen and loses its reply."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, wanted: Callable[[Any], bool] = bool
    ) -> None:
        self.lost: list[Any] = []
        real: Callable[..., Awaitable[Any]] = getattr(module, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            reply = await real(*args, **kwargs)
            if not self.lost and wanted(reply):
                self.lost.append(reply)
                raise errors.StoreUnavailable("redis", "TimeoutError")
            return reply

        monkeypatch.setattr(module, name, call)


@pytest.mark.behaviour(96)
@pytest.mark.parametrize(
    ("module", "name", "wanted"),
    [
        (read, "as_group", bool),
        (tasks, "open_entries", bool),
        (tasks, "begin", lambda reply: any(isinstance(a, tasks.Begun) for group in reply.values() for a in group)),
        (tasks, "record", bool),
        (tasks, "claim_due", lambda reply: any(claimed.tasks for claimed in reply.values())),
    ],
    ids=["read", "open", "begin", "record", "claim"],
)
async def test_a_lost_reply_delays_a_delivery_and_neither_loses_nor_doubles_it(
    redis70: RedisServer,
    receiver: receivers.Receiver,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    name: str,
    wanted: Callable[[Any], bool],
):
    lost = LostReply(monkeypatch, module, name, wanted)
    seen: set[str] = set()

    def fail_the_first(request: receivers.Request) -> receivers.Script:
        id_ = request.headers["x-outpost-event-id"]
        status = 200 if id_ in seen else 500
        seen.add(id_)
        return receivers.answer(status)

    receiver.always(fail_the_first)
    async with Node(redis70, delivery_watchdog_ms=1_000) as node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        await asyncio.gather(*(node.publish(TENANT, f"e{n}") for n in range(5)))
        await nodes.quiet(node.log)
        assert 1 == len(lost.lost)
        assert {f"e{n}": 2 for n in range(5)} == nodes.count(receiver.requests)
        expected = sorted((kind, f"e{n}", a) for n in range(5) for kind, a in (("failed", 1), ("succeeded", 2)))
        assert expected == sorted(
            (e.type.removeprefix("attempt."), e.event_id, e.task.attempt) for e in await nodes.attempts(node.log)
        )
        node.alive()


async def test_what_lies_pending_too_long_is_taken_over(
    any_redis: RedisServer, receiver: receivers.Receiver, monkeypatch: pytest.MonkeyPatch
):
    """Whoever holds it: a process that hangs goes on renewing nothing, and a reply can be lost."""
    monkeypatch.setattr("outpost.dispatch.dispatcher.SWEEP_EVERY_S", 0.1)
    monkeypatch.setattr("outpost.dispatch.dispatcher.SWEEP_IDLE_MS", 500)
    await _leave_pending(any_redis, receiver)
    async with Node(any_redis) as node:
        await nodes.quiet(node.log)
        assert {"before": 1, "e1": 1} == nodes.count(receiver.requests)
        assert b"d0" in await node.log.command("HKEYS", node.log.keys.slots)


async def test_what_a_dead_process_had_read_is_taken_over_when_its_lease_ends_and_its_name_is_reaped(
    any_redis: RedisServer, receiver: receivers.Receiver, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("outpost.dispatch.dispatcher.LOOK_EVERY_S", 0.1)
    monkeypatch.setattr("outpost.log.delivery.consumers.LEASE_MS", 1_500)
    monkeypatch.setattr("outpost.log.delivery.consumers.RENEW_MS", 300)
    await _leave_pending(any_redis, receiver)
    async with Node(any_redis) as node:
        await nodes.quiet(node.log)
        assert {"before": 1, "e1": 1} == nodes.count(receiver.requests)

        async def alone() -> bool:
            return [b"d1"] == await node.log.command("HKEYS", node.log.keys.slots)

        await eventually(alone)
        for keys in node.log.keys.partitions:
            found = await node.log.command("XINFO", "CONSUMERS", keys.evt, partitions.GROUP)
            assert b"d0" not in str(found).encode()


async def _leave_pending(server: RedisServer, receiver: receivers.Receiver) -> None:
    """One event is delivered; the next is read by a process that then dies, under the name `d0`."""
    async with Node(server) as node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        await node.publish(TENANT, "before")
        await nodes.quiet(node.log)
    async with Node(server, deliver=False) as dead:
        await dead.log.command("DEL", dead.log.keys.slots)
        await dead.publish(TENANT, "e1")
        assert "d0" == await consumers.lease_name(dead.log, "a-process-that-dies")
        assert 1 == len(await read.as_group(dead.log, "d0", 10))


@pytest.mark.parametrize("own_redis", REDIS_KINDS, indirect=True)
@pytest.mark.invariant("L1")
async def test_redis_killed_and_started_again_loses_nothing_that_was_acknowledged(
    own_redis: RedisServer, receiver: receivers.Receiver
):
    receiver.always(lambda r: receivers.after(0.05, receivers.answer(200 if r.target == "/good" else 500)))
    async with Node(own_redis) as node, Node(own_redis, deliver=False) as api:
        await api.tenant(TENANT)
        await api.webhook(TENANT, receiver.url("/good"))
        await api.webhook(TENANT, receiver.url("/bad"))
        acknowledged: list[str] = []
        refused: list[str] = []
        stop = asyncio.Event()

        async def keep_publishing(who: int) -> None:
            n = 0
            while not stop.is_set():
                id_, n = f"{who}.{n}", n + 1
                try:
                    await api.publish(TENANT, id_)
                    acknowledged.append(id_)
                except errors.StoreUnavailable:
                    refused.append(id_)
                await asyncio.sleep(0.01)

        publishers = [asyncio.create_task(keep_publishing(who)) for who in range(4)]
        for enough in (60, 140):
            await eventually(lambda enough=enough: len(acknowledged) > enough)
            own_redis.kill9()
            await eventually(lambda: not node.dispatcher.health.healthy)
            own_redis.start()
        await eventually(lambda: len(acknowledged) > 200)
        stop.set()
        await asyncio.gather(*publishers)
        await nodes.quiet(api.log)
        node.alive()
        stored = [event.id for _, event in await nodes.entries(api.log, "evt")]
        assert len(stored) == len(set(stored))
        assert set(acknowledged) <= set(stored) <= set(acknowledged) | set(refused)
        expected = {("/good", id_): 1 for id_ in stored} | {("/bad", id_): 3 for id_ in stored}
        seen = Counter((r.target, r.headers["x-outpost-event-id"]) for r in receiver.requests)
        assert expected == seen, "once, since it was Redis that died and not us"
        records = Counter((e.event_id, e.task) for e in await nodes.attempts(api.log))
        assert {1} == set(records.values())
        assert 4 * len(stored) == len(records)


@pytest.mark.invariant("D6")
async def test_what_was_sent_and_could_not_be_recorded_before_its_lease_ended_is_not_sent_again(
    redis70: RedisServer, receiver: receivers.Receiver, monkeypatch: pytest.MonkeyPatch
):
    """The scheduler claims it when the lease ends, as it would be right to if this process had died."""
    real, away, handed_over = tasks.record, asyncio.Event(), asyncio.Event()

    async def record(*args: Any) -> Any:
        if not away.is_set():
            raise errors.StoreUnavailable("redis", "TimeoutError")
        return await real(*args)

    monkeypatch.setattr(tasks, "record", record)
    async with Node(redis70, delivery_timeout_ms=300, delivery_lease_margin_ms=100) as node:
        receive = node.lanes.receive
        monkeypatch.setattr(
            node.lanes, "receive", lambda found: (receive(found), receiver.requests and handed_over.set())
        )
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        await node.publish(TENANT, "e1")
        await asyncio.wait_for(handed_over.wait(), 60)
        away.set()
        await nodes.quiet(node.log)
        assert {"e1": 1} == nodes.count(receiver.requests)
        assert 1 == len(await nodes.attempts(node.log))


async def test_all_loops_are_well_again_after_redis_was_away(own_redis: RedisServer, receiver: receivers.Receiver):
    release = asyncio.Event()
    receiver.always(lambda _: [receivers.WaitFor(release), *receivers.answer()])
    async with Node(own_redis, delivery_timeout_ms=10_000) as node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        await node.publish(TENANT, "e1")
        await eventually(lambda: receiver.requests)
        own_redis.kill9()
        release.set()
        loops = (node.worker, node.dispatcher, node.scheduler)
        await eventually(lambda: not any(loop.health.healthy for loop in loops))
        own_redis.start()
        await eventually(lambda: all(loop.health.healthy for loop in loops))
        await nodes.quiet(node.log)
        assert {"e1": 1} == nodes.count(receiver.requests)


@pytest.mark.invariant("D3")
async def test_a_group_that_an_operator_destroyed_is_made_again_and_nothing_is_lost(
    any_redis: RedisServer, receiver: receivers.Receiver
):
    receiver.always(receivers.after(0.02, receivers.answer()))
    async with Node(any_redis) as node, Node(any_redis, deliver=False) as api:
        await api.tenant(TENANT)
        await api.webhook(TENANT, receiver.url())
        key = api.log.keys.partitions[partitions.partition_of(TENANT)].evt
        for n in range(60):
            await api.publish(TENANT, f"e{n}")
            if n in (20, 40):
                await api.log.command("XGROUP", "DESTROY", key, partitions.GROUP)
        await eventually(lambda: 60 == len(nodes.count(receiver.requests)))
        await nodes.quiet(api.log)
        node.alive()
        records = Counter(e.event_id for e in await nodes.attempts(api.log))
        assert {f"e{n}": 1 for n in range(60)} == records


@pytest.mark.invariant("L2")
async def test_an_append_whose_reply_is_late_is_written_once_and_answered_as_the_first(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
):
    """L2: the same request goes out again, the server has both in its buffers, one entry comes of them."""
    monkeypatch.setattr(client, "COMMAND_TIMEOUT_S", 0.3)
    async with Node(own_redis, deliver=False) as node:
        await node.tenant(TENANT)
        await node.publish(TENANT, "warm")
        own_redis.pause()
        publishing = asyncio.gather(*(node.publish(TENANT, f"e{n}") for n in range(20)))
        await asyncio.sleep(1.0)  # not to synchronise: several tries have to go out
        own_redis.resume()
        published = await publishing
        found = await nodes.entries(node.log, "evt")
        assert ["warm", *(f"e{n}" for n in range(20))] == [event.id for _, event in found]
        assert [position for position, _ in found[1:]] == [p.position for p in published]
        assert not any(p.duplicate for p in published)


async def test_an_append_that_was_given_up_stands_once_or_not_at_all_and_may_be_repeated(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(client, "COMMAND_TIMEOUT_S", 0.3)
    monkeypatch.setattr(append, "APPEND_LIMIT_S", 0.6)
    async with Node(own_redis, deliver=False) as node:
        await node.tenant(TENANT)
        await node.publish(TENANT, "warm")
        own_redis.pause()
        outcomes = await asyncio.gather(
            *(node.publish(TENANT, f"e{n}") for n in range(20)), return_exceptions=True
        )
        assert {errors.StoreUnavailable} == {type(outcome) for outcome in outcomes}
        own_redis.resume()
        again = await asyncio.gather(*(node.publish(TENANT, f"e{n}") for n in range(20)))
        found = await nodes.entries(node.log, "evt")
        assert Counter(["warm", *(f"e{n}" for n in range(20))]) == Counter(event.id for _, event in found)
        assert {event.id: position for position, event in found[1:]} == {p.id: p.position for p in again}


@pytest.mark.invariant("R2")
async def test_a_repeated_id_gets_the_first_answer_from_any_process(any_redis: RedisServer):
    async with Node(any_redis, deliver=False) as one, Node(any_redis, deliver=False) as two:
        await one.tenant(TENANT)
        first_destination = await one.webhook(TENANT, "http://127.0.0.1:9/")
        first = await one.publish(TENANT, "e1")
        await two.webhook(TENANT, "http://127.0.0.1:9/")
        second = await two.publish(TENANT, "e1", b'{"other":1}')
        assert (first.id, (first_destination,), first.position) == (
            second.id,
            second.destinations,
            second.position,
        )
        assert (False, True) == (first.duplicate, second.duplicate)
        actor = nodes.new_actor()
        same = [await one.publish(TENANT, "e2", by=actor) for _ in range(2)]
        assert same[0] == same[1], "the same request, asked again"
        assert 2 == len(await nodes.entries(one.log, "evt"))


async def test_matches_are_right_although_the_tenant_changed_elsewhere_just_before(any_redis: RedisServer):
    async with Node(any_redis, deliver=False) as one, Node(any_redis, deliver=False) as two:
        await one.tenant(TENANT)
        kept = await one.webhook(TENANT, "http://127.0.0.1:9/")
        assert (kept,) == (await one.publish(TENANT, "e0")).destinations
        added = await two.webhook(TENANT, "http://127.0.0.1:9/")
        assert (kept, added) == (await one.publish(TENANT, "e1")).destinations
        await two.delete(TENANT, kept)
        assert (added,) == (await one.publish(TENANT, "e2")).destinations
        await two.patch(TENANT, added, topics=["other"])
        assert () == (await one.publish(TENANT, "e3")).destinations


@pytest.mark.invariant("L3")
async def test_no_event_carries_the_matches_of_another_version_than_the_one_at_its_place(any_redis: RedisServer):
    """L3, with two processes that publish while two change the tenant."""
    async with Node(any_redis, deliver=False) as one, Node(any_redis, deliver=False) as two:
        await one.tenant(TENANT)
        stop = asyncio.Event()

        async def keep_publishing(node: Node, who: str) -> int:
            n = contended = 0
            while not stop.is_set():
                try:
                    await node.publish(TENANT, f"{who}{n}")
                except errors.Contended:
                    contended += 1
                n += 1
            return contended

        async def change(node: Node) -> None:
            for n in range(30):
                id_ = await node.webhook(TENANT, "http://127.0.0.1:9/")
                await (node.disable(TENANT, id_) if n % 2 else node.delete(TENANT, id_))
            stop.set()

        await asyncio.gather(
            *(keep_publishing(node, who) for node in (one, two) for who in (f"{id(node)}a", f"{id(node)}b")),
            change(two),
        )
        await assert_matches_are_of_their_place(one)


async def assert_matches_are_of_their_place(node: Node) -> None:
    state, states, began = tenants.TenantState(), {}, {}
    for position, entry in await nodes.entries(node.log, "cfg"):
        assert isinstance(entry, events.ConfigChanged)
        state = tenants.evolve(state, entry.change)
        states[state.version], began[state.version] = state, position.ms
    found = await nodes.entries(node.log, "evt")
    assert len(found) > 30
    seen = defaultdict(int)
    for position, event in found:
        request = publish.Publish(TENANT, event.id, event.topic, event.time, event.data)
        assert matching.match(states[event.version], request, filter_operators.Run()) == event.matched
        assert began[event.version] <= position.ms <= began.get(event.version + 1, position.ms)
        seen[event.version] += 1
    assert len(seen) > 3


@pytest.mark.invariant("L4")
async def test_of_concurrent_commands_on_a_tenant_one_wins_each_version(any_redis: RedisServer):
    """L4: the others decide again on what is there then, and those that lose too often are told."""
    async with Node(any_redis, deliver=False) as one, Node(any_redis, deliver=False) as two:
        await one.tenant(TENANT)
        wanted = [f"d{n}" for n in range(12)]
        outcomes = await asyncio.gather(
            *((one, two)[n % 2].webhook(TENANT, "http://127.0.0.1:9/", id_) for n, id_ in enumerate(wanted)),
            return_exceptions=True,
        )
        won = {outcome for outcome in outcomes if isinstance(outcome, str)}
        lost = [outcome for outcome in outcomes if not isinstance(outcome, str)]
        assert {errors.Contended} >= {type(outcome) for outcome in lost}
        assert len(won) >= 5
        changes = [entry.change for _, entry in await nodes.entries(one.log, "cfg")]
        assert list(range(1, len(won) + 2)) == [change.version for change in changes]
        assert won == {change.id for change in changes[1:]}
        created = await asyncio.gather(
            *((one, two)[n % 2].webhook(TENANT, "http://127.0.0.1:9/", "same") for n in range(2)),
            return_exceptions=True,
        )
        assert {str, errors.Refused} == {type(outcome) for outcome in created}


async def test_the_limit_of_destinations_holds_under_concurrent_creation(redis70: RedisServer):
    async with Node(redis70, deliver=False, max_destinations_per_tenant=3) as node:
        await node.tenant(TENANT)
        outcomes = await asyncio.gather(
            *(node.webhook(TENANT, "http://127.0.0.1:9/") for _ in range(8)), return_exceptions=True
        )
        assert 3 == sum(isinstance(outcome, str) for outcome in outcomes)
