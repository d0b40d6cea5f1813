"""`request`: a retry or a cancellation, whatever the delivery does and however old what the caller knows is."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest

from outpost import errors
from outpost.domain import events
from outpost.log import envelope
from outpost.log import position as positions
from outpost.log.delivery import requests, tasks
from outpost.log.redis import client
from projections.due import fold as folds
from tests.contract import worlds
from tests.corpus import test_entries as golden

FIRST, SECOND, THIRD = "1/5-0/d@1", "2/5-0/d@1", "3/5-0/d@1"
UNKNOWN = requests.Delivery(worlds.TENANT, "e1", "5-0", "d", 1, last=0, closed=False, seen="0-0")
LEASE_MS = 10_000


@pytest.fixture(autouse=True)
async def world(log: client.Log, clock: worlds.Clock) -> None:
    """A delivery whose first attempt waits to begin."""
    await clock.set(worlds.NOW)
    await worlds.show(log, worlds.destination())
    await worlds.make_due(log, a1=worlds.NOW + 30_000)


async def _ask(
    log: client.Log, what: Literal["retry", "cancel"], by: str = "admin/req_9", **known: Any
) -> requests.Answer:
    return await requests.request(log, what, msgspec.structs.replace(UNKNOWN, **known), by)


async def _state(log: client.Log) -> tuple[dict[str, float], dict[str, str]]:
    return await worlds.due(log), await worlds.wants(log)


async def _last(log: client.Log) -> tuple[str, str, str]:
    """Type, task and author of the newest entry."""
    entry = (await worlds.entries(log, "dlv"))[-1]
    assert isinstance(entry, events.DeliveryEntry)
    return entry.type, str(entry.task), entry.by


async def _live(log: client.Log) -> dict[str, str]:
    """What the log alone says lives, and what was asked of it. D3."""
    fold = folds.Fold()
    for entry in await worlds.entries(log, "dlv"):
        assert isinstance(entry, events.DeliveryEntry)
        fold.entry(0, entry)
    return {task: live.want for task, live in fold.tasks().items()}


async def _close(log: client.Log) -> None:
    """The first attempt succeeds."""
    await worlds.begin(log, FIRST)
    await worlds.record(log, FIRST, succeeded=True)


async def test_a_retry_of_what_waits_lets_it_begin_now_as_a_manual_attempt(log: client.Log) -> None:
    answer = await _ask(log, "retry")
    assert isinstance(answer, requests.Requested)
    assert "dlv" == answer.position.stream
    assert ({FIRST: worlds.NOW}, {FIRST: "r"}) == await _state(log)
    assert ("retry.requested", FIRST, "admin/req_9") == await _last(log)
    assert [tasks.Begun(manual=True, field=None)] == await worlds.begin(log, FIRST, cached_version=1)


@pytest.mark.behaviour(99)
async def test_a_retry_takes_the_place_of_the_automatic_one_that_was_pending(log: client.Log) -> None:
    await worlds.begin(log, FIRST)
    await worlds.record(log, FIRST, retry_in_ms=60_000)
    await _ask(log, "retry")
    assert ({SECOND: worlds.NOW}, {SECOND: "r"}) == await _state(log)
    await worlds.begin(log, SECOND)
    await worlds.record(log, SECOND, succeeded=True)
    assert ({}, {}) == await _state(log)


async def test_a_retry_of_a_closed_delivery_makes_the_next_attempt_due_now(log: client.Log) -> None:
    await _close(log)
    assert isinstance(await _ask(log, "retry"), requests.Requested)
    assert ({SECOND: worlds.NOW}, {SECOND: "r"}) == await _state(log)
    assert ("retry.requested", SECOND, "admin/req_9") == await _last(log)
    assert {SECOND: "r"} == await _live(log)


async def test_a_retry_of_what_is_being_sent_follows_it_and_leaves_its_lease_alone(log: client.Log) -> None:
    await worlds.begin(log, FIRST, lease_ms=LEASE_MS)
    await _ask(log, "retry")
    assert ({FIRST: worlds.NOW + LEASE_MS + 0.5}, {FIRST: "r"}) == await _state(log)
    await worlds.record(log, FIRST, succeeded=True)
    assert ({SECOND: worlds.NOW}, {SECOND: "r"}) == await _state(log)


async def test_a_retry_of_what_was_being_sent_when_its_lease_ended_is_due_now(
    log: client.Log, clock: worlds.Clock
) -> None:
    await worlds.begin(log, FIRST, lease_ms=LEASE_MS)
    await clock.advance(LEASE_MS + 1)
    await _ask(log, "retry")
    assert ({FIRST: clock.now}, {FIRST: "r"}) == await _state(log)


@pytest.mark.behaviour(98)
@pytest.mark.parametrize("begun", [False, True])
async def test_two_retries_at_once_are_two_attempts(log: client.Log, begun: bool) -> None:
    await _close(log)
    await _ask(log, "retry", "admin/a")
    if begun:
        await worlds.begin(log, SECOND)
    await _ask(log, "retry", "admin/b")
    assert {SECOND: "rr"} == await _live(log)
    if not begun:
        await worlds.begin(log, SECOND)
    await worlds.record(log, SECOND, succeeded=True)
    assert ({THIRD: worlds.NOW}, {THIRD: "r"}) == await _state(log)
    assert {THIRD: "r"} == await _live(log)
    [begun_as] = await worlds.begin(log, THIRD, cached_version=1)
    assert tasks.Begun(manual=True, field=None, before=1) == begun_as
    await worlds.record(log, THIRD, succeeded=True)
    assert ({}, {}) == await _state(log)


@pytest.mark.parametrize(
    "seen", [{}, {"last": 1, "closed": False}, {"last": 1, "closed": True}], ids=["nothing", "open", "closed"]
)
async def test_what_the_caller_knows_may_be_old(log: client.Log, seen: dict[str, Any]) -> None:
    await worlds.begin(log, FIRST)
    first = await worlds.record(log, FIRST, retry_in_ms=5)
    await worlds.begin(log, SECOND)
    await worlds.record(log, SECOND, succeeded=True)
    assert first is not None
    known = seen | ({"seen": first.entry_id} if seen else {})
    await _ask(log, "retry", **known)
    assert ({THIRD: worlds.NOW}, {THIRD: "r"}) == await _state(log)


async def test_what_was_skipped_may_be_retried_under_the_same_number(log: client.Log) -> None:
    await worlds.show(log, worlds.destination(enabled=False))
    await worlds.begin(log, FIRST)
    await _ask(log, "retry")
    assert ({FIRST: worlds.NOW}, {FIRST: "r"}) == await _state(log)
    assert {FIRST: "r"} == await _live(log)


async def test_what_was_cancelled_may_be_retried(log: client.Log) -> None:
    await _ask(log, "cancel", "admin/a")
    assert isinstance(await _ask(log, "retry", "admin/b"), requests.Requested)
    assert ({FIRST: worlds.NOW}, {FIRST: "r"}) == await _state(log)


@pytest.mark.parametrize("what", ["retry", "cancel"])
async def test_what_was_not_opened_is_refused_and_nothing_changes(
    log: client.Log, what: Literal["retry", "cancel"]
) -> None:
    await log.command("DEL", log.keys.partitions[worlds.P].due)
    assert requests.Unopened() == await _ask(log, what)
    assert ({}, {}, []) == (*await _state(log), await worlds.entries(log, "dlv"))


async def test_a_cancellation_of_what_waits_closes_it(log: client.Log) -> None:
    assert isinstance(await _ask(log, "cancel"), requests.Cancelled)
    assert ({}, {}) == await _state(log)
    assert ("delivery.cancelled", FIRST, "admin/req_9") == await _last(log)
    assert [tasks.Dropped("gone")] == await worlds.begin(log, FIRST)


async def test_a_cancellation_takes_back_the_retries_that_wait(log: client.Log) -> None:
    await _ask(log, "retry", "admin/a")
    await _ask(log, "cancel", "admin/b")
    assert ({}, {}, {}) == (*await _state(log), await _live(log))


@pytest.mark.parametrize("manual", [False, True])
async def test_a_cancellation_of_what_is_being_sent_lets_it_finish_and_nothing_follow(
    log: client.Log, manual: bool
) -> None:
    if manual:
        await _ask(log, "retry", "admin/a")
    await worlds.begin(log, FIRST)
    if manual:
        await _ask(log, "retry", "admin/b")
    assert isinstance(await _ask(log, "cancel"), requests.Requested)
    assert {FIRST: "mc" if manual else "c"} == await worlds.wants(log)
    assert ("cancel.requested", FIRST, "admin/req_9") == await _last(log)
    assert {FIRST: "c"} == await _live(log)
    await worlds.record(log, FIRST, retry_in_ms=5)
    assert ({}, {}, {}) == (*await _state(log), await _live(log))


async def test_a_retry_after_a_cancellation_while_it_is_being_sent_follows(log: client.Log) -> None:
    await worlds.begin(log, FIRST)
    await _ask(log, "cancel", "admin/a")
    await _ask(log, "retry", "admin/b")
    assert {FIRST: "r"} == await worlds.wants(log) == await _live(log)
    await worlds.record(log, FIRST, succeeded=True)
    assert ({SECOND: worlds.NOW}, {SECOND: "r"}) == await _state(log)


@pytest.mark.invariant("D4")
async def test_a_cancellation_of_a_closed_delivery_changes_nothing(log: client.Log) -> None:
    await _close(log)
    assert requests.Closed() == await _ask(log, "cancel")
    assert 1 == len(await worlds.entries(log, "dlv"))


@pytest.mark.parametrize("what", ["retry", "cancel"])
@pytest.mark.parametrize("state", ["waiting", "leased", "closed"])
async def test_asking_again_in_the_same_request_gets_the_first_answer(
    log: client.Log, what: Literal["retry", "cancel"], state: str
) -> None:
    if state == "leased":
        await worlds.begin(log, FIRST)
    if state == "closed":
        await _close(log)
    first = await _ask(log, what)
    before = *await _state(log), await worlds.entries(log, "dlv")
    assert first == await _ask(log, what)
    assert before == (*await _state(log), await worlds.entries(log, "dlv"))


async def test_the_first_answer_stands_when_its_attempt_is_over(log: client.Log) -> None:
    first = await _ask(log, "retry")
    await worlds.begin(log, FIRST)
    await worlds.record(log, FIRST, succeeded=True)
    assert first == await _ask(log, "retry")
    assert {} == await worlds.due(log)


async def test_the_same_request_may_speak_of_two_deliveries(log: client.Log) -> None:
    await worlds.make_due(log, b1=worlds.NOW + 5)
    await _ask(log, "retry")
    await _ask(log, "retry", destination="b")
    assert {FIRST: worlds.NOW, "1/5-0/b@1": worlds.NOW} == await worlds.due(log)


async def test_a_reply_that_was_lost_is_asked_for_again(log: client.Log, monkeypatch: pytest.MonkeyPatch) -> None:
    real, lost = log.call, []

    async def call(script: client.Script, calls: list[client.Call]) -> list[Any]:
        reply = await real(script, calls)
        if not lost:
            lost.append(reply)
            raise errors.StoreUnavailable("redis", "TimeoutError")
        return reply

    monkeypatch.setattr(log, "call", call)
    assert isinstance(await _ask(log, "retry"), requests.Requested)
    assert ({FIRST: "r"}, 1) == (await worlds.wants(log), len(await worlds.entries(log, "dlv")))


@pytest.mark.parametrize("behind", [0, 1, 2, 3, 4, 5, 9])
async def test_a_gap_of_any_length_is_closed_a_page_at_a_time(
    log: client.Log, monkeypatch: pytest.MonkeyPatch, behind: int
) -> None:
    monkeypatch.setattr(requests, "PAGE", 3)
    await worlds.begin(log, FIRST)
    await worlds.record(log, FIRST, retry_in_ms=5)
    for n in range(behind):
        await log.command("ZADD", log.keys.partitions[worlds.P].due, 1, f"1/{n}-9/d@1")
        await worlds.record(log, f"1/{n}-9/d@1", succeeded=True)
    await worlds.begin(log, SECOND)
    await worlds.record(log, SECOND, succeeded=True)
    first = await _ask(log, "retry")
    assert {THIRD: worlds.NOW} == await worlds.due(log)
    assert first == await _ask(log, "retry")
    assert {THIRD: "r"} == await worlds.wants(log)


async def test_a_projection_too_far_behind_is_an_outage_and_asks_for_nothing(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "PAGE", 1)
    monkeypatch.setattr(requests, "LIMIT_S", 0.0)
    await _close(log)
    with pytest.raises(errors.StoreUnavailable, match="too far behind"):
        await _ask(log, "retry")
    assert ({}, 1) == (await worlds.due(log), len(await worlds.entries(log, "dlv")))


async def test_large_answers_behind_the_look_are_read_a_few_at_a_time(log: client.Log) -> None:
    """What Lua holds at once is bounded, however large the recorded answers are."""
    await worlds.begin(log, FIRST)
    await worlds.record(log, FIRST)
    await worlds.record_large_answers(log)
    await log.command("SCRIPT", "FLUSH")
    assert isinstance(await _ask(log, "retry"), requests.Requested)
    assert {SECOND: worlds.NOW} == await worlds.due(log)
    assert await worlds.lua_bytes(log) < worlds.LARGE_ANSWERS * worlds.LARGE_ANSWER_BYTES / 2


@pytest.mark.parametrize("following", ["none", "auto", "manual"])
async def test_what_an_answer_of_the_destination_says_is_not_taken_for_what_follows(
    log: client.Log, following: str
) -> None:
    response = msgspec.Raw(b'{"body":{"next":"%s"},"text":"\\"next\\":\\"none\\""}' % following.encode())
    detail = msgspec.structs.replace(worlds.DETAIL, response_data=response)
    recording = tasks.Recording(FIRST, worlds.TENANT, "e1", True, None, envelope.encode_detail(detail))
    await worlds.begin(log, FIRST)
    await tasks.record(log, {worlds.P: [recording]}, "w")
    assert requests.Closed() == await _ask(log, "cancel")


async def test_entries_that_do_not_decode_are_passed_over(log: client.Log) -> None:
    dlv = log.keys.partitions[worlds.P].dlv
    for fields in (
        ["x", "y"],
        ["ref", FIRST],
        ["ref", "nonsense", "t", "attempt.failed"],
        ["t", "delivery.skipped"],
    ):
        await log.command("XADD", dlv, "*", *fields)
    assert isinstance(await _ask(log, "retry"), requests.Requested)
    assert {FIRST: worlds.NOW} == await worlds.due(log)


async def test_a_destination_id_that_looks_like_a_pattern_is_taken_literally(log: client.Log) -> None:
    odd = "a/b@c%d+(.*)[x"
    await log.command("ZADD", log.keys.partitions[worlds.P].due, worlds.NOW + 5, f"999999999/5-0/{odd}@12")
    answer = await _ask(log, "retry", destination=odd, created=12, last=999_999_998)
    assert isinstance(answer, requests.Requested)
    assert {f"999999999/5-0/{odd}@12": "r"} == await worlds.wants(log)


@pytest.mark.parametrize(
    "name", ["retry.requested.v1.json", "cancel.requested.v1.json", "delivery.cancelled.v1.json"]
)
async def test_the_script_writes_the_golden_entry_byte_for_byte(log: client.Log, name: str) -> None:
    _, _, fields = golden.read(name)
    entry = golden.EXPECTED[name]
    assert isinstance(entry, events.DeliveryEntry)
    score = worlds.NOW + (10.5 if name.startswith("cancel") else 10)
    await log.command("ZADD", log.keys.partitions[worlds.P].due, score, str(entry.task))
    delivery = requests.Delivery(
        entry.tenant, entry.event_id, entry.task.event, entry.task.destination, entry.task.created, 1, False, "0-0"
    )
    what: Literal["retry", "cancel"] = "retry" if name.startswith("retry") else "cancel"
    answer = await requests.request(log, what, delivery, entry.by)
    assert isinstance(answer, requests.Requested | requests.Cancelled)
    [found] = await log.command("XRANGE", log.keys.partitions[worlds.P].dlv, "-", "+")
    assert positions.of_entry("dlv", worlds.P, found[0]) == answer.position
    assert [part for pair in fields.items() for part in pair] == found[1]


async def _manual_attempts(log: client.Log, count: int) -> None:
    """The first attempt and so many manual ones fail, and nothing follows; the caller knows nothing of it."""
    await worlds.begin(log, FIRST)
    await worlds.record(log, FIRST)
    for n in range(2, count + 2):
        assert isinstance(await _ask(log, "retry", f"admin/m{n}"), requests.Requested)
        await worlds.begin(log, f"{n}/5-0/d@1")
        await worlds.record(log, f"{n}/5-0/d@1")


@pytest.mark.parametrize("page", [1, 250])
async def test_the_manual_attempts_of_a_closed_delivery_are_found_in_the_log(
    log: client.Log, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(requests, "PAGE", page)
    await _manual_attempts(log, 2)
    assert {} == await worlds.manuals(log)
    await _ask(log, "retry", "admin/again")
    assert {"/5-0/d@1": "2"} == await worlds.manuals(log)
    entry = (await worlds.entries(log, "dlv"))[-1]
    assert isinstance(entry, events.DeliveryEntry)
    assert 1 == entry.automatic
    fold = folds.Fold()
    for each in await worlds.entries(log, "dlv"):
        assert isinstance(each, events.DeliveryEntry)
        fold.entry(0, each)
    assert {"4/5-0/d@1": folds.Live("r", 0, 2)} == fold.tasks()


async def test_the_caller_s_count_of_manual_attempts_holds_where_the_log_tells_no_newer_one(
    log: client.Log,
) -> None:
    await log.command("DEL", log.keys.partitions[worlds.P].due)
    await _ask(log, "retry", last=5, closed=True, manual=3)
    assert {"/5-0/d@1": "3"} == await worlds.manuals(log)


async def test_a_cancelled_or_skipped_delivery_keeps_no_count(log: client.Log) -> None:
    await _manual_attempts(log, 1)
    await _ask(log, "retry", "admin/again")
    await _ask(log, "cancel", "admin/stop")
    assert {} == await worlds.manuals(log)
    await _ask(log, "retry", "admin/once_more")
    assert {"/5-0/d@1": "1"} == await worlds.manuals(log)
    await worlds.show(log)
    assert [tasks.Dropped("skipped")] == await worlds.begin(log, THIRD)
    assert {} == await worlds.manuals(log)
