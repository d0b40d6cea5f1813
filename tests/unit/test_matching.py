"""What a publish spends on matching: little on the loop, more on a thread, never without an end or a result."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from outpost import errors
from outpost.commands import matching
from outpost.domain import events, filter_operators
from outpost.domain import tenant as tenants

pytestmark = pytest.mark.unit

TIMEOUT_S = 60


def state(*filters: dict[str, object] | None, tenant: str = "acme", **changes: object) -> tenants.TenantState:
    """A tenant with one destination for each filter, named by their numbers."""
    made = {
        str(number): tenants.Destination(
            **{
                "id": str(number),
                "type": "webhook",
                "topics": ("*",),
                "config": {},
                "credentials": "",
                "created_ms": 0,
                "updated_ms": 0,
                "filter": each,
                "created": number,
                **changes,
            }
        )
        for number, each in enumerate(filters)
    }
    return tenants.TenantState(3, tenants.Tenant(tenant, None, 0, 0), made)


def event(data: object, tenant: str = "acme", **changes: object) -> matching.Publish:
    return matching.Publish(
        tenant, "evt_1", "user.created", "2026-08-20T10:00:00.000Z", json.dumps(data).encode(), **changes
    )


def found(*numbers: int) -> tuple[events.Matched, ...]:
    return tuple(events.Matched(str(number), number) for number in numbers)


LONG = {"a": [*range(2_000)]}  # a search of it costs 2,000 steps
LAST, ABSENT = {"data": {"a": 1_999}}, {"data": {"a": "absent"}}


async def test_a_common_publish_is_matched_on_the_loop() -> None:
    before = set(_matching_threads())
    matcher = matching.Matcher()
    request = event({"plan": "pro"})
    wanted = state(None, {"data": {"plan": "pro"}}, {"data": {"plan": "free"}})
    assert found(0, 1) == matcher.at_once(wanted, request)
    assert found(0, 1) == await matcher.match(wanted, request)
    assert set(_matching_threads()) <= before


def _matching_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("matching")]


async def test_the_filters_of_one_publish_share_its_steps_on_the_loop() -> None:
    """Each of them alone would be matched there."""
    matcher = matching.Matcher()
    assert found(0) == matcher.at_once(state(LAST), event(LONG))
    assert matcher.at_once(state(LAST, ABSENT, LAST), event(LONG)) is None


async def test_what_takes_longer_has_the_same_result_on_the_thread() -> None:
    matcher = matching.Matcher()
    many = state(*[LAST, ABSENT] * 20)
    assert matcher.at_once(many, event(LONG)) is None
    assert found(*range(0, 40, 2)) == await matcher.match(many, event(LONG))


async def test_filters_that_need_too_much_refuse_the_publish() -> None:
    """Neither a match nor no match would be true."""
    matcher = matching.Matcher()
    with pytest.raises(errors.Invalid) as caught:
        await matcher.match(state(*[ABSENT] * 130), event(LONG))
    assert ["the filters of the tenant need more than 250000 steps over this event"] == [
        problem.sentence() for problem in caught.value.problems
    ]


async def test_a_tenant_that_needed_the_thread_goes_there_at_once_until_it_changes() -> None:
    matcher = matching.Matcher()
    costly = state(*[LAST] * 5)
    assert matcher.at_once(costly, event(LONG)) is None
    assert matcher.at_once(costly, event({"a": 1_999})) is None
    changed = tenants.TenantState(4, costly.tenant, costly.destinations)
    assert found(0, 1, 2, 3, 4) == matcher.at_once(changed, event({"a": 1_999}))


async def test_a_tenant_comes_back_to_the_loop_once_its_events_need_less() -> None:
    matcher = matching.Matcher()
    costly = state(*[LAST] * 5)
    await matcher.match(costly, event(LONG))
    assert found(0, 1, 2, 3, 4) == await matcher.match(costly, event({"a": 1_999}))
    assert found() == matcher.at_once(costly, event({"a": 1}))


async def test_the_loop_runs_between_the_slices_of_the_thread() -> None:
    matcher = matching.Matcher()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    try:
        await matcher.match(state(*[LAST] * 100), event(LONG))
    finally:
        counting.cancel()
    slices = 100 * len(LONG["a"]) // matching.SLICE_STEPS
    assert turns > slices


async def test_tenants_take_turns_on_the_thread() -> None:
    """A tenant with many publishes that wait does not keep another waiting for more than one of them."""
    matcher = matching.Matcher()
    busy, other = state(*[LAST] * 10, tenant="busy"), state(*[LAST] * 10, tenant="other")
    order: list[str] = []

    async def publish(of: tenants.TenantState) -> None:
        assert of.tenant is not None
        await matcher.match(of, event(LONG, of.tenant.id))
        order.append(of.tenant.id)

    async with asyncio.timeout(TIMEOUT_S):
        await asyncio.gather(*(publish(busy) for _ in range(8)), publish(other))
    assert order.index("other") <= 2


async def test_what_waits_for_the_thread_is_bounded_for_each_tenant() -> None:
    matcher = matching.Matcher()
    costly, other = state(*[LAST] * 10), state(*[LAST] * 10, tenant="other")
    waiting = [
        asyncio.create_task(matcher.match(costly, event(LONG))) for _ in range(matching.MAX_TENANT_WAITING + 5)
    ]
    elsewhere = asyncio.create_task(matcher.match(other, event(LONG, "other")))
    async with asyncio.timeout(TIMEOUT_S):
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert found(*range(10)) == await elsewhere
    assert [errors.Busy] * 5 == [type(each) for each in results if isinstance(each, Exception)]
    assert found(*range(10)) == await matcher.match(costly, event(LONG))


async def test_what_waits_for_the_thread_is_bounded_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "MAX_WAITING", 3)
    matcher = matching.Matcher()
    requests = [(state(*[LAST] * 10, tenant=name), event(LONG, name)) for name in "abcde"]
    async with asyncio.timeout(TIMEOUT_S):
        results = await asyncio.gather(*(matcher.match(*each) for each in requests), return_exceptions=True)
    assert [errors.Busy] * 2 == [type(each) for each in results if isinstance(each, Exception)]


async def test_a_publish_that_waits_too_long_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "DEADLINE_S", 0.0)
    with pytest.raises(errors.Busy):
        await matching.Matcher().match(state(*[LAST] * 10), event(LONG))


async def test_a_publish_that_is_given_up_leaves_the_thread_to_others() -> None:
    matcher = matching.Matcher()
    costly = state(*[LAST] * 10)
    given_up = asyncio.create_task(matcher.match(costly, event(LONG)))
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    async with asyncio.timeout(TIMEOUT_S):
        assert found(*range(10)) == await matcher.match(costly, event(LONG))


async def test_the_topics_of_many_destinations_are_counted_too() -> None:
    patterns = ("*a*b*c*d*e*f*g*h", "*z*z*z*z*z*z*z*z")
    matcher = matching.Matcher()
    many = state(*[None] * 300, topics=patterns)
    assert matcher.at_once(many, event({})) is None
    assert found() == await matcher.match(many, event({}))
    assert found(*range(300)) == matching.Matcher().at_once(state(*[None] * 300), event({}))


async def test_a_named_destination_is_the_only_one_that_is_tried() -> None:
    matcher = matching.Matcher()
    wanted = state(*[ABSENT] * 200, None)
    assert found(200) == matcher.at_once(wanted, event(LONG, destination="200"))
    assert found() == matcher.at_once(wanted, event(LONG, destination="nobody"))


def test_a_publish_without_filters_does_not_read_its_data() -> None:
    run = filter_operators.Run()
    assert found(0) == matching.match(state(None), event(LONG), run)
    assert run.root is None
