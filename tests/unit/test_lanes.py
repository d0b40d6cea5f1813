"""Lanes: whose turn it is, what a destination may hold, and that the counts are right whatever happens."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from outpost.dispatch.fairness import aside as asides
from outpost.dispatch.fairness import lane as lane_rules
from outpost.dispatch.fairness import lanes as all_lanes
from outpost.dispatch.fairness import slots as send_slots
from outpost.dispatch.fairness import tenant as tenants
from outpost.dispatch.fairness import unproven
from outpost.queue import base
from tests.harness.lane_tasks import P, again, names, task


def test_turns_go_round_the_tenants_then_round_the_destinations_of_each():
    lanes = all_lanes.Lanes(cap=10)
    lanes.receive([task("a", "x", n) for n in (1, 2, 3)] + [task("a", "y", n) for n in (4, 5)])
    lanes.receive([task("b", "z", n) for n in (6, 7)])
    assert ["a:x:1", "b:z:6", "a:y:4", "b:z:7", "a:x:2", "a:y:5", "a:x:3"] == names(lanes.take(10))


def test_a_tenant_with_many_destinations_gets_no_more_turns_than_one_with_one():
    lanes = all_lanes.Lanes(cap=100)
    lanes.receive([task("crowd", f"d{n}", n) for n in range(50)])
    lanes.receive([task("single", "d", 100 + n) for n in range(50)])
    assert {"crowd": 10, "single": 10} == Counter(t.event.tenant for t in lanes.take(20))


@pytest.mark.parametrize("doubtful", [None, 50], ids=["all alike", "doubtful apart"])
def test_a_first_attempt_waits_for_one_retry_at_most_however_many_are_due(doubtful: int | None):
    lanes = all_lanes.Lanes(cap=10, doubtful=doubtful)
    lanes.receive([again(task(f"t{n}", "d", n)) for n in range(10_000)])
    lanes.take(3)
    for n in range(10_000, 10_003):
        lanes.receive([task("live", f"d{n}", n)])
        assert f"live:d{n}:{n}" in names(lanes.take(2))


def test_retries_wait_for_one_first_attempt_each_however_many_there_are():
    lanes = all_lanes.Lanes(cap=10)
    lanes.receive([task(f"t{n}", "d", n) for n in range(100)])
    lanes.receive([again(task(f"r{n}", "d", n)) for n in range(5)])
    assert 5 == sum(t.id.attempt > 1 for t in lanes.take(10))
    assert 95 == len(lanes.take(1_000))


def test_a_destination_at_its_cap_waits_while_the_others_go_on():
    lanes = all_lanes.Lanes(cap=2)
    lanes.receive([task("a", "slow", n) for n in range(5)])
    lanes.receive([task("a", "fast", n) for n in range(10, 12)])
    taken = lanes.take(100)
    assert ["a:fast:10", "a:fast:11", "a:slow:0", "a:slow:1"] == sorted(names(taken))
    assert [] == lanes.take(100)
    lanes.done(next(t for t in taken if t.id.destination == "slow"))
    assert ["a:slow:2"] == names(lanes.take(100))


def test_namesakes_of_other_creations_and_tenants_have_lanes_of_their_own():
    lanes = all_lanes.Lanes(cap=1)
    lanes.receive([task("a", "d", 1), task("a", "d", 2, created=7), task("b", "d", 3)])
    assert 3 == len(lanes.take(10))


def test_a_task_that_waits_already_is_not_taken_in_twice():
    lanes = all_lanes.Lanes(cap=10)
    lanes.receive([task("a", "d", 1), task("a", "d", 1)])
    lanes.receive([task("a", "d", 1)])
    assert 1 == len(lanes.take(10))
    assert 0 == len(lanes)


def test_a_task_under_way_is_not_taken_in_again_until_it_is_done():
    """While Redis is away a lease may end before the attempt is recorded; its claim must not send it again."""
    lanes = all_lanes.Lanes(cap=10)
    lanes.receive([task("a", "d", 1)])
    taken = lanes.take(1)
    lanes.receive([task("a", "d", 1)])
    assert [] == lanes.take(1)
    lanes.done(taken[0])
    lanes.receive([task("a", "d", 1)])
    assert 1 == len(lanes.take(1))


def test_a_task_that_goes_back_is_the_next_of_its_lane():
    lanes = all_lanes.Lanes(cap=10)
    lanes.receive([task("a", "d", n) for n in (1, 2)])
    first = lanes.take(1)[0]
    lanes.back(first)
    assert ["a:d:1", "a:d:2"] == names(lanes.take(10))


def test_what_exceeds_a_lane_is_put_aside_and_the_rest_is_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lane_rules, "MOST_WAITING", 2)
    lanes = all_lanes.Lanes(cap=10)
    lanes.receive([task("a", "x", n) for n in range(4)] + [task("a", "y", 9)])
    assert ["a:x:2", "a:x:3"] == names([t for t, _ in lanes.take_overflow()])
    assert [] == lanes.take_overflow()
    assert 3 == len(lanes)


def test_a_process_that_is_full_puts_everything_aside_and_keeps_no_empty_lane(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(all_lanes, "MOST_TASKS", 4)
    lanes = all_lanes.Lanes(cap=10)
    lanes.receive([task("a", "x", 1), task("a", "x", 2), task("b", "x", 3), task("c", "x", 4)])
    assert lanes.full
    lanes.receive([task("d", "y", 5), task("a", "x", 6)])
    assert [("d:y:5", all_lanes.FULL_DELAY_MS), ("a:x:6", all_lanes.FULL_DELAY_MS)] == [
        (*names([t]), delay_ms) for t, delay_ms in lanes.take_overflow()
    ]
    assert {"x"} == {key[1] for key in lanes._lanes}
    assert 3 == len(lanes._tenants)


def test_payloads_beyond_the_byte_budget_are_left_out_and_the_tasks_wait_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(all_lanes, "MOST_BYTES", 120)
    lanes = all_lanes.Lanes(cap=10)
    lanes.receive([task("a", "x", n, size=60) for n in range(3)])
    assert [] == lanes.take_overflow()
    taken = lanes.take(3)
    assert [(True, 60), (False, 0), (False, 0)] == [(t.loaded, len(t.event.data)) for t in taken]
    assert ["a:x:0", "a:x:1", "a:x:2"] == names(taken)


def test_a_destination_that_has_not_answered_is_probed_one_by_one_until_it_does():
    lanes = all_lanes.Lanes(cap=10, doubtful=100)
    lanes.receive([task("a", "x", n) for n in range(5)])
    first = lanes.take(10)
    assert ["a:x:0"] == names(first)
    lanes.done(first[0], answered=True)
    assert ["a:x:1", "a:x:2", "a:x:3", "a:x:4"] == names(lanes.take(10))


def test_destinations_that_do_not_answer_share_their_part_of_the_slots_and_the_others_go_on():
    lanes = all_lanes.Lanes(cap=10, doubtful=3)
    lanes.receive([task("good", "g", 1)])
    lanes.done(lanes.take(1)[0], answered=True)
    lanes.receive([task("dead", f"d{n}", n) for n in range(10)])
    lanes.receive([task("good", "g", n) for n in range(100, 106)])
    taken = lanes.take(20)
    assert {"dead": 3, "good": 6} == Counter(t.event.tenant for t in taken)
    for each in taken[:]:
        lanes.done(each, answered=each.event.tenant == "good")
    assert {"dead": 3} == Counter(t.event.tenant for t in lanes.take(20))


def test_what_a_lane_learnt_outlives_it_and_a_time_out_makes_it_doubtful_again():
    lanes = all_lanes.Lanes(cap=10, doubtful=100)
    lanes.receive([task("a", "x", 1)])
    lanes.done(lanes.take(1)[0], answered=True)
    assert {} == lanes._lanes
    lanes.receive([task("a", "x", n) for n in range(2, 6)])
    taken = lanes.take(3)
    assert 3 == len(taken)
    lanes.done(taken[0], answered=False)
    assert [] == lanes.take(10)  # two are under way still, and a doubtful one is probed by one
    lanes.done(taken[1])
    lanes.done(taken[2])
    assert ["a:x:5"] == names(lanes.take(10))


def test_a_destination_that_times_out_keeps_few_tasks_in_memory_and_the_rest_comes_back_late(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(lane_rules, "MOST_TIMED_OUT", 2)
    lanes = all_lanes.Lanes(cap=10, doubtful=100)
    lanes.receive([task("a", "x", 1)])
    lanes.done(lanes.take(1)[0], answered=False)
    lanes.receive([task("a", "x", n) for n in range(2, 6)])
    gone, delays_ms = zip(*lanes.take_overflow(), strict=True)
    assert ["a:x:4", "a:x:5"] == names(list(gone))
    soonest, latest = lane_rules.SILENT_DELAY_MS
    assert all(soonest <= ms <= latest for ms in delays_ms)


def test_what_is_dropped_is_never_taken():
    lanes = all_lanes.Lanes(cap=10)
    lanes.receive([task("a", "x", n) for n in (1, 2)] + [task("b", "y", 3)])
    lanes.drop({(P, task("a", "x", 1).text), (P, task("b", "y", 3).text), (P, "1/99-0/unknown@1")})
    assert ["a:x:2"] == names(lanes.take(10))
    assert {} == lanes.held()


async def test_whoever_waits_for_a_change_wakes_when_a_task_comes_or_a_slot_gets_free():
    lanes = all_lanes.Lanes(cap=1)
    async with asyncio.timeout(60):
        waiting = asyncio.create_task(lanes.changed())
        await asyncio.sleep(0)
        lanes.receive([task("a", "x", 1)])
        await waiting
        taken = lanes.take(1)[0]
        waiting = asyncio.create_task(lanes.changed())
        await asyncio.sleep(0)
        lanes.done(taken)
        await waiting


async def test_probes_start_one_after_another_and_whoever_waits_for_the_next_is_woken():
    lanes = all_lanes.Lanes(cap=10, doubtful=100, fill_s=1.0)
    lanes.receive([task("dead", f"d{n}", n) for n in range(50)])
    assert unproven.AT_ONCE == len(lanes.take(50))
    assert [] == lanes.take(50)
    async with asyncio.timeout(60):
        await lanes.changed()
    assert 1 <= len(lanes.take(50)) < 10


def test_a_probe_that_is_answered_lets_the_next_start_at_once():
    lanes = all_lanes.Lanes(cap=1, doubtful=100, fill_s=1_000.0)
    lanes.receive([task("new", f"d{n}", n) for n in range(100)])
    for _ in range(100 // unproven.AT_ONCE):
        taken = lanes.take(100)
        assert unproven.AT_ONCE == len(taken)
        for each in taken:
            lanes.done(each, answered=True)


def test_a_new_destination_goes_before_those_that_are_known_not_to_answer():
    lanes = all_lanes.Lanes(cap=1, doubtful=1)
    for n in range(20):
        lanes.receive([task(f"dead{n}", "d", 100 * i + n) for i in range(4)])
    for _ in range(40):  # the known ones and the new ones by turns
        lanes.done(lanes.take(1)[0], answered=False)
    lanes.receive([task("new", "d", 1_000)])
    taken = []
    for _ in range(2):
        taken += lanes.take(1)
        lanes.done(taken[-1], answered=False)
    assert "new:d:1000" in names(taken)


def test_what_does_not_answer_leaves_room_for_newcomers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(all_lanes, "MOST_TASKS", 20)
    lanes = all_lanes.Lanes(cap=1, doubtful=5)
    lanes.receive([task("dead", "x", 1)])
    lanes.done(lanes.take(1)[0], answered=False)
    lanes.receive([task("dead", "x", n) for n in range(15)])
    assert [10, 5] == [len(lanes), len(lanes.take_overflow())]
    lanes.receive([task("knocking", "k", n) for n in range(8)])
    assert [15, 3] == [len(lanes), len(lanes.take_overflow())]
    lanes.receive([task("new", f"d{n}", n) for n in range(4)])
    assert [18, 1] == [len(lanes), len(lanes.take_overflow())]
    assert not lanes.full


def test_what_waits_for_destinations_that_stop_to_answer_leaves_where_it_is_too_much(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(all_lanes, "MOST_TASKS", 20)
    monkeypatch.setattr(all_lanes, "TENANT_TASKS_SHARE", 1)
    monkeypatch.setattr(lane_rules, "MOST_TIMED_OUT", 3)
    lanes = all_lanes.Lanes(cap=1, doubtful=5)
    for number, tenant in enumerate("ab"):
        lanes.receive([task(tenant, "d", 100 + number)])
        lanes.done(lanes.take(1)[0], answered=True)
    lanes.receive([task("a", "d", n) for n in range(9)] + [task("b", "d", n) for n in range(10, 19)])
    for each in lanes.take(2):
        lanes.done(each, answered=False)
    gone = [t for t, _ in lanes.take_overflow()]
    assert ["b:d:18", "b:d:17", "b:d:16", "b:d:15", "b:d:14"] == names(gone)
    assert [8 + 3, False] == [len(lanes), any(t.loaded or t.event.data for t in gone)]


def test_lanes_that_flood_leave_room_for_every_newcomer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(all_lanes, "MOST_TASKS", 1_000)
    monkeypatch.setattr(lane_rules, "LEAST_WAITING", 10)
    lanes = all_lanes.Lanes(cap=1)
    for n in range(10):
        lanes.receive([task("flood", f"d{n}", i) for i in range(1_000)])
    assert not lanes.full
    lanes.take_overflow()
    lanes.receive([task("single", "d", 1)])
    assert [] == lanes.take_overflow()


def test_while_a_flood_is_read_a_lane_sends_a_few_at_a_time_and_as_many_as_ever_afterwards():
    lanes = all_lanes.Lanes(cap=16)
    lanes.receive([task("a", "x", n) for n in range(40)])
    lanes.let_read(True)
    first = lanes.take(100)
    assert 16 // send_slots.READING_SHARE == len(first)
    lanes.let_read(False)
    lanes.done(first[0])
    assert 15 == len(lanes.take(100))


def test_what_is_put_aside_comes_back_one_after_another_at_the_rate_of_the_lane(monkeypatch: pytest.MonkeyPatch):
    now = 1_000.0
    monkeypatch.setattr(lane_rules.time, "monotonic", lambda: now)
    key = ("a", "x", 1)
    lane = lane_rules.Lane(key, tenants.Tenant("a"), standing="answers", measured_at=now - 10, finished=1_000)
    assert [1_000, 1_000] == [lane.put_aside_ms() for _ in range(2)]  # the shortest
    for _ in range(998):
        last = lane.put_aside_ms()
    assert int(10_000 / lane_rules.SOONER) == last  # a thousand at a hundred a second
    for _ in range(5_000):
        last = lane.put_aside_ms()
    assert lane_rules.LONGEST_DELAY_MS == last


def test_what_was_put_aside_comes_back_at_the_first_answer():
    lanes = all_lanes.Lanes(cap=10, doubtful=10)
    lanes.receive([task("a", "hangs", 0), task("a", "other", 0)])
    hanging, other = sorted(lanes.take(2), key=lambda t: t.id.destination)
    lanes.done(hanging, answered=False)
    lanes.done(other, answered=False)
    late = [task("a", "hangs", n) for n in range(1, 300)]
    lanes.receive(late + [task("a", "other", n) for n in range(1, 200)])
    aside = lanes.take_overflow()
    assert [199, 99] == [sum(t.id.destination == name for t, _ in aside) for name in ("hangs", "other")]
    assert min(delay_ms for _, delay_ms in aside) >= lane_rules.SILENT_DELAY_MS[0]
    assert [] == lanes.take_recalled()
    lanes.receive(late[250:251])  # one comes back by itself; there is no room for it, so it is put aside once more
    lanes.done(next(t for t in lanes.take(2) if t.id.destination == "hangs"), answered=True)
    expected = sorted(t.text for t, _ in aside if t.id.destination == "hangs")
    assert expected == sorted(text for _, text in lanes.take_recalled())
    assert [] == lanes.take_recalled()
    assert 99 == len(lanes._aside)
    lanes.receive(late)
    assert len(late) == sum(
        len(lane.waiting) + lane.in_flight for key, lane in lanes._lanes.items() if key[1] == "hangs"
    )


def test_what_is_put_aside_where_a_destination_has_not_answered_yet_comes_back_too(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(all_lanes, "MOST_TASKS", 200)
    lanes = all_lanes.Lanes(cap=10, doubtful=10)
    lanes.receive([task(tenant, "d", n + ord(tenant) * 100) for tenant in "abcd" for n in range(60)])
    texts = {t.text for t, delay_ms in lanes.take_overflow() if delay_ms != all_lanes.FULL_DELAY_MS}
    assert texts
    for each in lanes.take(4):
        lanes.done(each, answered=True)
    assert texts == {text for _, text in lanes.take_recalled()}


def test_the_names_of_what_was_put_aside_have_a_bound_and_a_tenant_a_share_of_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(asides, "MOST_NAMES", 12)
    aside = asides.Aside()
    for n in range(20):
        aside.add(("a", "d", 1), (P, f"a{n}"))
    for n in range(20):
        aside.add(("b", "d", 1), (P, f"b{n}"))
    assert [6, 3] == [len(aside.take((tenant, "d", 1))) for tenant in "ab"]
    assert [0, {}, {}] == [len(aside), aside._names, aside._tenants]
    aside.add(("c", "d", 1), (P, "c"))
    aside.back(("c", "d", 1), (P, "another"))
    aside.back(("c", "d", 1), (P, "c"))
    assert [0, {}, {}] == [len(aside), aside._names, aside._tenants]


MOST_WAITING, MOST_IN_LANE, MOST_OF_BYTES, CAP, TENANT_CAP = 12, 5, 150, 2, 4


class LanesMachine(RuleBasedStateMachine):
    """Lanes beside a model that is a handful of plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(all_lanes, "MOST_TASKS", MOST_WAITING)
        self.patch.setattr(lane_rules, "MOST_WAITING", MOST_IN_LANE)
        self.patch.setattr(all_lanes, "MOST_BYTES", MOST_OF_BYTES)
        self.lanes = all_lanes.Lanes(CAP, tenant_slots=TENANT_CAP)
        self.waiting: dict[lane_rules.Key, list[base.Task]] = {}
        self.flying: list[base.Task] = []

    def teardown(self) -> None:
        self.patch.undo()

    def _all_waiting(self) -> list[base.Task]:
        return [t for lane in self.waiting.values() for t in lane]

    @rule(
        tenant=st.sampled_from("ab"),
        destination=st.sampled_from("xyz"),
        number=st.integers(1, 6),
        size=st.integers(0, 40),
    )
    def receive(self, tenant: str, destination: str, number: int, size: int) -> None:
        new = task(tenant, destination, number + 10 * ord(tenant), size=size)
        here = {t.text for t in self._all_waiting() + self.flying}
        held = Counter(t.event.tenant for t in self._all_waiting())
        full = 2 * held[tenant] >= MOST_WAITING - (held.total() - held[tenant])  # half of what the others leave
        lane = self.waiting.setdefault(new.lane, [])
        expected: list[str] = []
        if new.text not in here:
            if full or len(lane) >= MOST_IN_LANE:
                expected = [new.text]
            else:
                lane.append(new)
        self.lanes.receive([new])
        assert expected == [t.text for t, _ in self.lanes.take_overflow()]

    @rule(most=st.integers(0, 5))
    def take(self, most: int) -> None:
        flying = Counter(t.lane for t in self.flying)
        ready = Counter[str]()
        for key, lane in self.waiting.items():
            ready[key[0]] += min(len(lane), CAP - flying[key])
        for tenant, number in Counter(t.event.tenant for t in self.flying).items():
            ready[tenant] = min(ready[tenant], TENANT_CAP - number)
        startable = sum(min(number, TENANT_CAP) for number in ready.values())
        taken = self.lanes.take(most)
        assert min(most, startable) == len(taken)
        for each in taken:
            assert self.waiting[each.lane].pop(0).text == each.text
            self.flying.append(each)
        assert all(CAP >= n for n in Counter(t.lane for t in self.flying).values())

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), again=st.booleans())
    def finish(self, data: st.DataObject, again: bool) -> None:
        each = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        if again:
            self.lanes.back(each)
            self.waiting.setdefault(each.lane, []).insert(0, each)
        else:
            self.lanes.done(each)

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        here = sorted((t.partition, t.text) for t in self._all_waiting() + self.flying)
        lost = data.draw(st.sets(st.sampled_from([*here, (P, "1/0-0/none@1")])))
        self.lanes.drop(lost)
        for key, lane in self.waiting.items():
            self.waiting[key] = [t for t in lane if (t.partition, t.text) not in lost]

    @invariant()
    def counts_are_right(self) -> None:
        waiting = self._all_waiting()
        assert len(waiting) == len(self.lanes)
        assert sorted(t.text for t in waiting) == sorted(self.lanes.held().get(P, []))
        kept = [t for lane in self.lanes._lanes.values() for t in lane.waiting]
        assert sum(len(t.event.data) for t in kept) == self.lanes._bytes <= MOST_OF_BYTES
        for tenant in {t.event.tenant for t in waiting + self.flying}:
            record = self.lanes._tenants.of(tenant)
            assert [sum(t.event.tenant == tenant for t in some) for some in (waiting, self.flying)] == [
                record.waiting,
                record.in_flight,
            ]
            held_bytes = sum(len(t.event.data) for t in kept if t.event.tenant == tenant)
            assert held_bytes == record.waiting_bytes <= MOST_OF_BYTES // 2
        assert len({t.event.tenant for t in waiting + self.flying}) == len(self.lanes._tenants)
        live = {t.lane for t in waiting + self.flying}
        assert live == set(self.lanes._lanes)
        assert {t.text for t in self.flying} == {text for _, text in self.lanes._taken}


LanesMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow]
)
test_counts_and_order_are_those_of_a_plain_model = LanesMachine.TestCase


def test_a_process_is_hungry_by_what_may_be_sent_to_destinations_that_answer():
    lanes = all_lanes.Lanes(cap=3, doubtful=2)
    lanes.receive([task("a", "silent", n) for n in range(50)])
    assert lanes.hungry(1), "what waits for destinations that have not answered is not counted"
    for first in lanes.take(1):
        lanes.done(first, answered=True)
    assert not lanes.hungry(3)
    assert lanes.hungry(4), "a destination takes three at once"
    taken = lanes.take(2)
    assert not lanes.hungry(1)
    assert lanes.hungry(2)
    for each in taken:
        lanes.done(each, answered=True)
    assert not lanes.hungry(3)


def test_a_process_that_is_full_is_not_hungry(monkeypatch: pytest.MonkeyPatch):
    lanes = all_lanes.Lanes(cap=3, doubtful=2)
    lanes.receive([task("a", "silent", n) for n in range(5)])
    monkeypatch.setattr(all_lanes, "MOST_TASKS", 5)
    assert not lanes.hungry(500)
