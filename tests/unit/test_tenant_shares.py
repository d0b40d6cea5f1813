"""One tenant holds a share of the send slots, of what waits and of the bytes of it, whatever its receivers do."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost.dispatch.fairness import lane as lane_rules
from outpost.dispatch.fairness import lanes as all_lanes
from outpost.dispatch.fairness import slots
from outpost.process.roles import delivery as delivery_role
from outpost.queue import base
from outpost.settings import Settings
from tests.harness.lane_tasks import P, again, names, task


def by_tenant(tasks: list[base.Task]) -> dict[str, int]:
    return dict(Counter(t.event.tenant for t in tasks))


def test_a_process_gives_a_tenant_three_quarters_of_its_slots_and_the_rest_to_others_at_once():
    slots = 80
    lanes = delivery_role.open_lanes(Settings(delivery_max_concurrency=slots))
    for tenant, destinations in (("slow", 20), ("good", 1)):  # all of them have answered
        for n in range(destinations):
            lanes.receive([task(tenant, f"d{n}", n)])
            lanes.done(lanes.take(1)[0], answered=True)
    for n in range(20):
        lanes.receive([task("slow", f"d{n}", 100 * n + i) for i in range(100)])
    assert {"slow": 60} == by_tenant(lanes.take(slots))
    lanes.receive([task("good", "d0", 10_000 + n) for n in range(20)])
    assert {"good": 20} == by_tenant(lanes.take(slots - 60))


def test_slow_lanes_of_a_tenant_at_its_share_go_on_in_turn_one_for_each_send_that_is_done():
    lanes = all_lanes.Lanes(cap=2, tenant_slots=4)
    lanes.receive([task("slow", f"d{n}", 10 * n + i) for i in range(3) for n in range(4)])
    under_way = lanes.take(100)
    assert ["slow:d0:0", "slow:d1:10", "slow:d2:20", "slow:d3:30"] == names(under_way)
    started: list[str] = []
    for _ in range(8):
        lanes.done(under_way.pop(0))
        started += names(new := lanes.take(100))
        under_way += new
    assert [f"slow:d{n}:{10 * n + i}" for i in (1, 2) for n in range(4)] == started


def test_a_tenant_that_is_parked_is_resumed_by_a_send_that_goes_back_and_by_what_is_dropped():
    lanes = all_lanes.Lanes(cap=1, tenant_slots=2)
    lanes.receive([task("a", f"d{n}", n) for n in range(4)])
    first, second = lanes.take(10)
    lanes.drop({(P, task("a", "d2", 2).text)})
    assert [] == lanes.take(10)
    lanes.back(first)
    assert ["a:d3:3"] == names(lanes.take(10))
    lanes.done(second)
    assert ["a:d0:0"] == names(lanes.take(10))


def test_a_parked_tenant_takes_first_attempts_and_retries_by_turns_when_it_comes_back():
    lanes = all_lanes.Lanes(cap=1, tenant_slots=1)
    lanes.receive([task("a", "busy", 1)])
    busy = lanes.take(10)
    lanes.receive([again(task("a", f"r{n}", 10 + n)) for n in range(50)])
    lanes.receive([task("a", "live", 2)])
    assert [] == lanes.take(10)
    started: list[base.Task] = []
    for _ in range(2):
        lanes.done(busy.pop())
        busy += lanes.take(10)
        started += busy
    assert "a:live:2" in names(started)


def test_dead_destinations_of_a_tenant_leave_slots_to_those_of_others_that_are_new():
    lanes = all_lanes.Lanes(cap=4, doubtful=8, tenant_slots=12, tenant_doubtful=4)
    lanes.receive([task("dead", f"d{n}", n) for n in range(40)])
    assert {"dead": 4} == by_tenant(lanes.take(16))
    lanes.receive([task(f"new{n}", "d", 100 + n) for n in range(4)])
    assert {f"new{n}": 1 for n in range(4)} == by_tenant(lanes.take(16))


def test_a_tenant_at_its_share_of_dead_destinations_still_sends_to_those_that_answer():
    lanes = all_lanes.Lanes(cap=4, doubtful=8, tenant_slots=12, tenant_doubtful=4)
    lanes.receive([task("a", "good", 1)])
    lanes.done(lanes.take(1)[0], answered=True)
    lanes.receive([task("a", f"d{n}", 10 + n) for n in range(40)] + [task("a", "good", n) for n in range(2, 5)])
    taken = names(lanes.take(16))
    assert [3, 4] == [sum(":good:" in name for name in taken), sum(":d" in name for name in taken)]


def test_destinations_that_stop_to_answer_count_at_once_against_the_share_of_their_tenant():
    lanes = all_lanes.Lanes(cap=4, doubtful=8, tenant_slots=12, tenant_doubtful=2)
    lanes.receive([task("a", "x", 1)])
    lanes.done(lanes.take(1)[0], answered=True)
    lanes.receive([task("a", "x", n) for n in range(2, 6)])
    under_way = lanes.take(16)
    assert 4 == len(under_way)
    lanes.receive([task("a", "new", 10)])
    lanes.done(under_way.pop(), answered=False)  # three are under way still, and now in doubt
    assert [] == lanes.take(16)
    lanes.done(under_way.pop(), answered=False)
    assert [] == lanes.take(16)
    lanes.done(under_way.pop(), answered=False)
    assert ["a:new:10"] == names(lanes.take(16))


def test_what_a_tenant_has_beyond_half_of_the_tasks_is_put_aside_while_those_of_others_are_received(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(all_lanes, "MOST_TASKS", 1_000)
    lanes = all_lanes.Lanes(cap=1)
    for n in range(20):
        lanes.receive([task("flood", f"d{n}", 1_000 * n + i) for i in range(100)])
    assert [500, 1_500, False] == [len(lanes), len(lanes.take_overflow()), lanes.full]
    lanes.receive([task("good", f"d{n}", 50_000 + 100 * n + i) for n in range(5) for i in range(50)])
    assert [750, [], False] == [len(lanes), lanes.take_overflow(), lanes.full]


def test_tenants_that_flood_leave_room_for_the_next_one_however_many_there_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(all_lanes, "MOST_TASKS", 1_024)
    lanes = all_lanes.Lanes(cap=1)
    for tenant in range(9):
        lanes.receive([task(f"t{tenant}", f"d{n}", 100 * n + i) for n in range(20) for i in range(100)])
        assert not lanes.full
    lanes.take_overflow()
    lanes.receive([task("single", "d", 1)])
    assert [] == lanes.take_overflow()


def test_a_lane_with_nothing_here_comes_back_late_where_its_tenant_is_full(monkeypatch: pytest.MonkeyPatch):
    """Nothing tells its rate, and what comes back each second is read each second."""
    monkeypatch.setattr(all_lanes, "MOST_TASKS", 8)
    lanes = all_lanes.Lanes(cap=1)
    lanes.receive([task("a", "x", n) for n in range(5)] + [task("a", "y", 9)])
    assert [("a:x:4", lane_rules.SHORTEST_DELAY_MS), ("a:y:9", all_lanes.FULL_DELAY_MS)] == [
        (*names([t]), delay_ms) for t, delay_ms in lanes.take_overflow()
    ]
    assert {"x"} == {key[1] for key in lanes._lanes}


def test_payloads_of_one_tenant_fill_half_of_the_budget_and_those_of_another_are_still_kept(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(all_lanes, "MOST_BYTES", 1_000)
    lanes = all_lanes.Lanes(cap=100)
    lanes.receive([task("large", f"d{n % 7}", n, size=100) for n in range(20)])
    lanes.receive([task("small", "d", 100 + n, size=10) for n in range(20)])
    loaded = [t for t in lanes.take(100) if t.loaded]
    assert {"large": 5, "small": 20} == by_tenant(loaded)


def test_a_batch_with_payloads_to_be_read_again_is_cut_by_these_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(all_lanes, "MOST_BYTES", 1_000)
    lanes = all_lanes.Lanes(cap=100)
    lanes.receive([task("large", "d", n, size=600) for n in range(20)])
    lanes.receive([task("small", "d", 100 + n, size=10) for n in range(5)])
    taken = lanes.take(100, loads=8)
    assert {"large": 8, "small": 5} == by_tenant(taken)
    assert 8 == sum(not t.loaded for t in taken)


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("receive"), st.sampled_from("ab"), st.sampled_from("wxyz"), st.integers(0, 60)),
        st.tuples(st.just("take"), st.integers(1, 6)),
        st.tuples(st.just("done"), st.integers(0, 20), st.sampled_from([True, False, None])),
        st.tuples(st.just("back"), st.integers(0, 20)),
        st.tuples(st.just("drop"), st.integers(0, 20)),
        st.tuples(st.just("read"), st.booleans()),
    ),
    max_size=120,
)


@given(steps=_STEPS, doubtful=st.sampled_from([None, 1, 3]), tenant_doubtful=st.sampled_from([None, 1, 2]))
def test_whatever_happens_no_lane_is_lost_no_share_exceeded_and_all_counts_end_at_nothing(
    steps: list[tuple], doubtful: int | None, tenant_doubtful: int | None
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(all_lanes, "MOST_TASKS", 40)
        patch.setattr(lane_rules, "LEAST_WAITING", 6)
        patch.setattr(lane_rules, "MOST_TIMED_OUT", 3)
        lanes = all_lanes.Lanes(
            cap=3, doubtful=doubtful, tenant_slots=4, tenant_doubtful=doubtful and tenant_doubtful
        )
        left: Counter[str] = Counter()  # received and neither done, dropped nor put aside
        under_way: list[base.Task] = []
        for number, (kind, *values) in enumerate(steps):
            if kind == "receive":
                tenant, destination, count = values
                new = [task(tenant, destination, 1_000 * number + i) for i in range(count)]
                lanes.receive(new)
                left.update(t.text for t in new)
            elif kind == "take":
                under_way += lanes.take(values[0])
            elif kind == "read":
                lanes.let_read(values[0])
            elif kind == "drop":
                lost = [(p, text) for p, texts in lanes.held().items() for text in sorted(texts)[: values[0]]]
                lanes.drop(lost)
                left.subtract(text for _, text in lost)
            elif under_way:
                each = under_way.pop(values[0] % len(under_way))
                if kind == "back":
                    lanes.back(each)
                else:
                    lanes.done(each, values[1])
                    left.subtract([each.text])
            left.subtract(t.text for t, _ in lanes.take_overflow())
            assert all(number <= 4 for number in by_tenant(under_way).values())
            check_counts(lanes, under_way)
        while (new := lanes.take(100)) or under_way:  # everything that is left gets its turn, even one by one
            under_way += new
            each = under_way.pop(0)
            lanes.done(each, True)
            left.subtract([each.text])
            check_counts(lanes, under_way)
        left.subtract(t.text for t, _ in lanes.take_overflow())
        assert set() == {text for text, count in left.items() if count}
        assert [0, 0, 0, {}, 0] == [
            len(lanes),
            lanes._doubt.waiting,
            lanes._doubt.in_flight,
            lanes._lanes,
            len(lanes._tenants),
        ]


def check_counts(lanes: all_lanes.Lanes, under_way: list[base.Task]) -> None:
    """The counts of each tenant are those of its lanes, and nothing is held of a tenant without one."""
    held = list(lanes._lanes.values())
    for tenant in {lane.key[0] for lane in held}:
        record = lanes._tenants.of(tenant)
        own = [lane for lane in held if lane.tenant is record]
        assert len(own) == record.lanes == sum(lane.key[0] == tenant for lane in held)
        assert sum(len(lane.waiting) for lane in own) == record.waiting
        assert sum(lane.in_flight for lane in own) == record.in_flight == by_tenant(under_way).get(tenant, 0)
        assert sum(lane.in_flight for lane in own if lane.doubtful) == record.doubtful_in_flight
        assert sum(len(t.event.data) for lane in own for t in lane.waiting) == record.waiting_bytes
    assert sum(lane.in_flight for lane in held if lane.doubtful) == lanes._doubt.in_flight
    assert sum(len(lane.waiting) for lane in held if lane.doubtful) == lanes._doubt.waiting


def sized(tenant: str, destination: str, number: int, data: int, metadata: int) -> base.Task:
    """A task whose event has data and metadata of these sizes."""
    plain = task(tenant, destination, number)
    event = msgspec.structs.replace(plain.event, data=b"d" * data, metadata={"k" * metadata: ""})
    return msgspec.structs.replace(plain, event=event)


def test_payloads_under_way_are_bounded_in_bytes_and_a_tenant_has_half_of_them(monkeypatch):
    monkeypatch.setattr(slots, "MAX_BYTES", 1_000)
    lanes = all_lanes.Lanes(cap=100)
    lanes.receive([sized("big", "d", n, data=250, metadata=50) for n in range(9)])
    lanes.receive([sized("other", "d", 100 + n, data=90, metadata=10) for n in range(9)])
    taken = lanes.take(100)
    assert {"big": 2, "other": 4} == by_tenant(taken)  # until all have 1,000 bytes; big was parked at 600
    for each in taken:
        lanes.done(each, answered=True)
    assert {"big": 2, "other": 4} == by_tenant(lanes.take(100))


def test_a_payload_that_is_read_again_counts_from_then_on_and_leaves_with_its_send(monkeypatch):
    monkeypatch.setattr(slots, "MAX_BYTES", 1_000)
    lanes = all_lanes.Lanes(cap=100)
    whole = [sized("a", "d", n, data=1_000, metadata=10) for n in range(3)]
    lanes.receive([each.unloaded() for each in whole])
    first = lanes.take(1)[0]
    assert (0, False, {}) == (first.payload_bytes, first.loaded, first.event.metadata)
    loaded = msgspec.structs.replace(first, event=whole[0].event, loaded=True)
    lanes.loaded(loaded)
    assert [] == lanes.take(100)
    lanes.done(loaded, answered=True)
    assert 2 == len(lanes.take(100))


def test_metadata_counts_among_the_bytes_that_wait_and_leaves_memory_with_the_data(monkeypatch):
    monkeypatch.setattr(all_lanes, "MOST_BYTES", 1_000)
    lanes = all_lanes.Lanes(cap=100)
    lanes.receive([sized("a", "d", n, data=10, metadata=190) for n in range(5)])
    waiting = lanes.take(5)
    assert [True, True, False, False, False] == [each.loaded for each in waiting]
    assert [190, 190, 0, 0, 0] == [sum(map(len, each.event.metadata)) for each in waiting]
