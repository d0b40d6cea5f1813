"""From publish to the destination and back into the log, in one process and in several, without crashes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from outpost.adapters.webhook import type as webhook
from outpost.dispatch import worker
from outpost.domain import events
from outpost.log import read
from projections.due import repair
from tests.harness import node as nodes
from tests.harness import receiver as receivers
from tests.harness.node import Node
from tests.harness.polling import eventually
from tests.harness.servers import RedisServer

TENANT = "acme"
AT_ONCE = 50  # publishes, so that none waits for seconds on a busy machine


@pytest.fixture
async def receiver() -> AsyncIterator[receivers.Receiver]:
    async with receivers.Receiver() as running:
        yield running


def told(entries: list[events.DeliveryEntry]) -> list[tuple[str, str, int]]:
    """Kind, event and attempt number of each entry."""
    return [(entry.type, entry.event_id, entry.task.attempt) for entry in entries]


def codes(entries: list[events.DeliveryEntry]) -> list[tuple[int, str, str]]:
    """Attempt number, code and what follows."""
    return [(e.task.attempt, e.detail.code, e.detail.next) for e in entries if e.detail is not None]


@pytest.mark.behaviour(27)
async def test_an_event_goes_byte_for_byte_to_its_destination_and_its_attempt_into_the_log(
    any_redis: RedisServer, receiver: receivers.Receiver
):
    data = b'{"z": 1,  "a": [ ], "\\u00e9":"\\u0041"}'
    async with Node(any_redis) as node:
        await node.tenant(TENANT)
        id_ = await node.webhook(TENANT, receiver.url("/hook"))
        published = await node.publish(TENANT, "e1", data)
        await nodes.quiet(node.log)
        assert ("e1", False, (id_,)) == (published.id, published.duplicate, published.destinations)
        assert [(data, "e1", "user.created")] == [
            (r.body, r.headers["x-outpost-event-id"], r.headers["x-outpost-topic"]) for r in receiver.requests
        ]
        [entry] = await nodes.attempts(node.log)
        assert ("attempt.succeeded", "e1", 1) == told([entry])[0]
        assert [(1, "200", "none")] == codes([entry])
        assert (published.position.entry_id, id_) == (entry.task.event, entry.task.destination)
        assert "webhook" == entry.detail.destination_type
        assert entry.detail.took_ms < 1_000
        assert abs(entry.detail.started_ms - nodes.now_ms()) < 10_000


async def test_an_event_that_matches_nothing_is_stored_and_opened(redis70: RedisServer):
    async with Node(redis70) as node:
        published = await node.publish("nobody", "e1")
        await nodes.quiet(node.log)
        assert () == published.destinations
        assert ["e1"] == [event.id for _, event in await nodes.entries(node.log, "evt")]
        assert [] == await nodes.attempts(node.log)


@pytest.mark.behaviour(25)
async def test_an_event_reaches_every_destination_of_its_topic_once(
    any_redis: RedisServer, receiver: receivers.Receiver
):
    async with Node(any_redis) as node:
        await node.tenant(TENANT)
        for n in range(8):
            await node.webhook(TENANT, receiver.url(f"/{n}"), topics=["user.created"] if n < 6 else ["other"])
        await asyncio.gather(*(node.publish(TENANT, f"e{n}") for n in range(10)))
        await nodes.quiet(node.log)
        seen = sorted((r.target, r.headers["x-outpost-event-id"]) for r in receiver.requests)
        assert sorted((f"/{d}", f"e{n}") for d in range(6) for n in range(10)) == seen
        assert 60 == len(await nodes.attempts(node.log))


@pytest.mark.behaviour(92, 93, 94)
async def test_failures_are_retried_after_the_schedule_until_it_is_used_up(
    any_redis: RedisServer, receiver: receivers.Receiver
):
    times: list[float] = []

    def fail(_: receivers.Request) -> receivers.Script:
        times.append(time.monotonic())
        return receivers.answer(503, b"no")

    receiver.always(fail)
    async with Node(any_redis, retry_schedule_ms=(300, 600)) as node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        await node.publish(TENANT, "e1")
        await nodes.quiet(node.log)
        found = await nodes.attempts(node.log)
        assert [(1, "503", "auto"), (2, "503", "auto"), (3, "503", "none")] == codes(found)
        assert [300, 600, None] == [entry.detail.retry_in_ms for entry in found]
        assert 0.3 <= times[1] - times[0]
        assert 0.6 <= times[2] - times[1]


@pytest.mark.behaviour(92)
async def test_a_retry_that_succeeds_ends_the_delivery(redis70: RedisServer, receiver: receivers.Receiver):
    receiver.then(receivers.answer(500), receivers.answer(301, b"", "Location: /elsewhere"))
    async with Node(redis70) as node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        await node.publish(TENANT, "e1")
        await nodes.quiet(node.log)
        assert [(1, "500", "auto"), (2, "301", "auto"), (3, "200", "none")] == codes(
            await nodes.attempts(node.log)
        )
        assert ["e1"] * 3 == [r.headers["x-outpost-event-id"] for r in receiver.requests]


async def test_a_retry_is_made_by_a_process_that_knew_nothing_of_the_delivery(
    redis70: RedisServer, receiver: receivers.Receiver
):
    """The retry stands in `due` and nowhere else."""
    receiver.then(receivers.answer(500))
    async with Node(redis70, retry_schedule_ms=(1_500,)) as node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        await node.publish(TENANT, "e1")
        await eventually(lambda: nodes.attempts(node.log))
    async with Node(redis70, retry_schedule_ms=(1_500,)) as other:
        await nodes.quiet(other.log)
        assert [(1, "500", "auto"), (2, "200", "none")] == codes(await nodes.attempts(other.log))


@pytest.mark.behaviour(92, 94)
async def test_an_event_that_is_not_eligible_is_tried_once(redis70: RedisServer, receiver: receivers.Receiver):
    receiver.always(receivers.answer(500))
    async with Node(redis70) as node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        await node.publish(TENANT, "e1", eligible=False)
        await nodes.quiet(node.log)
        assert [(1, "500", "none")] == codes(await nodes.attempts(node.log))


async def test_a_blocked_address_is_recorded_and_not_retried(redis70: RedisServer, receiver: receivers.Receiver):
    async with Node(redis70, destinations_allowed_cidrs=()) as node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        await node.publish(TENANT, "e1")
        await nodes.quiet(node.log)
        assert [(1, "blocked_address", "none")] == codes(await nodes.attempts(node.log))
        assert [] == receiver.requests


@pytest.mark.behaviour(104)
async def test_a_destination_whose_secrets_do_not_open_fails_with_the_reason_and_is_retried(
    redis70: RedisServer, receiver: receivers.Receiver
):
    async with Node(redis70, deliver=False, aes_encryption_secret="the key before") as before:
        await before.tenant(TENANT)
        await before.webhook(TENANT, receiver.url())
    async with Node(redis70, retry_schedule_ms=(50,)) as node:
        await node.publish(TENANT, "e1")
        await nodes.quiet(node.log)
        found = await nodes.attempts(node.log)
        assert [(1, "ERR", "auto"), (2, "ERR", "none")] == codes(found)
        assert b'{"error":"validation_failed"}' == bytes(found[0].detail.response_data)


async def test_an_adapter_that_raises_makes_a_failed_attempt(
    redis70: RedisServer, receiver: receivers.Receiver, monkeypatch: pytest.MonkeyPatch
):
    async def broken(*_: Any) -> Any:
        raise RuntimeError("a bug")

    async with Node(redis70, retry_schedule_ms=(50,)) as node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        monkeypatch.setattr(webhook.Publisher, "send", broken)
        await node.publish(TENANT, "e1")
        await eventually(lambda: nodes.attempts(node.log))
        monkeypatch.undo()
        await nodes.quiet(node.log)
        assert [(1, "ERR", "auto"), (2, "200", "none")] == codes(await nodes.attempts(node.log))


async def test_a_send_that_overruns_its_deadline_is_cut_off_while_its_lease_holds(
    redis70: RedisServer, receiver: receivers.Receiver, monkeypatch: pytest.MonkeyPatch
):
    async def endless(*_: Any) -> Any:
        await asyncio.Event().wait()

    async with Node(redis70, delivery_timeout_ms=200, delivery_lease_margin_ms=600) as node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        monkeypatch.setattr(webhook.Publisher, "send", endless)
        await node.publish(TENANT, "e1")
        await eventually(lambda: nodes.attempts(node.log))
        monkeypatch.undo()
        await nodes.quiet(node.log)
        found = await nodes.attempts(node.log)
        assert [(1, "timeout", "auto"), (2, "200", "none")] == codes(found)
        assert 500 <= found[0].detail.took_ms < 800


async def test_a_worker_that_can_no_longer_record_ends_instead_of_delivering_nothing_in_silence(
    redis70: RedisServer, receiver: receivers.Receiver, monkeypatch: pytest.MonkeyPatch
):
    async def broken(*_: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(worker.Worker, "_record", broken)
    node = await Node(redis70).__aenter__()
    await node.tenant(TENANT)
    await node.webhook(TENANT, receiver.url())
    await node.publish(TENANT, "e1")
    await eventually(lambda: any(task.done() for task in node._tasks))
    with pytest.raises(RuntimeError, match="a bug"):
        await node.stop()
    async with Node(redis70) as other:
        monkeypatch.undo()
        await nodes.quiet(other.log)
        assert [(1, "200", "none")] == codes(await nodes.attempts(other.log))


@pytest.mark.behaviour(22, 95)
@pytest.mark.invariant("D5")
async def test_a_destination_disabled_before_the_attempt_gets_nothing_and_the_log_says_skipped(
    any_redis: RedisServer, receiver: receivers.Receiver
):
    async with Node(any_redis, deliver=False) as api:
        await api.tenant(TENANT)
        id_ = await api.webhook(TENANT, receiver.url())
        await api.publish(TENANT, "before")
        await api.disable(TENANT, id_)
        assert () == (await api.publish(TENANT, "while")).destinations
        async with Node(any_redis) as node:
            await nodes.quiet(node.log)
            assert [("delivery.skipped", "before", 1)] == told(await nodes.attempts(node.log))
            await api.enable(TENANT, id_)
            await api.publish(TENANT, "after")
            await nodes.quiet(node.log)
        assert {"after": 1} == nodes.count(receiver.requests)


@pytest.mark.behaviour(95)
@pytest.mark.invariant("D8")
async def test_a_deleted_and_re_created_destination_does_not_get_its_namesakes_deliveries(
    redis70: RedisServer, receiver: receivers.Receiver
):
    async with Node(redis70, deliver=False) as api:
        await api.tenant(TENANT)
        id_ = await api.webhook(TENANT, receiver.url("/old"))
        await api.publish(TENANT, "for-the-old-one")
        await api.delete(TENANT, id_)
        await api.webhook(TENANT, receiver.url("/new"), id_)
        await api.publish(TENANT, "for-the-new-one")
        async with Node(redis70) as node:
            await nodes.quiet(node.log)
            assert [
                ("attempt.succeeded", "for-the-new-one", 1),
                ("delivery.skipped", "for-the-old-one", 1),
            ] == sorted(told(await nodes.attempts(node.log)))
        assert [("/new", "for-the-new-one")] == [
            (r.target, r.headers["x-outpost-event-id"]) for r in receiver.requests
        ]


@pytest.mark.behaviour(95)
async def test_a_retry_after_the_destination_was_disabled_is_skipped(
    redis70: RedisServer, receiver: receivers.Receiver
):
    receiver.always(receivers.answer(500))
    async with Node(redis70, retry_schedule_ms=(400,)) as node:
        await node.tenant(TENANT)
        id_ = await node.webhook(TENANT, receiver.url())
        await node.publish(TENANT, "e1")
        await eventually(lambda: nodes.attempts(node.log))
        await node.disable(TENANT, id_)
        await nodes.quiet(node.log)
        assert [("attempt.failed", "e1", 1), ("delivery.skipped", "e1", 2)] == told(await nodes.attempts(node.log))


@pytest.mark.behaviour(61)
async def test_a_changed_config_is_used_at_the_very_next_delivery(
    any_redis: RedisServer, receiver: receivers.Receiver
):
    async with Node(any_redis) as node, Node(any_redis, deliver=False) as api:
        await api.tenant(TENANT)
        id_ = await api.webhook(TENANT, receiver.url("/0"))
        for n in range(5):
            await api.publish(TENANT, f"e{n}")
            await nodes.quiet(node.log)
            await api.patch(TENANT, id_, config={"url": receiver.url(f"/{n + 1}")})
        assert [(f"/{n}", f"e{n}") for n in range(5)] == [
            (r.target, r.headers["x-outpost-event-id"]) for r in receiver.requests
        ]


@pytest.mark.behaviour(61)
async def test_a_delivery_published_before_a_change_uses_what_is_current_when_it_is_sent(
    redis70: RedisServer, receiver: receivers.Receiver
):
    async with Node(redis70, deliver=False) as api:
        await api.tenant(TENANT)
        id_ = await api.webhook(TENANT, receiver.url("/old"))
        await api.publish(TENANT, "e1")
        await api.patch(TENANT, id_, config={"url": receiver.url("/new")})
        async with Node(redis70) as node:
            await nodes.quiet(node.log)
        assert ["/new"] == [r.target for r in receiver.requests]


@pytest.mark.behaviour(96)
@pytest.mark.invariant("D9")
async def test_two_processes_on_the_same_partitions_send_and_record_everything_once(
    any_redis: RedisServer, receiver: receivers.Receiver
):
    async with Node(any_redis) as one, Node(any_redis) as two, Node(any_redis, deliver=False) as api:
        names = [f"tenant-{n}" for n in range(12)]
        for name in names:
            await api.tenant(name)
            await api.webhook(name, receiver.url(f"/{name}"))
        ids = [f"{name}.{n}" for name in names for n in range(40)]
        for at in range(0, len(ids), AT_ONCE):
            await asyncio.gather(*(api.publish(id_.split(".")[0], id_) for id_ in ids[at : at + AT_ONCE]))
        await nodes.quiet(api.log)
        assert dict.fromkeys(ids, 1) == nodes.count(receiver.requests)
        found = await nodes.attempts(api.log)
        assert sorted(("attempt.succeeded", id_, 1) for id_ in ids) == sorted(told(found))
        assert 2 == len({entry.by for entry in found}), "both took part"
        one.alive()
        two.alive()


async def test_a_slow_destination_does_not_hold_a_fast_one(redis70: RedisServer, receiver: receivers.Receiver):
    answering = asyncio.Event()
    slowly = [receivers.WaitFor(answering), *receivers.answer()]
    receiver.always(lambda r: slowly if r.target == "/slow" else receivers.answer())
    async with Node(redis70, delivery_max_concurrency=8, delivery_timeout_ms=120_000) as node:
        await node.tenant(TENANT)
        slow = await node.webhook(TENANT, receiver.url("/slow"))
        fast = await node.webhook(TENANT, receiver.url("/fast"))
        for n in range(6):
            await node.publish(TENANT, f"s{n}", destination=slow)
        await asyncio.gather(*(node.publish(TENANT, f"f{n}", destination=fast) for n in range(20)))
        await eventually(lambda: 20 == sum(r.target == "/fast" for r in receiver.requests))
        assert 2 >= sum(r.target == "/slow" for r in receiver.requests), "a quarter of the slots"
        answering.set()
        await nodes.quiet(node.log)
        assert 6 == sum(r.target == "/slow" for r in receiver.requests)


async def test_a_tenant_whose_destinations_all_hang_leaves_slots_to_another(
    redis70: RedisServer, receiver: receivers.Receiver
):
    """Each destination alone may have a quarter of the slots, and ten of them have three quarters."""
    go_on = asyncio.Event()
    hangs: receivers.Script = [receivers.WaitFor(go_on), *receivers.answer()]
    receiver.always(lambda r: hangs if r.target == "/slow" else receivers.answer())

    def arrived(path: str) -> int:
        return sum(r.target == path for r in receiver.requests)

    async with Node(redis70, delivery_max_concurrency=16, delivery_timeout_ms=120_000) as node:
        for tenant, destinations in (("slow", 10), ("good", 1)):
            await node.tenant(tenant)
            for _ in range(destinations):
                await node.webhook(tenant, receiver.url(f"/{tenant}"))
        for n in range(4):
            await node.publish("slow", f"s{n}")
        await eventually(lambda: 12 == arrived("/slow"))
        for n in range(40):
            await node.publish("good", f"g{n}")
        await eventually(lambda: 40 == arrived("/good"))
        await eventually(lambda: 12 == node.worker.in_flight)
        assert 12 == arrived("/slow")
        go_on.set()
        await nodes.quiet(node.log)
        assert [40, 40] == [arrived("/slow"), arrived("/good")]


@pytest.mark.behaviour(87)
async def test_a_destination_that_never_answers_times_out_and_is_recorded_so(
    redis70: RedisServer, receiver: receivers.Receiver
):
    receiver.then([receivers.Do.HANG])
    async with Node(redis70, delivery_timeout_ms=300) as node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        await node.publish(TENANT, "e1")
        await nodes.quiet(node.log)
        found = await nodes.attempts(node.log)
        assert [(1, "timeout", "auto"), (2, "200", "none")] == codes(found)
        assert 250 < found[0].detail.took_ms < 450


async def test_what_waited_for_a_receiver_that_hung_arrives_once_it_answers(
    redis70: RedisServer, receiver: receivers.Receiver, monkeypatch: pytest.MonkeyPatch
):
    """What finds no room beside a receiver that does not answer is put aside, here for an hour; none of it is late
    by that once the receiver answers again."""
    monkeypatch.setattr("outpost.dispatch.fairness.lane.MOST_TIMED_OUT", 5)
    monkeypatch.setattr("outpost.dispatch.fairness.lane.SILENT_DELAY_MS", (3_600_000, 3_600_000))
    go_on = asyncio.Event()
    hangs: receivers.Script = [receivers.WaitFor(go_on), *receivers.answer()]
    receiver.always(hangs)
    async with Node(redis70, delivery_timeout_ms=1_000) as node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        await node.publish(TENANT, "e0")

        async def timed_out() -> bool:
            return [(1, "timeout", "auto")] == codes(await nodes.attempts(node.log))[:1]

        await eventually(timed_out)
        await asyncio.gather(*(node.publish(TENANT, f"e{n}") for n in range(1, 60)))
        await eventually(lambda: 50 <= len(node.lanes._aside))
        go_on.set()
        await nodes.quiet(node.log)
        assert {f"e{n}" for n in range(60)} == set(nodes.count(receiver.requests))


async def test_more_than_the_lanes_hold_is_delivered_all_the_same(
    redis70: RedisServer, receiver: receivers.Receiver, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("outpost.dispatch.fairness.lane.MOST_WAITING", 5)
    monkeypatch.setattr("outpost.dispatch.fairness.lane.LONGEST_DELAY_MS", 1_000)
    receiver.always(receivers.after(0.02, receivers.answer()))
    async with Node(redis70, delivery_max_concurrency=4) as node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        await asyncio.gather(*(node.publish(TENANT, f"e{n}") for n in range(25)))
        await nodes.quiet(node.log)
        assert {f"e{n}": 1 for n in range(25)} == nodes.count(receiver.requests)


async def test_large_payloads_are_read_few_at_a_time(
    redis70: RedisServer, receiver: receivers.Receiver, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("outpost.dispatch.dispatcher.READ_BYTES", 400_000)
    sizes: list[int] = []
    real = read.as_group

    async def as_group(*args: Any, **kwargs: Any) -> list[read.Read]:
        found = await real(*args, **kwargs)
        sizes.append(sum(len(item.fields[b"d"]) for item in found))
        return found

    monkeypatch.setattr(read, "as_group", as_group)
    data = b'{"a":"%s"}' % (b"x" * 50_000)
    async with Node(redis70, deliver=False) as api:
        await repair.mend_if_needed(api.log)  # the group is there before what it is to read
        await api.tenant(TENANT)
        await api.webhook(TENANT, receiver.url())
        for n in range(40):
            await api.publish(TENANT, f"e{n}", data)
        async with Node(redis70) as node:
            await nodes.quiet(node.log)
    assert {f"e{n}": 1 for n in range(40)} == nodes.count(receiver.requests)
    assert 40 * len(data) == sum(sizes)
    assert max(sizes) <= 400_000


async def test_what_waits_longer_than_the_watchdog_is_held_and_not_sent_twice(
    redis70: RedisServer, receiver: receivers.Receiver
):
    receiver.always(receivers.after(0.1, receivers.answer()))
    settings: dict[str, Any] = {"delivery_max_concurrency": 4, "delivery_watchdog_ms": 300}
    async with Node(redis70, **settings) as one, Node(redis70, **settings) as two:
        await one.tenant(TENANT)
        await one.webhook(TENANT, receiver.url())
        await asyncio.gather(*(one.publish(TENANT, f"e{n}") for n in range(40)))
        await nodes.quiet(two.log)
        assert {f"e{n}": 1 for n in range(40)} == nodes.count(receiver.requests)
        assert 40 == len(await nodes.attempts(one.log))


@pytest.mark.behaviour(87)
async def test_a_stop_lets_sends_finish_and_leaves_the_rest_to_the_next_process(
    redis70: RedisServer, receiver: receivers.Receiver
):
    release = asyncio.Event()
    receiver.always(lambda _: [receivers.WaitFor(release), *receivers.answer()])
    node = Node(redis70, delivery_max_concurrency=8, delivery_timeout_ms=10_000)
    async with node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        await asyncio.gather(*(node.publish(TENANT, f"e{n}") for n in range(10)))
        await eventually(lambda: 2 == len(receiver.requests))
        stopping = asyncio.create_task(node.stop())
        release.set()
        await stopping
    async with Node(redis70) as other:
        assert 2 == len(await nodes.attempts(other.log))
        await nodes.quiet(other.log)
        assert {f"e{n}": 1 for n in range(10)} == nodes.count(receiver.requests)


@pytest.mark.behaviour(87)
async def test_a_send_that_a_stop_cuts_off_leaves_no_record_and_is_made_again(
    redis70: RedisServer, receiver: receivers.Receiver
):
    receiver.then([receivers.Do.HANG])
    node = Node(redis70, drain_s=0.2)
    async with node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        await node.publish(TENANT, "e1")
        await eventually(lambda: receiver.requests)
    async with Node(redis70) as other:
        assert [] == await nodes.attempts(other.log)
        await nodes.quiet(other.log)
        assert [(1, "200", "none")] == codes(await nodes.attempts(other.log))
        assert {"e1": 2} == nodes.count(receiver.requests)


async def test_an_event_that_does_not_decode_is_passed_over(redis70: RedisServer, receiver: receivers.Receiver):
    async with Node(redis70) as node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, receiver.url())
        for keys in node.log.keys.partitions:
            await node.log.command("XADD", keys.evt, "*", "t", "event.accepted", "v", 1, "ten", b"\xff")
        await node.publish(TENANT, "e1")
        await nodes.quiet(node.log)
        assert {"e1": 1} == nodes.count(receiver.requests)
        node.alive()
