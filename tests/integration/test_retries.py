"""Automatic retries with everything real: which answers are retried and when, who is gone for good, and that very
many at once leave live traffic alone.
"""

from __future__ import annotations

import asyncio
import email.utils
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import UNSET

from outpost.dispatch import reactors
from outpost.domain import events
from outpost.domain import tenant as tenants
from outpost.log.delivery import tasks
from projections.config import query
from tests.harness import node as nodes
from tests.harness import receiver as receivers
from tests.harness.node import Node
from tests.harness.polling import eventually, free_port
from tests.harness.servers import RedisServer

TENANT, DESTINATION = "acme", "des/1@x"
GONE = receivers.answer(410, b"no such hook")


@pytest.fixture
async def receiver() -> AsyncIterator[receivers.Receiver]:
    async with receivers.Receiver() as running:
        yield running


async def prepare(node: Node, receiver: receivers.Receiver, path: str = "/") -> None:
    await node.tenant(TENANT)
    await node.webhook(TENANT, receiver.url(path), DESTINATION)


async def made(node: Node) -> list[tuple[int, str, str, int | None]]:
    """Number, code, what follows and after how long, of each attempt."""
    return [
        (e.task.attempt, e.detail.code, e.detail.next, e.detail.retry_in_ms)
        for e in await nodes.attempts(node.log)
        if e.detail is not None
    ]


async def destination(node: Node) -> tenants.Destination:
    return (await query.fresh(node.log, TENANT)).destinations[DESTINATION]


async def changes(node: Node) -> list[events.ConfigChanged]:
    return [entry for _, entry in await nodes.entries(node.log, "cfg")]


# Which answers are retried


def answer_of(request: receivers.Request) -> receivers.Script:
    """Each destination has the answer that its path names, but every second request succeeds."""
    if "again" in request.target:
        return receivers.answer(200)
    match request.target.strip("/"):
        case "reset":
            return [receivers.Do.RESET]
        case "hang":
            return [receivers.Do.HANG]
        case status:
            return receivers.answer(int(status))


@pytest.mark.behaviour(92)
@pytest.mark.behaviour(94)
async def test_whatever_is_no_2xx_is_retried_network_faults_and_timeouts_too(
    redis70: RedisServer, receiver: receivers.Receiver
):
    receiver.always(answer_of)
    kinds = ["301", "400", "401", "404", "408", "425", "429", "500", "503", "599", "reset", "hang"]
    async with Node(redis70, retry_schedule_ms=(100,), delivery_timeout_ms=300) as node:
        await node.tenant(TENANT)
        for kind in kinds:
            await node.webhook(TENANT, receiver.url(f"/{kind}"), kind)
        await node.webhook(TENANT, f"http://127.0.0.1:{free_port()}/", "refused")
        await node.publish(TENANT, "e1")
        await nodes.quiet(node.log)
        told: dict[str, list[tuple[str, str]]] = {}
        for entry in await nodes.attempts(node.log):
            told.setdefault(entry.task.destination, []).append((entry.detail.code, entry.detail.next))
        codes = {kind: kind for kind in kinds} | {
            "reset": "connection_reset",
            "hang": "timeout",
            "refused": "connection_refused",
        }
        assert {kind: [(code, "auto"), (code, "none")] for kind, code in codes.items()} == told


# When


@pytest.mark.behaviour(92)
@pytest.mark.behaviour(93)
@pytest.mark.parametrize(
    ("settings", "delays_ms"),
    [
        ({"retry_schedule_ms": (), "retry_interval_ms": 1_000, "retry_max_limit": 2}, [1_000, 2_000]),
        ({"retry_schedule_ms": (1_000, 1_000), "retry_interval_ms": 60_000, "retry_max_limit": 9}, [1_000, 1_000]),
        ({"retry_schedule_ms": (), "retry_interval_ms": 1_000, "retry_max_limit": 0}, []),
    ],
    ids=["interval", "schedule", "no retries"],
)
async def test_retries_come_when_interval_limit_and_schedule_say(
    redis70: RedisServer, receiver: receivers.Receiver, settings: dict[str, Any], delays_ms: list[int]
):
    times: list[float] = []

    def fail(_: receivers.Request) -> receivers.Script:
        times.append(time.monotonic())
        return receivers.answer(500)

    receiver.always(fail)
    async with Node(redis70, **settings) as node:
        await prepare(node, receiver)
        await node.publish(TENANT, "e1")
        await nodes.quiet(node.log)
        expected = [(n, "500", "auto", ms) for n, ms in enumerate(delays_ms, start=1)]
        assert [*expected, (len(delays_ms) + 1, "500", "none", None)] == await made(node)
    waited = [after - before for before, after in itertools.pairwise(times)]
    assert len(delays_ms) == len(waited)
    for seconds, ms in zip(waited, delays_ms, strict=True):
        assert ms / 1000 <= seconds


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_takes_the_place_of_the_schedule_and_leaves_the_budget_alone(
    any_redis: RedisServer, receiver: receivers.Receiver, form: str
):
    def busy(_: receivers.Request) -> receivers.Script:
        asked = "1" if form == "seconds" else email.utils.formatdate(time.time() + 1.5, usegmt=True)
        return receivers.answer(503, b"", f"Retry-After: {asked}")

    receiver.always(busy)
    began = time.monotonic()
    async with Node(any_redis, retry_schedule_ms=(60_000, 60_000)) as node:
        await prepare(node, receiver)
        await node.publish(TENANT, "e1")
        await nodes.quiet(node.log)
        found = await made(node)
        assert [(1, "503", "auto"), (2, "503", "auto"), (3, "503", "none")] == [each[:3] for each in found]
        assert all(1_000 <= ms <= 1_500 for *_, ms in found[:2])
    assert 2.0 <= time.monotonic() - began < 60, "the schedule says 60 s"


@pytest.mark.parametrize(
    ("asked", "listens_ms", "delay_ms"),
    [
        ("0", 3_600_000, 1_000),
        ("99999999", 3_600_000, 3_600_000),
        ("99999999", 20_000, 20_000),
        ("soon", 3_600_000, 60_000),
        ("5", 0, 60_000),
    ],
    ids=["too soon", "too late", "later than a lower limit", "nonsense", "not listened to"],
)
async def test_retry_after_is_heard_within_limits(
    redis70: RedisServer, receiver: receivers.Receiver, asked: str, listens_ms: int, delay_ms: int
):
    receiver.then(receivers.answer(429, b"", f"Retry-After: {asked}"))
    async with Node(redis70, retry_schedule_ms=(60_000,), retry_after_max_ms=listens_ms) as node:
        await prepare(node, receiver)
        await node.publish(TENANT, "e1")
        await eventually(lambda: made(node))
        assert (1, "429", "auto", delay_ms) == (await made(node))[0]


async def test_jitter_spreads_the_retries_of_one_second(redis70: RedisServer, receiver: receivers.Receiver):
    receiver.always(receivers.answer(500))
    async with Node(redis70, retry_schedule_ms=(1_000,), retry_jitter=0.5) as node:
        await prepare(node, receiver)
        await asyncio.gather(*(node.publish(TENANT, f"e{n}") for n in range(40)))
        await nodes.quiet(node.log)
        delays_ms = [ms for *_, ms in await made(node) if ms is not None]
        assert 40 == len(delays_ms)
        assert all(500 <= ms <= 1_500 for ms in delays_ms)
        assert max(delays_ms) - min(delays_ms) > 250


# Gone for good


async def test_a_destination_that_answers_410_is_disabled_for_that_reason_and_not_tried_again(
    any_redis: RedisServer, receiver: receivers.Receiver
):
    receiver.always(GONE)
    async with Node(any_redis) as node:
        await prepare(node, receiver)
        await asyncio.gather(*(node.publish(TENANT, f"e{n}") for n in range(10)))
        await nodes.quiet(node.log)
        attempts = await made(node)
        assert {(1, "410", "none", None)} == set(attempts)

        async def disabled() -> bool:
            return not (await destination(node)).enabled

        await eventually(disabled)
        told = await nodes.attempts(node.log)
        skipped = [entry.event_id for entry in told if entry.type == "delivery.skipped"]
        assert 10 == len(attempts) + len(skipped)
        [change] = [entry for entry in await changes(node) if entry.change.type == "destination.disabled"]
        position, _ = next((at, e) for at, e in await nodes.entries(node.log, "dlv") if e.detail is not None)
        assert change.by.startswith("operator/gone-dlv.")
        assert len(attempts) > 1 or f"operator/gone-{position}" == change.by
        assert reactors.REASON == change.change.state.disabled_reason
        assert abs(change.change.state.disabled_ms - position.ms) < 5_000
        published = await node.publish(TENANT, "later")
        assert () == published.destinations
        await node.enable(TENANT, DESTINATION)
        assert UNSET is (await destination(node)).disabled_reason
        receiver.always(receivers.answer(200))
        await node.publish(TENANT, "enabled")
        await nodes.quiet(node.log)
        assert "enabled" == receiver.requests[-1].headers["x-outpost-event-id"]


async def test_a_410_of_the_address_before_does_not_disable_the_one_that_took_its_place(
    redis70: RedisServer, receiver: receivers.Receiver
):
    release = asyncio.Event()
    receiver.then([receivers.WaitFor(release), *GONE])
    async with Node(redis70) as node:
        await prepare(node, receiver)
        await node.publish(TENANT, "e1")
        await eventually(lambda: receiver.requests)
        await node.patch(TENANT, DESTINATION, config={"url": receiver.url("/new")})
        release.set()
        await nodes.quiet(node.log)
        await node.publish(TENANT, "e2")
        await nodes.quiet(node.log)
        assert [(1, "410", "none", None), (1, "200", "none", None)] == await made(node)
        await eventually(lambda: not node.gone._waiting)
        assert (await destination(node)).enabled


async def test_when_a_process_dies_before_it_disabled_the_next_410_does_it(
    redis70: RedisServer, receiver: receivers.Receiver, monkeypatch: pytest.MonkeyPatch
):
    receiver.always(GONE)
    async with Node(redis70) as node:
        monkeypatch.setattr(node.gone, "ask", lambda _: None)
        await prepare(node, receiver)
        await node.publish(TENANT, "e1")
        await nodes.quiet(node.log)
        assert (await destination(node)).enabled
    async with Node(redis70) as other:
        await other.publish(TENANT, "e2")
        await nodes.quiet(other.log)

        async def disabled() -> bool:
            return not (await destination(other)).enabled

        await eventually(disabled)
        assert [(1, "410", "none", None)] * 2 == await made(other)


async def test_processes_that_are_told_at_once_disable_once(redis70: RedisServer):
    async with Node(redis70) as one, Node(redis70) as two:
        await one.tenant(TENANT)
        await one.webhook(TENANT, "http://127.0.0.1:9/", DESTINATION)
        version = (await destination(one)).version
        for n, node in enumerate((one, two)):
            node.gone.ask(reactors.Ask(TENANT, DESTINATION, version, nodes.now_ms(), f"dlv.00.{n + 1}-0"))
            node.gone.ask(reactors.Ask(TENANT, "deleted", version, nodes.now_ms(), f"dlv.00.{n + 9}-0"))
        await eventually(lambda: not one.gone._waiting and not two.gone._waiting)
        types = [entry.change.type for entry in await changes(one)]
        assert ["tenant.created", "destination.created", "destination.disabled"] == types


# Very many


BACKLOG, TENANTS, LIVE = 10_000, 250, 40
AT_ONCE = 50  # publishes, so that none waits for seconds on a busy machine


async def backlog(redis: RedisServer, port: int) -> None:
    """Ten thousand deliveries whose first attempt was refused, and whose retry comes much later."""
    async with Node(redis, retry_schedule_ms=(3_600_000,), delivery_watchdog_ms=30_000) as node:
        for n in range(TENANTS):
            await node.tenant(f"t{n}")
            await node.webhook(f"t{n}", f"http://127.0.0.1:{port}/backlog", "d")
        await node.tenant(TENANT)
        await node.webhook(TENANT, f"http://127.0.0.1:{port}/live", DESTINATION)
        for at in range(0, BACKLOG, AT_ONCE):
            await asyncio.gather(*(node.publish(f"t{n % TENANTS}", f"e{n}") for n in range(at, at + AT_ONCE)))

        async def all_failed() -> bool:
            counts = [await node.log.command("XLEN", keys.dlv) for keys in node.log.keys.partitions]
            return sum(counts) == BACKLOG

        await eventually(all_failed, 90.0)


async def make_due(node: Node) -> None:
    for partition, keys in enumerate(node.log.keys.partitions):
        texts = [task.decode() for task in await node.log.command("ZRANGE", keys.due, 0, -1)]
        if texts:
            assert set() == await tasks.hold(node.log, {partition: texts}, 0)


async def test_ten_thousand_retries_due_at_once_let_live_events_pass(redis70: RedisServer):
    """Live events are published one after another while the first part of the backlog is delivered; while one of
    them is under way only a small part of the backlog passes."""
    port = free_port()
    await backlog(redis70, port)
    passed = 0
    arrived: dict[str, int] = {}

    def count(request: receivers.Request) -> receivers.Script:
        nonlocal passed
        if request.target == "/live":
            arrived[request.headers["x-outpost-event-id"]] = passed
        else:
            passed += 1
        return receivers.answer(200)

    async with receivers.Receiver(port=port) as receiver, Node(redis70, delivery_watchdog_ms=30_000) as node:
        receiver.always(count)
        await make_due(node)
        overtaken: list[int] = []
        for n in range(LIVE):
            await eventually(lambda n=n: passed >= 50 * n)
            before = passed
            await node.publish(TENANT, f"live{n}")
            await eventually(lambda n=n: f"live{n}" in arrived)
            overtaken.append(arrived[f"live{n}"] - before)
        assert max(overtaken) < BACKLOG / 10, overtaken
        assert passed < BACKLOG, "there was a backlog all the time"
        await nodes.quiet(node.log)
        assert {1} == set(Counter(r.headers["x-outpost-event-id"] for r in receiver.requests).values())
        assert BACKLOG + LIVE == len(receiver.requests)
