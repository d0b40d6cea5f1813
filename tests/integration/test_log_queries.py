"""Lists of events and attempts: paging, filters, single rows."""

from __future__ import annotations

import itertools

import pytest

from outpost import cursor, ids
from outpost.domain import events
from outpost.log import partition as partitions
from outpost.log import position as positions
from projections.logs import migrate, paging, projector, query
from projections.logs import rows as log_rows
from projections.logs import store as stores
from tests.harness import log_entries

BASE_MS = 1_790_000_000_000
SECOND_US = 1_000_000


def time_of(seconds: int) -> str:
    return f"2026-01-02T03:04:{seconds:02}.000Z"


START_US = 1_767_323_040 * SECOND_US  # of time_of(0)


@pytest.fixture
async def store(postgres_url):
    store = await stores.open_store(postgres_url)
    await migrate.apply_pending(store)
    yield store
    await store.close()


@pytest.fixture
async def log(redis70):
    log = log_entries.open_log(redis70)
    yield log
    await log.close()


async def project(log, store):
    assert await projector.LogProjector(log, store, 1000).drain(30.0)


async def ten_events(log, store):
    """e0 to e9, one second apart by their own time, of two tenants; e3, e4 and e5 at the same time."""
    for n in range(10):
        second = 4 if 3 <= n <= 5 else n
        entry = log_entries.event(f"t{n % 2}", f"e{n}", time=time_of(second))
        await log_entries.append_event(log, entry, f"{BASE_MS + n}-0")
    await project(log, store)


async def events_of(store, request=None, **wanted):
    page = await query.list_events(store, log_rows.EventFilter(**wanted), request or paging.PageRequest())
    assert isinstance(page, paging.Page)
    return [row.id for row in page.models], page


async def attempts_of(store, request=None, include=None, **wanted):
    page = await query.list_attempts(
        store, log_rows.AttemptFilter(**wanted), request or paging.PageRequest(), include or log_rows.Include()
    )
    assert isinstance(page, paging.Page)
    return [(row.event_id, row.attempt_number) for row in page.models], page


async def walk(store, limit, direction, **wanted):
    """Every page forwards from the first one."""
    pages, token = [], None
    for _ in range(20):
        request = paging.PageRequest(limit=limit, dir=direction, next=token)
        found, page = await events_of(store, request, **wanted)
        pages.append((found, page))
        token = page.next
        if token is None:
            break
    return pages


@pytest.mark.behaviour(116)
@pytest.mark.parametrize("direction", ["asc", "desc"])
async def test_ten_rows_by_three_take_four_pages_without_gaps_or_repeats(log, store, direction):
    await ten_events(log, store)
    pages = await walk(store, 3, direction)
    assert [3, 3, 3, 1] == [len(found) for found, _ in pages]
    seen = list(itertools.chain.from_iterable(found for found, _ in pages))
    assert {f"e{n}" for n in range(10)} == set(seen)
    assert 10 == len(seen)


@pytest.mark.behaviour(116)
async def test_ascending_mirrors_descending(log, store):
    await ten_events(log, store)
    up, _ = await events_of(store, paging.PageRequest(dir="asc"))
    down, _ = await events_of(store, paging.PageRequest(dir="desc"))
    assert up == down[::-1]
    assert ["e0", "e1", "e2"] == up[:3]
    assert ["e6", "e7", "e8", "e9"] == up[6:]


@pytest.mark.behaviour(116)
@pytest.mark.parametrize("direction", ["asc", "desc"])
async def test_prev_from_the_third_page_gives_the_second_exactly(log, store, direction):
    await ten_events(log, store)
    pages = await walk(store, 3, direction)
    back, page = await events_of(store, paging.PageRequest(limit=3, dir=direction, prev=pages[2][1].prev))
    assert pages[1][0] == back
    assert (pages[1][1].next, pages[1][1].prev) == (page.next, page.prev)
    first, page = await events_of(store, paging.PageRequest(limit=3, dir=direction, prev=page.prev))
    assert pages[0][0] == first
    assert None is page.prev
    again, _ = await events_of(store, paging.PageRequest(limit=3, dir=direction, next=page.next))
    assert pages[1][0] == again


@pytest.mark.behaviour(115)
async def test_the_default_is_newest_first_and_cursors_are_absent_where_nothing_follows(log, store):
    await ten_events(log, store)
    found, page = await events_of(store)
    assert "e9" == found[0]
    assert (None, None) == (page.next, page.prev)
    assert ([], None, None) == ((await events_of(store, tenant_ids=("nobody",)))[0], page.next, page.prev)
    exactly, page = await events_of(store, paging.PageRequest(limit=10, next=""))
    assert (10, None) == (len(exactly), page.next)


async def test_rows_of_the_same_millisecond_and_position_number_are_paged_without_loss(log, store):
    for n in range(24):
        await log_entries.append_event(log, log_entries.event(f"tenant{n}", f"e{n}"), f"{BASE_MS}-{n}")
    await project(log, store)
    pages = await walk(store, 5, "desc")
    assert [5, 5, 5, 5, 4] == [len(found) for found, _ in pages]
    assert 24 == len({id_ for found, _ in pages for id_ in found})


async def test_an_event_that_arrives_while_paging_is_not_repeated(log, store):
    await ten_events(log, store)
    first, page = await events_of(store, paging.PageRequest(limit=3))
    await log_entries.append_event(log, log_entries.event("t1", "late", time=time_of(59)))
    await project(log, store)
    second, _ = await events_of(store, paging.PageRequest(limit=3, next=page.next))
    assert ["e6", "e5", "e4"] == second
    assert ["e9", "e8", "e7"] == first


@pytest.mark.behaviour(118)
async def test_a_cursor_and_a_time_filter_combine(log, store):
    await ten_events(log, store)
    time = log_rows.TimeRange(gte=START_US + 2 * SECOND_US, lt=START_US + 8 * SECOND_US)
    pages = await walk(store, 2, "desc", time=time)
    assert [["e7", "e6"], ["e5", "e4"], ["e3", "e2"]] == [found for found, _ in pages]


@pytest.mark.behaviour(118)
@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"gte": 8}, ["e9", "e8"]),
        ({"gt": 8}, ["e9"]),
        ({"lte": 1}, ["e1", "e0"]),
        ({"lt": 1}, ["e0"]),
        ({"gte": 6, "gt": 6, "lte": 9, "lt": 9}, ["e8", "e7"]),
        ({"gt": 9}, []),
    ],
)
async def test_gte_and_lte_include_their_bound_and_gt_and_lt_do_not(log, store, bounds, expected):
    await ten_events(log, store)
    time = log_rows.TimeRange(**{name: START_US + n * SECOND_US for name, n in bounds.items()})
    assert expected == (await events_of(store, time=time))[0]


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (log_rows.TimeRange(gte=1_500), (2, None)),
        (log_rows.TimeRange(gt=1_500), (2, None)),
        (log_rows.TimeRange(gt=1_000), (2, None)),
        (log_rows.TimeRange(gte=1_000), (1, None)),
        (log_rows.TimeRange(lte=1_500), (None, 1)),
        (log_rows.TimeRange(lt=1_500), (None, 1)),
        (log_rows.TimeRange(lt=1_000), (None, 0)),
        (log_rows.TimeRange(lte=1_000), (None, 1)),
        (log_rows.TimeRange(gte=-1_500, lt=-500), (-1, -1)),
    ],
)
def test_a_bound_between_two_milliseconds_takes_neither_too_much_nor_too_little(time, expected):
    assert expected == time.bounds_ms()


@pytest.mark.behaviour(119)
async def test_event_filters(log, store):
    await ten_events(log, store)
    routed = log_entries.event(
        "t2", "routed", topic="order.paid", matched=(events.Matched("des_a", 1), events.Matched("des_b", 2))
    )
    none = log_entries.event("t2", "unmatched", matched=())
    await log_entries.append_event(log, routed, f"{BASE_MS + 100}-0")
    await log_entries.append_event(log, none, f"{BASE_MS + 101}-0")
    await project(log, store)

    async def found(**wanted):
        return sorted((await events_of(store, **wanted))[0])

    assert ["e3", "e5"] == await found(ids=("e3", "e5", "nothing"))
    assert ["e3"] == await found(ids=("e3",), tenant_ids=("t1",))
    assert [] == await found(ids=("e3",), tenant_ids=("t0",))
    assert ["e1", "e3", "e5", "e7", "e9", "routed", "unmatched"] == await found(tenant_ids=("t1", "t2"))
    assert ["routed"] == await found(topics=("order.paid", "no.such"))
    assert ["routed"] == await found(destination_ids=("des_b",))
    assert ["routed"] == await found(destination_ids=("des_b", "des_a", "des_x"))
    assert 10 == len(await found(destination_ids=("des_1",)))
    assert ["routed", "unmatched"] == await found(tenant_ids=("t2",))


@pytest.mark.behaviour(118, 119)
async def test_attempt_filters(log, store):
    for n in range(6):
        fields = log_entries.attempt(
            f"t{n % 2}",
            f"e{n}",
            number=n + 1,
            destination=f"des_{n % 3}",
            status="failed" if n < 2 else "success",
            topic=f"topic.{n}",
            type_="aws_sqs" if n == 5 else "webhook",
            started_ms=BASE_MS + n,
        )
        await log_entries.append(log, "dlv", f"t{n % 2}", fields, f"{BASE_MS + n}-0")
    await project(log, store)

    async def found(**wanted):
        return [id_ for id_, _ in (await attempts_of(store, **wanted))[0]]

    assert ["e5", "e4", "e3", "e2", "e1", "e0"] == await found()
    assert ["e5", "e3", "e1"] == await found(tenant_ids=("t1",))
    assert ["e2", "e0"] == await found(event_ids=("e0", "e2"))
    assert ["e4", "e1"] == await found(destination_ids=("des_1",))
    assert ["e1", "e0"] == await found(status="failed")
    assert [] == await found(status="Failed")
    assert ["e3", "e1"] == await found(topics=("topic.1", "topic.3"))
    assert ["e5"] == await found(destination_types=("aws_sqs",))
    assert ["e4", "e3"] == await found(
        time=log_rows.TimeRange(gte=(BASE_MS + 3 + 12) * 1000, lt=(BASE_MS + 5 + 12) * 1000)
    )
    _, page = await attempts_of(store, paging.PageRequest(limit=4))
    assert ["e1", "e0"] == [
        r.event_id for r in (await attempts_of(store, paging.PageRequest(limit=4, next=page.next)))[1].models
    ]


@pytest.mark.behaviour(117)
async def test_a_cursor_that_we_did_not_make_for_this_list_is_named_as_such(store):
    bad = [
        cursor.encode_cursor("att", "1::2-3.4"),
        "garbage!",
        cursor.encode_cursor("evt", "1::2-3"),
        cursor.encode_cursor("evt", "1::2-99999999999999999999.4"),
        cursor.encode_cursor("evt", "x::2-3.4"),
        cursor.encode_cursor("evt", "999999999999999::2-3.4"),
        cursor.encode_cursor("evt", "1::999999999999999-3.4"),
    ]
    for text in bad:
        for request in (paging.PageRequest(next=text), paging.PageRequest(prev=text)):
            answer = await query.list_events(store, log_rows.EventFilter(), request)
            assert isinstance(answer, cursor.CursorProblem), text
            assert answer.message.startswith("invalid cursor")


async def test_values_that_postgres_cannot_hold_match_nothing(log, store):
    await ten_events(log, store)
    for value in ("e1\0", "\ud800"):
        assert [] == (await events_of(store, ids=(value,)))[0]
        assert [] == (await events_of(store, destination_ids=(value,)))[0]
        assert [] == (await attempts_of(store, status=value))[0]
        assert None is await query.get_event(store, value)
        assert ["e1"] == (await events_of(store, ids=(value, "e1")))[0]


async def test_filter_values_are_never_part_of_the_statement(log, store):
    await ten_events(log, store)
    for value in ("' OR true --", "{where}", "?", "$1", "%s"):
        assert [] == (await events_of(store, ids=(value,), tenant_ids=(value, "x"), topics=(value,)))[0]


@pytest.mark.behaviour(120)
async def test_an_event_is_found_by_its_id_within_a_tenant_or_anywhere(log, store):
    await ten_events(log, store)
    assert "t1" == (await query.get_event(store, "e3")).tenant_id
    assert "e3" == (await query.get_event(store, "e3", "t1")).id
    assert None is await query.get_event(store, "e3", "t0")
    assert None is await query.get_event(store, "nothing")
    await log_entries.append_event(log, log_entries.event("t0", "e3", time=time_of(0)), f"{BASE_MS + 200}-0")
    await project(log, store)
    assert "t0" == (await query.get_event(store, "e3")).tenant_id


@pytest.mark.behaviour(120, 121)
async def test_an_attempt_is_found_by_the_id_that_its_position_makes(log, store):
    at = await log_entries.append(log, "dlv", "t1", log_entries.attempt("t1", "e1", number=4, manual=True))
    await project(log, store)
    id_ = ids.attempt_id("att_", at.partition, at.ms, at.seq)
    row = await query.get_attempt(store, ids.parse_attempt_id("att_", id_), "t1")
    assert (at.ms, at.partition, at.seq) == (row.accepted_ms, row.partition, row.seq)
    assert ("t1", "e1", "des_1", 2, "webhook", "user.created", "success", "200", 4, True, None, None) == (
        row.tenant_id,
        row.event_id,
        row.destination_id,
        row.destination_created,
        row.destination_type,
        row.topic,
        row.status,
        row.code,
        row.attempt_number,
        row.manual,
        row.response_data,
        row.event,
    )
    assert log_entries.STARTED_MS + 12 == row.time_ms
    assert None is await query.get_attempt(store, (at.partition, at.ms, at.seq), "t2")
    assert None is await query.get_attempt(store, (at.partition, at.ms, at.seq + 1))
    assert None is await query.get_attempt(store, (2**16 - 1, 2**48 - 1, 2**64 - 1))
    assert None is await query.get_attempt(store, (15, 2**48 - 1, 2**63 - 1))


@pytest.mark.behaviour(121)
async def test_an_attempt_is_shown_with_what_was_asked_for(log, store):
    at = await log_entries.append_event(log, log_entries.event("t1", "e1", metadata={"k": "v"}))
    await log_entries.append(log, "dlv", "t1", log_entries.attempt("t1", "e1", at.entry_id))
    await log_entries.append(log, "dlv", "t1", log_entries.attempt("t1", "gone", "7-7", response=None))
    await project(log, store)
    include = log_rows.Include(event=True)
    _, page = await attempts_of(store, include=include)
    gone, row = page.models
    assert ("gone", None, None) == (gone.event_id, gone.event, gone.response_data)
    expected = await query.get_event(store, "e1")
    assert (None, log_rows.msgspec.structs.replace(expected, data=None)) == (row.response_data, row.event)
    _, page = await attempts_of(store, include=log_rows.Include(event_data=True, response_data=True))
    assert [(None, None), (b'{"status":200}', expected)] == [(r.response_data, r.event) for r in page.models]
    assert b'{"a": [ ], "b":"\\u0000"}' == expected.data
    single = await query.get_attempt(store, (row.partition, row.accepted_ms, row.seq), "t1", include)
    assert row == single


@pytest.mark.behaviour(123)
async def test_no_metadata_reads_back_as_an_empty_object(log, store):
    await log_entries.append_event(log, log_entries.event("t1", "e1", metadata={}))
    await project(log, store)
    assert "{}" == (await query.get_event(store, "e1")).metadata


async def test_a_reader_can_wait_for_a_position(log, store):
    at = await log_entries.append_event(log, log_entries.event("t1", "e1"))
    assert not await query.reached(store, at)
    assert not await query.wait_reached(store, at, 0.03)
    await project(log, store)
    assert await query.wait_reached(store, at, 5.0)
    assert not await query.reached(store, at._replace(seq=at.seq + 1))
    assert await query.reached(store, at._replace(ms=at.ms - 1))
    other = positions.Position("dlv", partitions.partition_of("t1"), 1, 0)
    assert not await query.reached(store, other)
