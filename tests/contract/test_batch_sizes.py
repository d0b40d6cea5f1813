"""What one round trip carries is bounded in bytes and in tasks, either way, however large the items are.

These tests count bytes and tasks, not time. The last ones are on a slow link, where what fails must shrink.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from outpost import crypto, errors
from outpost.adapters import registry
from outpost.dispatch import dispatcher, publishers, scheduler, senders, worker
from outpost.dispatch.fairness import lanes
from outpost.domain import delivery, events
from outpost.domain import tenant as tenants
from outpost.log import append, batching, envelope, position, read
from outpost.log.delivery import tasks
from outpost.log.redis import client, connection
from outpost.log.upkeep import trim
from outpost.queue import base as queues
from outpost.queue import inprocess
from outpost.settings import Settings
from projections.config import catch_up
from tests.contract import worlds
from tests.harness.servers import RedisServer
from tests.harness.toxic import Toxic

P = worlds.P
MIB = 1024 * 1024
LARGE = b'{"a":"%s"}' % (b"x" * (MIB - 20))
SLACK = 64 * 1024  # names, ids and frames of what is counted by its payload
# The most that a receiver's answer of 128 KiB can become as JSON: six bytes for each of its own.
RESPONSE = {"status": 500, "body": "\x01" * 128 * 1024}


@dataclasses.dataclass
class Traffic:
    """Bytes of each request that was sent, and of each answer that came."""

    requests: list[int] = dataclasses.field(default_factory=list)
    answers: list[int] = dataclasses.field(default_factory=list)


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Traffic:
    """Counts what every connection of the log's own client carries from now on."""
    seen = Traffic()
    send, exchange = connection._Connection.send, connection.Wire.exchange

    def counted(self: Any, packed: bytes, count: int) -> Any:
        seen.requests.append(len(packed))
        return send(self, packed, count)

    async def counted_answer(self: Any, *args: Any) -> tuple[list[Any], int]:
        replies, size = await exchange(self, *args)
        seen.answers.append(size)
        return replies, size

    monkeypatch.setattr(connection._Connection, "send", counted)
    monkeypatch.setattr(connection.Wire, "exchange", counted_answer)
    return seen


def large_item(n: int, *matched: events.Matched, metadata: dict[str, str] | None = None) -> append.Item:
    event = events.Event(
        worlds.TENANT,
        f"e{n}",
        0,
        "t",
        "2026-09-21T14:13:20.400Z",
        True,
        metadata or {},
        matched,
        "admin/r",
        b"{}" if metadata else LARGE,
    )
    fields = envelope.encode_event(event)
    return msgspec.structs.replace(
        worlds.item(f"e{n}", f"admin/r{n}"),
        fields=fields,
        matched=envelope.encode_matched(matched),
        payload_bytes=envelope.payload_bytes(fields),
    )


async def publish_large(log: client.Log, count: int, *matched: events.Matched) -> list[str]:
    ids = []
    for n in range(count):
        [answer] = await worlds.append_items(log, large_item(n, *matched))
        assert isinstance(answer, append.Appended)
        ids.append(answer.position.entry_id)
    return ids


@dataclasses.dataclass
class Parts:
    """The parts of a delivery process, none of them running."""

    log: client.Log
    lanes: lanes.Lanes = dataclasses.field(default_factory=lambda: lanes.Lanes(1_000))

    @property
    def queue(self) -> inprocess.InProcessQueue:
        return inprocess.InProcessQueue(self.lanes)

    def worker(self) -> worker.Worker:
        opened = publishers.Publishers(registry.build(Settings()), crypto.Sealer("secret"))
        limits = senders.Limits(1_000, 1_000, 500)
        return worker.Worker(self.log, self.lanes, opened, delivery.RetryPolicy(), limits, "worker/w")


def _finished(made: worker.Worker, parts: Parts, count: int, response: dict[str, object]) -> list[str]:
    """Puts attempts into the worker that have failed with this answer and wait to be recorded."""
    event = events.Event("acme", "e", 0, "t", "2026-09-21T14:13:20.400Z", True, {}, (), "", b"{}")
    texts = [f"1/1-{n}/d@1" for n in range(count)]
    parts.lanes.receive([queues.Task(P, text, delivery.parse_task_id(text), event) for text in texts])
    for task in parts.lanes.take(count):
        made._free -= 1
        made._finish(senders.Sending(task, False, None, None, delivery.Failed("500", response)))
    return texts


async def _recorded(made: worker.Worker) -> None:
    made._closing = True  # its loop ends with the last attempt
    await asyncio.wait_for(made._record_loop(), 60.0)


async def test_answers_of_receivers_are_recorded_a_few_megabytes_at_a_time(
    log: client.Log, traffic: Traffic
) -> None:
    """512 answers of 128 KiB were one command of 403 MB."""
    parts = Parts(log)
    made = parts.worker()
    texts = _finished(made, parts, 60, RESPONSE)
    await log.pipeline([("ZADD", log.keys.partitions[P].due, 1e15, text) for text in texts])
    await _recorded(made)
    assert 60 == await log.command("XLEN", log.keys.partitions[P].dlv)
    assert max(traffic.requests) <= batching.CALL_BYTES + SLACK
    assert 0 == made.in_flight


@pytest.mark.parametrize("metadata", [None, {"m": "x" * 900_000}], ids=["data", "metadata"])
async def test_large_events_are_appended_a_few_megabytes_at_a_time(
    log: client.Log, traffic: Traffic, metadata: dict[str, str] | None
) -> None:
    commit = append.GroupCommit(log, worlds.window())
    running = asyncio.create_task(commit.run())
    answers = await asyncio.gather(*(commit.append(P, large_item(n, metadata=metadata)) for n in range(40)))
    commit.close()
    await running
    assert 40 == len({a.position for a in answers if isinstance(a, append.Appended)})
    assert max(traffic.requests) <= batching.CALL_BYTES + SLACK


async def test_a_backlog_of_large_events_after_a_flood_of_small_ones_is_read_to_its_end(
    log: client.Log, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first read still expects small ones: its answer is given up where it would not fit into memory."""
    monkeypatch.setattr(connection, "MAX_ANSWER_BYTES", 24 * MIB)
    parts = Parts(log)
    made = dispatcher.Dispatcher(log, parts.queue, parts.lanes, 60_000, "h")
    await made.step(1)
    for first in range(0, 3_000, 500):
        await worlds.append_items(log, *(worlds.item(f"s{n}", f"r{n}") for n in range(first, first + 500)))
        await made.step(1)
    await publish_large(log, 60)
    stop = asyncio.Event()
    running = asyncio.create_task(made.run(stop))
    await _until(lambda: _all_opened(log))
    stop.set()
    await running
    assert max(traffic.answers) <= 24 * MIB


async def test_events_of_many_destinations_are_opened_some_tasks_at_a_time(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 events of 2,000 destinations were one call of 2.5 s of Redis."""
    opened: list[list[int]] = []
    real = tasks.open_entries

    async def counted(log: client.Log, opening: Any, watchdog_ms: int) -> Any:
        opened.append([len(entry.tasks) for entries in opening.values() for entry in entries])
        return await real(log, opening, watchdog_ms)

    monkeypatch.setattr(tasks, "open_entries", counted)
    matched = tuple(events.Matched(f"d{n}", n + 1) for n in range(2_000))
    parts = Parts(log)
    made = dispatcher.Dispatcher(log, parts.queue, parts.lanes, 60_000, "h")
    await made.step(1)
    await worlds.append_items(log, *(worlds.item(f"e{n}", f"r{n}", matched=matched) for n in range(20)))
    while sum(map(len, opened)) < 20:
        await made.step(1)
    assert 40_000 == await log.command("ZCARD", log.keys.partitions[P].due)
    assert all(sum(call) <= dispatcher.OPEN_TASKS for call in opened)


async def test_retries_of_large_events_are_read_a_few_megabytes_at_a_time(
    log: client.Log, traffic: Traffic
) -> None:
    for entry_id in await publish_large(log, 40, events.Matched("d", 1)):
        await log.command("ZADD", log.keys.partitions[P].due, 1, f"2/{entry_id}/d@1")
    parts = Parts(log)
    made = scheduler.Scheduler(log, parts.lanes, 60_000)
    traffic.answers.clear()
    while len(parts.lanes) < 40:
        await made.step()
    # The first read expects entries of a quarter of a MiB; what it brings teaches the next ones.
    first, *others = [size for size in traffic.answers if size > MIB]
    assert first <= 4 * scheduler.HAND_OVER_BYTES + SLACK
    assert max(others) <= scheduler.HAND_OVER_BYTES + SLACK


async def test_what_was_claimed_and_could_not_be_read_is_read_before_anything_else_is_claimed(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would otherwise wait for its watchdog, half a minute by default."""
    for entry_id in await publish_large(log, 4, events.Matched("d", 1)):
        await log.command("ZADD", log.keys.partitions[P].due, 1, f"2/{entry_id}/d@1")
    parts = Parts(log)
    made = scheduler.Scheduler(log, parts.lanes, 3_600_000)
    real = read.exactly

    async def cut_off(*args: Any) -> Any:
        raise errors.StoreUnavailable("redis", "TimeoutError")

    monkeypatch.setattr(read, "exactly", cut_off)
    with pytest.raises(errors.StoreUnavailable):
        await made.step()
    monkeypatch.setattr(read, "exactly", real)
    await made.step()
    assert 4 == len(parts.lanes)


async def test_large_attempts_are_trimmed_a_few_megabytes_at_a_time(log: client.Log, traffic: Traffic) -> None:
    await worlds.regroup(log)
    detail = envelope.encode_detail(
        msgspec.structs.replace(worlds.DETAIL, response_data=msgspec.Raw(msgspec.json.encode(RESPONSE)))
    )
    recorded: list[position.Position] = []
    for n in range(30):
        await log.command("ZADD", log.keys.partitions[P].due, 1e15, f"1/1-{n}/d@1")
        attempt = tasks.Recording(f"1/1-{n}/d@1", "acme", "e", False, None, detail)
        [at] = (await tasks.record(log, {P: [attempt]}, "w"))[P]
        assert at is not None
        recorded.append(at)
    await worlds.append_items(log, worlds.item())
    await asyncio.sleep(0.01)  # the window is 1 ms
    traffic.answers.clear()
    last = recorded[-1].ms, recorded[-1].seq
    reading = batching.Reading(trim.WALK, trim.WALK_BYTES)
    reading.answered(1, len(detail), 1)  # as after a first pass
    trimmed = 0
    while trimmed < 30:
        trimmed += (await trim.trim(log, P, (0, 0), last, 1, reading)).dlv
    assert max(traffic.answers) <= trim.WALK_BYTES + SLACK


async def test_a_config_of_large_entries_is_caught_up_with_a_few_megabytes_at_a_time(
    log: client.Log, traffic: Traffic
) -> None:
    state = msgspec.structs.replace(worlds.destination(), config="s1." + "x" * MIB)
    for n in range(1, 21):
        await append.append(log, "cfg", {P: [_config_item(n, state)]}, worlds.window())
    traffic.requests.clear()
    await catch_up.to_head(log, P)
    version = await log.command("HGET", log.keys.partitions[P].tenant(1, worlds.TENANT), "version")
    assert b"20" == version
    assert max(traffic.requests) <= batching.CALL_BYTES + SLACK


def _config_item(n: int, state: tenants.Destination) -> append.Item:
    change = tenants.Change("destination.updated", n, state.id, msgspec.structs.replace(state, version=n))
    return append.Item(
        tenant=worlds.TENANT,
        mark=f"{worlds.TENANT}\0\0r{n}",
        request=f"r{n}",
        fields=envelope.encode_change(events.ConfigChanged(worlds.TENANT, f"admin/r{n}", change)),
        following=n,
    )


async def test_an_answer_that_is_too_large_ends_its_connection_and_only_that(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_ANSWER_BYTES", 3 * MIB)
    await publish_large(log, 5)
    reading = batching.Reading(100)
    with pytest.raises(errors.StoreUnavailable):
        await read.between(log, "evt", P, count=5, reading=reading)
    assert 1 == reading.count
    assert 1 == len(await read.between(log, "evt", P, count=reading.count, reading=reading))


@pytest.fixture
async def slow_log(any_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[client.Log]:
    """A log behind a link that carries a fifth of a full call within the time-out."""
    monkeypatch.setattr(client, "COMMAND_TIMEOUT_S", 0.5)
    monkeypatch.setattr(client, "BLOCKING_TIMEOUT_S", 1.5)
    async with Toxic(any_redis.host, any_redis.port) as proxy:
        proxy.rate = batching.CALL_BYTES / 2.5
        opened = client.open_log(client.RedisAddress(proxy.host, proxy.port))
        yield opened
        await opened.close()


async def _all_opened(log: client.Log) -> bool:
    [group] = await log.wait("XINFO", "GROUPS", log.keys.partitions[P].evt)
    known = dict(zip(group[::2], group[1::2], strict=True))
    added = await log.command("XLEN", log.keys.partitions[P].evt)
    return bool(added == known[b"entries-read"] and 0 == known[b"pending"])


async def _until(done: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await done():
            await asyncio.sleep(0.05)


async def test_records_that_take_longer_than_the_time_out_shrink_until_they_pass(
    log: client.Log, slow_log: client.Log
) -> None:
    parts = Parts(slow_log)
    made = parts.worker()
    texts = _finished(made, parts, 8, RESPONSE)
    await log.pipeline([("ZADD", log.keys.partitions[P].due, 1e15, text) for text in texts])
    await _recorded(made)
    assert 8 == await log.command("XLEN", log.keys.partitions[P].dlv)


async def test_events_that_take_longer_than_the_time_out_to_read_are_opened_all_the_same(
    log: client.Log, slow_log: client.Log
) -> None:
    await worlds.regroup(log)
    await publish_large(log, 12)
    parts = Parts(slow_log)
    made = dispatcher.Dispatcher(slow_log, parts.queue, parts.lanes, 60_000, "h")
    stop = asyncio.Event()
    running = asyncio.create_task(made.run(stop))
    await _until(lambda: _all_opened(log))
    stop.set()
    await running
