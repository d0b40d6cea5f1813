"""`record`: one record an attempt, and what follows it, in one step."""

from __future__ import annotations

import msgspec
import pytest

from outpost.domain import events
from outpost.log import envelope, read
from outpost.log.delivery import tasks
from outpost.log.redis import client
from tests.contract import worlds
from tests.corpus import test_entries as golden

TASK, NEXT = "1/5-0/d@1", "2/5-0/d@1"


@pytest.fixture(autouse=True)
async def world(log: client.Log, clock: worlds.Clock) -> None:
    """One begun task."""
    await clock.set(worlds.NOW)
    await worlds.make_due(log, a1=worlds.NOW + 10_000.5)


async def _want(log: client.Log, letters: str) -> None:
    await log.command("HSET", log.keys.partitions[worlds.P].want, TASK, letters)


async def _detail(log: client.Log) -> events.AttemptDetail:
    [entry] = await worlds.entries(log, "dlv")
    assert isinstance(entry, events.DeliveryEntry)
    assert entry.detail is not None
    return entry.detail


async def test_a_success_closes_the_delivery(log: client.Log) -> None:
    position = await worlds.record(log, TASK, succeeded=True)
    [found] = await read.between(log, "dlv", worlds.P)
    assert found.position == position
    assert b"attempt.succeeded" == found.fields[b"t"]
    assert ("none", None, False) == _follows(await _detail(log))
    assert ({}, {}) == (await worlds.due(log), await worlds.wants(log))


def _follows(detail: events.AttemptDetail) -> tuple[str, int | None, bool]:
    return detail.next, detail.retry_in_ms, detail.manual


@pytest.mark.behaviour(94)
async def test_a_failure_makes_the_next_attempt_due_after_its_delay(log: client.Log) -> None:
    await worlds.record(log, TASK, retry_in_ms=30_000)
    assert ("auto", 30_000, False) == _follows(await _detail(log))
    assert ({NEXT: worlds.NOW + 30_000}, {}) == (await worlds.due(log), await worlds.wants(log))


async def test_an_exhausted_or_ineligible_failure_closes_the_delivery(log: client.Log) -> None:
    await worlds.record(log, TASK, retry_in_ms=None)
    assert ("none", None, False) == _follows(await _detail(log))
    assert {} == await worlds.due(log)


@pytest.mark.behaviour(96)
@pytest.mark.invariant("D2")
async def test_a_second_record_of_an_attempt_is_refused(log: client.Log) -> None:
    """D2."""
    assert await worlds.record(log, TASK, retry_in_ms=30_000) is not None
    assert await worlds.record(log, TASK, retry_in_ms=30_000) is None
    assert await worlds.record(log, TASK, succeeded=True) is None
    assert 1 == len(await worlds.entries(log, "dlv"))
    assert {NEXT: worlds.NOW + 30_000} == await worlds.due(log)


@pytest.mark.parametrize("succeeded", [True, False])
@pytest.mark.parametrize("letters", ["r", "mr"])
async def test_a_retry_asked_for_meanwhile_follows_at_once_whatever_came_of_this_one(
    log: client.Log, letters: str, succeeded: bool
) -> None:
    await _want(log, letters)
    await worlds.record(log, TASK, succeeded=succeeded, retry_in_ms=None)
    assert ("manual", 0, "m" in letters) == _follows(await _detail(log))
    assert ({NEXT: worlds.NOW}, {NEXT: "r"}) == (await worlds.due(log), await worlds.wants(log))


@pytest.mark.parametrize("letters", ["c", "mc"])
async def test_after_a_cancellation_meanwhile_nothing_follows(log: client.Log, letters: str) -> None:
    await _want(log, letters)
    await worlds.record(log, TASK, retry_in_ms=30_000)
    assert ("none", None, "m" in letters) == _follows(await _detail(log))
    assert ({}, {}) == (await worlds.due(log), await worlds.wants(log))


@pytest.mark.behaviour(98)
@pytest.mark.parametrize(
    ("letters", "follow"), [("rr", 2), ("mr", 1), ("mrr", 2), ("mrrr", 3)], ids=["two", "one", "two more", "three"]
)
async def test_every_retry_that_was_asked_for_meanwhile_follows(
    log: client.Log, letters: str, follow: int
) -> None:
    await _want(log, letters)
    await worlds.record(log, TASK, succeeded=True)
    assert ("manual", follow) == ((detail := await _detail(log)).next, detail.asked)
    assert {NEXT: "r" * follow} == await worlds.wants(log)


async def test_a_manual_attempt_that_fails_goes_on_with_the_schedule(log: client.Log) -> None:
    await _want(log, "m")
    await worlds.record(log, TASK, retry_in_ms=60_000)
    assert ("auto", 60_000, True) == _follows(await _detail(log))
    assert ({NEXT: worlds.NOW + 60_000}, {}) == (await worlds.due(log), await worlds.wants(log))


async def test_manual_attempts_are_counted_beside_the_automatic_ones_and_forgotten_with_the_delivery(
    log: client.Log,
) -> None:
    await _want(log, "mr")
    await worlds.record(log, TASK, retry_in_ms=1)
    assert {"/5-0/d@1": "1"} == await worlds.manuals(log)
    assert (0, 2) == ((detail := await _detail(log)).automatic, detail.asked + 1)
    await worlds.show(log, worlds.destination())
    assert [tasks.Begun(manual=True, field=None, before=1)] == await worlds.begin(log, NEXT, cached_version=1)
    await worlds.record(log, NEXT, retry_in_ms=1)
    third = "3/5-0/d@1"
    assert {"/5-0/d@1": "2"} == await worlds.manuals(log)
    assert [tasks.Begun(manual=False, field=None, before=2)] == await worlds.begin(log, third, cached_version=1)
    await worlds.record(log, third, succeeded=True)
    assert {} == await worlds.manuals(log)
    details = [e.detail for e in await worlds.entries(log, "dlv") if isinstance(e, events.DeliveryEntry)]
    assert [(True, 0), (True, 0), (False, 1)] == [(d.manual, d.automatic) for d in details if d]


@pytest.mark.parametrize(
    ("letters", "following"),
    [("", ("auto", 1_000)), ("m", ("auto", 2_000))],
    ids=["an automatic one", "a manual one"],
)
async def test_the_delay_is_that_of_what_the_attempt_was(
    log: client.Log, letters: str, following: tuple[str, int]
) -> None:
    if letters:
        await _want(log, letters)
    recording = msgspec.structs.replace(worlds.recording(TASK, retry_in_ms=1_000), retry_in_ms_if_manual=2_000)
    await tasks.record(log, {worlds.P: [recording]}, "w")
    assert following == _follows(await _detail(log))[:2]


async def test_a_manual_attempt_goes_on_where_an_automatic_one_would_have_been_the_last(log: client.Log) -> None:
    """Its lease ended, another process began it as a manual one, and it is the first that records it."""
    await _want(log, "m")
    recording = msgspec.structs.replace(worlds.recording(TASK), retry_in_ms_if_manual=2_000)
    await tasks.record(log, {worlds.P: [recording]}, "w")
    assert ("auto", 2_000) == _follows(await _detail(log))[:2]


@pytest.mark.invariant("D6")
async def test_a_record_after_its_lease_is_the_record(log: client.Log, clock: worlds.Clock) -> None:
    """D6."""
    await clock.advance(3_600_000)
    assert await worlds.record(log, TASK, succeeded=True) is not None


async def test_the_longest_delay_and_the_highest_attempt_are_written_as_whole_numbers(log: client.Log) -> None:
    await log.command("ZADD", log.keys.partitions[worlds.P].due, 1, "999999999/5-0/a/b@c@12")
    await worlds.record(log, "999999999/5-0/a/b@c@12", retry_in_ms=9_999_999_000)
    assert ("auto", 9_999_999_000, False) == _follows(await _detail(log))
    assert worlds.NOW + 9_999_999_000 == (await worlds.due(log))["1000000000/5-0/a/b@c@12"]


async def test_a_batch_answers_each_attempt_in_order(log: client.Log) -> None:
    await worlds.make_due(log, b1=1)
    wanted = [worlds.recording(task) for task in (TASK, "9/5-0/d@1", "1/5-0/b@1", TASK)]
    answers = (await tasks.record(log, {worlds.P: wanted}, "w"))[worlds.P]
    assert [True, False, True, False] == [position is not None for position in answers]
    positions = [position for position in answers if position is not None]
    assert positions == [found.position for found in await read.between(log, "dlv", worlds.P)]


@pytest.mark.parametrize("name", ["attempt.succeeded.v1.json", "attempt.failed.v1.json"])
async def test_the_script_writes_the_golden_entry_byte_for_byte(log: client.Log, name: str) -> None:
    _, _, fields = golden.read(name)
    expected = golden.EXPECTED[name]
    assert isinstance(expected, events.DeliveryEntry)
    assert expected.detail is not None
    task, keys = str(expected.task), log.keys.partitions[worlds.P]
    await log.command("ZADD", keys.due, 1, task)
    if expected.detail.manual:
        await log.command("HSET", keys.want, task, "m")
    recording = tasks.Recording(
        task,
        expected.tenant,
        expected.event_id,
        expected.type == "attempt.succeeded",
        expected.detail.retry_in_ms,
        envelope.encode_detail(msgspec.structs.replace(expected.detail, manual=False, next="none")),
    )
    await tasks.record(log, {worlds.P: [recording]}, expected.by)
    [found] = await read.between(log, "dlv", worlds.P)
    if expected.detail.manual:  # the golden entry was written before automatic attempts were counted by themselves
        count = b',"automatic":%d}' % (expected.task.attempt - 1)
        fields = fields | {b"d": fields[b"d"][:-1] + count}
    assert [*fields.items()] == [*found.fields.items()]


@pytest.mark.parametrize("name", ["delivery.skipped.v1.json", "delivery.cancelled.v1.json"])
async def test_begin_writes_the_golden_closing_byte_for_byte(log: client.Log, name: str) -> None:
    _, _, fields = golden.read(name)
    keys, task = log.keys.partitions[worlds.P], fields[b"ref"].decode()
    await log.command("ZADD", keys.due, 1, task)
    if "cancelled" in name:
        await log.command("HSET", keys.want, task, "c")
    await worlds.show(log, version=2)
    wanted = tasks.Beginning(task, 2, worlds.TENANT, "evt_1", "des_1", 2, 0)
    await tasks.begin(log, {worlds.P: [wanted]}, {worlds.P: 1}, 1, fields[b"by"].decode())
    [found] = await read.between(log, "dlv", worlds.P)
    assert [*fields.items()] == [*found.fields.items()]
