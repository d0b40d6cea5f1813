"""The config read model: the fold of `cfg`, whoever applies it and however it is cut; it halts where it must."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost import errors
from outpost.commands import actor as actors
from outpost.commands import writer
from outpost.domain import events
from outpost.domain import tenant as tenants
from outpost.log import append, batching, checkpoint, envelope, read
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.operator import skip
from outpost.log.redis import client
from projections.config import apply, cache, catch_up, query
from tests.harness.servers import RedisServer, eventually

TENANTS = ("acme", "größe/@", "t:3")
P = partitions.partition_of("acme")


@pytest.fixture
async def log(any_redis: RedisServer) -> AsyncIterator[client.Log]:
    opened = client.open_log(client.RedisAddress(any_redis.host, any_redis.port))
    yield opened
    await opened.close()


def _destination(id_: str = "d", **changes: Any) -> tenants.Destination:
    fields: dict[str, Any] = {"type": "webhook", "topics": ("*",), "config": "s1.x", "credentials": "s1.x"}
    return tenants.Destination(id=id_, created_ms=5, updated_ms=5, **(fields | changes))


class History:
    """Changes of tenants, decided as the commands decide them, and the states that they lead to."""

    def __init__(self) -> None:
        self.states: dict[str, tenants.TenantState] = {}
        self.changes: list[events.ConfigChanged] = []

    def decide(self, tenant: str, command: tenants.Command) -> events.ConfigChanged | None:
        state = self.states.get(tenant, tenants.TenantState())
        change = tenants.decide(state, command)
        if isinstance(change, tenants.Refusal):
            return None
        self.states[tenant] = tenants.evolve(state, change)
        self.changes.append(events.ConfigChanged(tenant, "admin/r", change))
        return self.changes[-1]


async def _append(log: client.Log, entry: events.ConfigChanged) -> str:
    number = entry.change.version
    by = f"admin/{entry.tenant.encode().hex()}-{number}"
    item = append.Item(
        entry.tenant,
        f"{entry.tenant}\0\0{by}",
        by,
        envelope.encode_change(entry),
        expected=number - 1,
        following=number,
    )
    p = partitions.partition_of(entry.tenant)
    [answer] = (await append.append(log, "cfg", {p: [item]}, append.Window(60_000)))[p]
    assert isinstance(answer, append.Appended)
    return answer.position.entry_id


async def _put(log: client.Log, history: History, tenant: str, command: tenants.Command) -> str:
    entry = history.decide(tenant, command)
    assert entry is not None
    return await _append(log, entry)


def _upsert(tenant: str, now_ms: int = 5) -> tenants.UpsertTenant:
    return tenants.UpsertTenant(tenant, {"n": str(now_ms)}, now_ms)


async def _read_model(log: client.Log, generation: int = 1) -> dict[bytes, Any]:
    """Every key of a generation with its content."""
    found: dict[bytes, Any] = {}
    for p in range(partitions.PARTITIONS):
        keys = log.keys.partitions[p]
        for key in await log.command("KEYS", keys.tenant(generation, "*")):
            found[key.replace(b":g%d:" % generation, b":")] = await log.command("HGETALL", key)
        listed = await log.command("ZRANGE", keys.tenants(generation), 0, -1, "WITHSCORES")
        found[keys.evt.encode()] = (listed, await checkpoint.read(log, p, generation))
    return found


COMMANDS = st.tuples(
    st.sampled_from(TENANTS),
    st.one_of(
        st.builds(lambda now: ("upsert", now), st.integers(1, 99)),
        st.just(("delete", 0)),
        st.builds(lambda id_, limit: ("create", (id_, limit)), st.sampled_from("de"), st.integers(1, 3)),
        st.builds(lambda id_, off: ("change", (id_, off)), st.sampled_from("de"), st.none() | st.just(7)),
        st.builds(lambda id_: ("remove", id_), st.sampled_from("de")),
    ),
)


def _history(commands: list[tuple[str, tuple[str, Any]]]) -> History:
    history = History()
    for tenant, (kind, value) in commands:
        command: tenants.Command
        match kind:
            case "upsert":
                command = _upsert(tenant, value)
            case "delete":
                command = tenants.DeleteTenant(tenant)
            case "create":
                command = tenants.CreateDestination(_destination(value[0]), value[1])
            case "change":
                command = tenants.ChangeDestination(
                    _destination(value[0], disabled_ms=value[1]), "destination.updated"
                )
            case _:
                command = tenants.DeleteDestination(value)
        history.decide(tenant, command)
    return history


class Hashes:
    """What the writes of `apply` leave behind, in plain dicts."""

    def __init__(self) -> None:
        self.tenants: dict[str, dict[bytes, bytes]] = {}
        self.listing: dict[str, int] = {}

    def run(self, writes: list[apply.Write]) -> None:
        for write in writes:
            fields = self.tenants.setdefault(write.tenant, {})
            match write.command, write.args:
                case "HSET", args:
                    flat = [a if isinstance(a, bytes) else str(a).encode() for a in args]
                    fields.update(zip(flat[::2], flat[1::2], strict=True))
                case "HDEL", (name,):
                    fields.pop(str(name).encode(), None)
                case "DEL", _:
                    fields.clear()
                case "ZADD", (score, member):
                    self.listing[str(member)] = int(score)
                case "ZREM", (member,):
                    self.listing.pop(str(member), None)


@given(st.lists(COMMANDS, max_size=40), st.lists(st.integers(0, 40), max_size=5))
@pytest.mark.invariant("P2")
def test_the_read_model_is_the_aggregate_for_every_way_of_cutting_the_stream(
    commands: list[tuple[str, tuple[str, Any]]], cuts: list[int]
) -> None:
    """P2, of the writes; P1 follows."""
    history = _history(commands)
    whole, pieces = Hashes(), Hashes()
    whole.run(apply.apply(history.changes))
    at = 0
    for cut in sorted({*cuts, len(history.changes)}):
        pieces.run(apply.apply(history.changes[at:cut]))
        at = max(at, min(cut, len(history.changes)))
    assert (whole.tenants, whole.listing) == (pieces.tenants, pieces.listing)
    for tenant, state in history.states.items():
        assert state == apply.decode_state(whole.tenants[tenant])
    alive = {tenant for tenant, state in history.states.items() if state.tenant is not None}
    assert alive == whole.listing.keys()


@given(st.lists(COMMANDS, max_size=30))
@pytest.mark.invariant("P3")
def test_applying_a_batch_twice_changes_nothing(commands: list[tuple[str, tuple[str, Any]]]) -> None:
    """P3."""
    history = _history(commands)
    once, twice = Hashes(), Hashes()
    once.run(apply.apply(history.changes))
    twice.run(apply.apply(history.changes) + apply.apply(history.changes))
    assert (once.tenants, once.listing) == (twice.tenants, twice.listing)


async def _lives(log: client.Log, history: History) -> None:
    for round_ in range(6):
        for tenant in TENANTS:
            await _put(log, history, tenant, _upsert(tenant, 10 + round_))
            await _put(log, history, tenant, tenants.CreateDestination(_destination(f"d{round_}"), 20))
    disabled = tenants.ChangeDestination(_destination("d1", disabled_ms=9), "destination.disabled")
    await _put(log, history, "acme", disabled)
    await _put(log, history, "acme", tenants.DeleteDestination("d2"))
    await _put(log, history, "t:3", tenants.DeleteTenant("t:3"))


async def test_a_read_sees_every_acknowledged_change(log: client.Log) -> None:
    history = History()
    for n in range(5):
        await _put(log, history, "acme", _upsert("acme", n + 1))
        assert history.states["acme"] == await query.fresh(log, "acme")


async def test_the_projection_of_a_stream_is_the_state_of_its_tenants(log: client.Log) -> None:
    history = History()
    await _lives(log, history)
    for tenant, state in history.states.items():
        assert state == await query.fresh(log, tenant)
    assert tenants.TenantState() == await query.fresh(log, "nobody")
    assert 2 == await query.count(log)


@pytest.mark.invariant("P1", "P2")
async def test_a_rebuild_beside_the_live_one_is_the_same_byte_for_byte(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P1, P2."""
    history = History()
    await _lives(log, history)
    for p in range(partitions.PARTITIONS):
        await catch_up.to_head(log, p)
    monkeypatch.setattr(log, "config_reading", batching.Reading(3))
    for p in range(partitions.PARTITIONS):
        head = (await read.heads(log, [("cfg", p)]))[0]
        await catch_up.catch_up(log, p, head.entry_id, generation=2)
    assert await _read_model(log, 1) == await _read_model(log, 2)


@pytest.mark.invariant("P4")
async def test_many_projectors_at_once_make_the_same_read_model(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4."""
    history = History()
    await _lives(log, history)
    monkeypatch.setattr(log, "config_reading", batching.Reading(2))
    everybody = [catch_up.to_head(log, p) for p in range(partitions.PARTITIONS) for _ in range(5)]
    await asyncio.gather(*everybody)
    for tenant, state in history.states.items():
        assert [state] == await query.load(log, [tenant])


async def test_catching_up_stops_at_the_head_of_a_stream_that_is_empty_or_trimmed(log: client.Log) -> None:
    await catch_up.to_head(log, P)
    await catch_up.catch_up(log, P, "5-0")
    assert "0-0" == await checkpoint.read(log, P, 1)


async def _break(log: client.Log, *fields: str) -> positions.Position:
    entry_id = await log.command("XADD", log.keys.partitions[P].cfg, "*", *(fields or ("t", "nonsense")))
    return positions.of_entry("cfg", P, entry_id)


async def test_a_broken_entry_halts_its_partition_and_names_itself(log: client.Log) -> None:
    history = History()
    await _put(log, history, "acme", _upsert("acme"))
    bad = await _break(log)
    with pytest.raises(errors.Halted) as caught:
        await query.fresh(log, "acme")
    assert str(bad) == caught.value.position
    assert [history.states["acme"]] == await query.load(log, ["acme"])  # what stands before it is applied
    await catch_up.catch_up(log, P, (await read.between(log, "cfg", P))[0].position.entry_id)
    other = next(f"t{n}" for n in range(99) if partitions.partition_of(f"t{n}") != P)
    await _put(log, history, other, _upsert(other))
    assert history.states[other] == await query.fresh(log, other)


async def test_a_skip_lets_everything_behind_it_through_in_a_rebuild_too(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History()
    await _put(log, history, "acme", _upsert("acme"))
    bad = [await _break(log), await _break(log, "t", "tenant.created", "v", "9")]
    await _put(log, history, "acme", tenants.CreateDestination(_destination(), 20))
    monkeypatch.setattr(log, "config_reading", batching.Reading(1))
    for left in (2, 1):
        with pytest.raises(errors.Halted):
            await query.fresh(log, "acme")
        assert "skipped" == (await skip.skip(log, bad[2 - left], write=True)).outcome
    assert history.states["acme"] == await query.fresh(log, "acme")
    await catch_up.catch_up(log, P, (await read.heads(log, [("cfg", P)]))[0].entry_id, generation=2)
    assert await _read_model(log, 1) == await _read_model(log, 2)


async def _change_that_does_not_decode(log: client.Log, tenant: str, version: int) -> positions.Position:
    """A change of a type that only a newer build knows, which has moved the version of its tenant."""
    fields = ("t", "tenant.moved", "v", 1, "ten", tenant, "id", "", "n", version, "by", "admin/new", "d", "{}")
    item = append.Item(tenant, f"{tenant}\0\0new", "admin/new", fields, version - 1, version)
    [answer] = (await append.append(log, "cfg", {P: [item]}, append.Window(60_000)))[P]
    assert isinstance(answer, append.Appended)
    return answer.position


@pytest.mark.invariant("P1")
@pytest.mark.parametrize("earlier", [0, 2], ids=["first change", "later change"])
async def test_a_tenant_is_changed_and_published_to_again_after_its_change_was_skipped(
    log: client.Log, earlier: int
) -> None:
    """The skipped entry leaves its version, without a change, in the read model and in every rebuild of it."""
    writes = writer.Writer(log, append.Window(60_000))
    before = tenants.TenantState()
    for n in range(earlier):
        await writes.execute("acme", actors.Actor("admin", f"r{n}"), lambda _: _upsert("acme"))
        before = await query.fresh(log, "acme")
    bad = await _change_that_does_not_decode(log, "acme", earlier + 1)
    with pytest.raises(errors.Halted):
        await query.fresh(log, "acme")
    await skip.skip(log, bad, write=True)
    assert msgspec.structs.replace(before, version=earlier + 1) == await query.fresh(log, "acme")
    event = events.Event("acme", "e1", earlier + 1, "t", "", True, {}, (), "admin/e1", b"{}")
    item = append.Item("acme", "acme\0e1", "admin/e1", envelope.encode_event(event), expected=earlier + 1)
    [published] = (await append.append(log, "evt", {P: [item]}, append.Window(60_000)))[P]
    assert isinstance(published, append.Appended)
    done = await writes.execute("acme", actors.Actor("admin", "after"), lambda _: _upsert("acme", 9))
    assert isinstance(done, writer.Written)
    assert earlier + 2 == (await query.fresh(log, "acme")).version
    await catch_up.catch_up(log, P, (await read.heads(log, [("cfg", P)]))[0].entry_id, generation=2)
    assert await _read_model(log, 1) == await _read_model(log, 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"ten": "acme", "n": "1"},
        {"ten": "acme", "n": "7"},
        {"ten": "acme", "n": "9" * 30},
        {"ten": "acme", "n": "-1"},
        {"ten": "acme", "n": "\xff"},
        {"ten": "acme"},
        {"ten": "", "n": "3"},
        {"ten": "elsewhere", "n": "3"},
        {"n": "3"},
    ],
    ids=["shown", "beyond", "far beyond", "negative", "no number", "no version", "empty", "elsewhere", "nobody"],
)
async def test_a_version_that_was_written_by_hand_moves_nothing(log: client.Log, fields: dict[str, str]) -> None:
    writes = writer.Writer(log, append.Window(60_000))
    for n in range(2):
        await writes.execute("acme", actors.Actor("admin", f"r{n}"), lambda _: _upsert("acme"))
    assert partitions.partition_of("elsewhere") != P
    before = await query.fresh(log, "acme")
    bad = await _break(log, "t", "nonsense", "v", "1", *(text for pair in fields.items() for text in pair))
    await skip.skip(log, bad, write=True)
    assert before == await query.fresh(log, "acme")
    done = await writes.execute("acme", actors.Actor("admin", "after"), lambda _: _upsert("acme", 9))
    assert isinstance(done, writer.Written)
    assert done.after == await query.fresh(log, "acme")
    await catch_up.catch_up(log, P, (await read.heads(log, [("cfg", P)]))[0].entry_id, generation=2)
    assert await _read_model(log, 1) == await _read_model(log, 2)


async def _running(log: client.Log) -> tuple[catch_up.ConfigProjector, asyncio.Task[None], asyncio.Event]:
    projector, stop = catch_up.ConfigProjector(log), asyncio.Event()
    return projector, asyncio.create_task(projector.run(stop)), stop


async def test_the_background_loop_applies_what_is_appended(log: client.Log) -> None:
    history = History()
    await _put(log, history, "acme", _upsert("acme", 1))
    _, running, stop = await _running(log)

    async def applied() -> bool:
        return [history.states["acme"]] == await query.load(log, ["acme"])

    await eventually(applied)
    await _put(log, history, "acme", _upsert("acme", 2))
    await eventually(applied)
    stop.set()
    await asyncio.wait_for(running, 60)


async def test_the_background_loop_tells_which_partition_is_halted_until_it_is_skipped(log: client.Log) -> None:
    history = History()
    bad = await _break(log)
    projector, running, stop = await _running(log)
    await eventually(lambda: projector.halted == {P: str(bad)})
    await _put(log, history, "acme", _upsert("acme"))
    await skip.skip(log, bad, write=True)
    await eventually(lambda: projector.halted == {})
    assert [history.states["acme"]] == await query.load(log, ["acme"])
    stop.set()
    await asyncio.wait_for(running, 60)


async def test_a_restarted_loop_reads_on_from_the_checkpoint_and_still_sees_a_halt(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History()
    await _put(log, history, "acme", _upsert("acme"))
    await query.fresh(log, "acme")
    seen: list[read.Read] = []
    after = read.after

    async def watched(*args: Any) -> list[read.Read]:
        found = await after(*args)
        seen.extend(found)
        return found

    monkeypatch.setattr(read, "after", watched)
    projector = catch_up.ConfigProjector(log)
    await projector.step(block_ms=0)
    assert [] == seen
    bad = await _break(log)
    again = catch_up.ConfigProjector(log)
    await again.step(block_ms=0)
    assert ([bad], {P: str(bad)}) == ([item.position for item in seen], again.halted)


async def test_what_a_failed_step_read_is_applied_by_the_next(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History()
    projector = catch_up.ConfigProjector(log)
    await _put(log, history, "acme", _upsert("acme"))

    async def away(*args: Any) -> None:
        raise errors.StoreUnavailable("redis", "away")

    with monkeypatch.context() as broken:
        broken.setattr(catch_up, "catch_up", away)
        with pytest.raises(errors.StoreUnavailable):
            await projector.step(block_ms=0)
    await projector.step(block_ms=0)
    assert [history.states["acme"]] == await query.load(log, ["acme"])


async def test_the_background_loop_comes_back_when_redis_does(own_redis: RedisServer) -> None:
    log = client.open_log(client.RedisAddress(own_redis.host, own_redis.port))
    history = History()
    projector, running, stop = await _running(log)
    await _put(log, history, "acme", _upsert("acme", 1))
    own_redis.kill9()
    await eventually(lambda: projector.health.reason)
    own_redis.restart()
    await _put(log, history, "acme", _upsert("acme", 2))

    async def applied() -> bool:
        try:
            return [history.states["acme"]] == await query.load(log, ["acme"])
        except errors.StoreUnavailable:
            return False

    await eventually(applied)
    await eventually(lambda: not projector.health.reason)
    stop.set()
    await asyncio.wait_for(running, 60)
    await log.close()


@pytest.mark.behaviour(33, 36)
@pytest.mark.parametrize("descending", [False, True])
async def test_the_listing_pages_through_every_tenant_in_order_of_creation(
    log: client.Log, descending: bool
) -> None:
    history = History()
    expected = []
    for n in range(23):
        tenant = f"tenant-{n:02}"
        created_ms = 100 + n // 5  # several in the same ms, over several partitions
        await _put(log, history, tenant, _upsert(tenant, created_ms))
        await query.fresh(log, tenant)
        expected.append(query.Listed(created_ms, tenant))
    expected.sort(reverse=descending)
    found: list[query.Listed] = []
    while page := await query.listing(log, descending=descending, after=found[-1] if found else None, limit=4):
        found += page
        if len(found) == 8:  # one that is made meanwhile causes no repetition
            await _put(log, history, "late", _upsert("late", 99 if descending else 200))
            await query.fresh(log, "late")
            expected = sorted([*expected, query.Listed(99 if descending else 200, "late")], reverse=descending)
    assert expected == found


async def test_one_destination_is_read_without_the_rest_of_its_tenant(log: client.Log) -> None:
    history = History()
    await _lives(log, history)
    for tenant in TENANTS:
        await query.fresh(log, tenant)
    wanted = [(tenant, id_) for tenant in (*TENANTS, "nobody") for id_ in ("d0", "d1", "d2", "other")]
    empty = tenants.TenantState()
    expected = [history.states.get(tenant, empty).destinations.get(id_) for tenant, id_ in wanted]
    assert expected == await query.destinations(log, wanted)
    sizes = [0 if d is None else len(apply.encode_destination(d)) for d in expected]
    assert sizes == await query.destination_sizes(log, wanted)
    assert [] == await query.destinations(log, [])


async def test_the_places_of_some_tenants_are_those_of_the_listing(log: client.Log) -> None:
    history = History()
    await _lives(log, history)
    for tenant in TENANTS:
        await query.fresh(log, tenant)
    whole = await query.listing(log, descending=False, after=None, limit=10)
    assert whole == sorted(await query.places(log, [*TENANTS, "nobody"]))
    assert [] == await query.places(log, [])


async def test_the_cache_is_bounded_in_bytes(log: client.Log) -> None:
    """What large tenants take counts, a tenant that changed counts once, and one beyond the bound is not kept."""
    history = History()
    large = tenants.UpsertTenant("x", {"text": "x" * 10_000}, 5)
    names = ("a", "b", "c")
    for name in names:
        await _put(log, history, name, large)
    cached = cache.TenantCache(log, max_bytes=25_000)
    for name in ("a", "a", "a", *names):
        assert history.states[name] == await cached.refresh(name)
    assert [None, history.states["b"], history.states["c"]] == [cached.known(name) for name in names]
    await _put(log, history, "d", tenants.UpsertTenant("d", {"text": "x" * 30_000}, 5))
    assert history.states["d"] == await cached.refresh("d")
    assert [None] * 4 == [cached.known(name) for name in (*names, "d")]
    assert history.states["a"] == await cached.refresh("a") == cached.known("a")


async def test_many_small_elements_count_as_the_memory_they_take(log: client.Log) -> None:
    history = History()
    await _put(log, history, "a", _upsert("a"))
    few = await query.measured(log, "a")
    await _put(log, history, "a", tenants.CreateDestination(_destination(topics=tuple("abcdefgh") * 100), 20))
    many = await query.measured(log, "a")
    assert many.memory - few.memory > 800 * query.ELEMENT_BYTES
    assert many.size - few.size < 800 * 10


async def test_a_tenant_grows_up_to_its_bound_and_can_always_be_made_smaller(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A destination that grows by patches counts as one that was made large."""
    monkeypatch.setattr(writer, "MAX_TENANT_BYTES", 10_000)
    writes = writer.Writer(log, append.Window(60_000))
    asked = iter(range(100))

    async def execute(command: tenants.Command) -> Any:
        return await writes.execute("acme", actors.Actor("admin", f"r{next(asked)}"), lambda _: command)

    def patched(size: int, **changes: Any) -> tenants.ChangeDestination:
        return tenants.ChangeDestination(_destination(config="x" * size, **changes), "destination.updated")

    await execute(_upsert("acme"))
    await execute(tenants.CreateDestination(_destination(config="x" * 4_000), 20))
    await execute(patched(8_000))
    for command in (
        patched(12_000),
        tenants.CreateDestination(_destination("e", credentials="x" * 4_000), 20),
        tenants.UpsertTenant("acme", {"text": "x" * 4_000}, 5),
    ):
        with pytest.raises(errors.Refused, match="may have 10000 bytes"):
            await execute(command)
    assert 3 == (await query.fresh(log, "acme")).version
    monkeypatch.setattr(writer, "MAX_TENANT_BYTES", 1_000)
    await execute(
        tenants.ChangeDestination(_destination(config="x" * 8_000, disabled_ms=9), "destination.disabled")
    )
    await execute(patched(7_000))
    await execute(tenants.DeleteDestination("d"))
    await execute(tenants.CreateDestination(_destination(), 20))


async def test_the_cache_is_bounded_forgets_the_oldest_and_refreshes(log: client.Log) -> None:
    history = History()
    cached = cache.TenantCache(log, most=2)
    for tenant in ("a", "b"):
        await _put(log, history, tenant, _upsert(tenant))
        assert history.states[tenant] == await cached.refresh(tenant)
    assert history.states["a"] == cached.known("a")
    await cached.refresh("c")
    assert [None, history.states["a"]] == [cached.known("b"), cached.known("a")]
    await _put(log, history, "a", _upsert("a", 9))
    assert history.states["a"] != cached.known("a")
    assert history.states["a"] == await cached.refresh("a")
