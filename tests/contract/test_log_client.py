"""The border to Redis: scripts that come back after they were flushed, and whose error is whose."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import hiredis
import pytest
import uvloop

from outpost import errors
from outpost.log import append
from outpost.log import partition as partitions
from outpost.log.delivery import tasks
from outpost.log.redis import client
from projections.logs import store as stores
from tests.contract import worlds
from tests.harness.servers import REDIS_KINDS, RedisServer, eventually, free_port
from tests.harness.toxic import Toxic

P = worlds.P


@pytest.fixture
async def own_log(own_redis: RedisServer) -> AsyncIterator[client.Log]:
    """A log on a server that the test may ill-treat."""
    opened = worlds.open_log(own_redis)
    yield opened
    await opened.close()


both = pytest.mark.parametrize("own_redis", REDIS_KINDS, indirect=True)


async def test_a_script_that_was_flushed_is_loaded_again_and_every_call_answered(log: client.Log) -> None:
    await worlds.append_items(log, worlds.item("e1"))
    await log.command("SCRIPT", "FLUSH")
    batches = {p: [worlds.item(tenant=f"t{p}")] for p in range(partitions.PARTITIONS)}
    answers = await append.append(log, "evt", batches, worlds.window())
    assert [*batches] == [answers[p][0].position.partition for p in batches]


async def test_many_callers_at_once_each_get_their_own_answers(log: client.Log) -> None:
    async def one(n: int) -> None:
        await log.command("SCRIPT", "FLUSH")
        [answer] = await worlds.append_items(log, worlds.item(f"e{n}", f"admin/r{n}"))
        assert isinstance(answer, append.Appended)
        [found] = await log.pipeline([("XRANGE", log.keys.partitions[P].evt, *[answer.position.entry_id] * 2)])
        assert f"e{n}".encode() in repr(found).encode()

    await asyncio.gather(*(one(n) for n in range(40)))


async def test_a_cancelled_call_leaves_the_next_one_its_own_answer(log: client.Log) -> None:
    for n in range(20):
        call = asyncio.create_task(worlds.append_items(log, worlds.item(f"e{n}", f"admin/r{n}")))
        for _ in range(n % 4):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        claimed = await tasks.claim_due(log, 1, 1)
        found = {partition: (one.tasks, one.next_in_ms) for partition, one in claimed.items()}
        assert dict.fromkeys(range(partitions.PARTITIONS), ([], None)) == found


@pytest.mark.parametrize("bad", ["\ud800", None], ids=["no UTF-8", "no argument"])
async def test_a_command_that_cannot_be_packed_leaves_the_next_ones_their_own_answers(
    log: client.Log, bad: str | None
) -> None:
    for name in ("a", "b", "c"):
        await log.command("SET", name, name)
    await log.pipeline([("PING",)])
    with pytest.raises((TypeError, UnicodeEncodeError)):
        await log.pipeline([("GET", "a"), ("GET", bad)])  # type: ignore[list-item]
    found = await asyncio.gather(*(log.pipeline([("GET", name)]) for name in ("a", "b", "c")))
    assert [[b"a"], [b"b"], [b"c"]] == found


async def test_a_write_that_fails_leaves_nobody_who_takes_the_answer_of_another(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.pipeline([("PING",)])
    connection = log._commands._connection
    assert connection is not None

    def fails(data: bytes) -> None:
        raise RuntimeError("unable to perform operation; the handler is closed")

    with monkeypatch.context() as patch:
        patch.setattr(connection, "_transport", _Failing(connection._transport, fails))
        with pytest.raises(errors.StoreUnavailable):
            await log.pipeline([("GET", "a")])
    assert connection.closed
    assert [b"PONG"] == await log.pipeline([("PING",)])


class _Failing:
    """A transport whose writes fail."""

    def __init__(self, transport: Any, write: Callable[[bytes], None]) -> None:
        self._transport, self.write = transport, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def test_what_a_server_says_unasked_is_nobodys_answer(log: client.Log) -> None:
    await log.pipeline([("PING",)])
    connection = log._commands._connection
    assert connection is not None
    connection.data_received(b"+nobody asked\r\n")
    assert connection.closed
    assert [b"PONG"] == await log.pipeline([("PING",)])


async def test_a_script_that_fails_is_our_error_and_says_no_payload(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append, "APPEND_LIMIT_S", 0.1)
    await log.command("SET", log.keys.partitions[P].evt, "x")
    with pytest.raises(errors.StoreUnavailable) as caught:
        await worlds.append_items(log, worlds.item(data=b'{"secret":1}'))
    assert ("redis", False) == (caught.value.store, "secret" in str(caught.value))


@both
@pytest.mark.invariant("R3")
async def test_a_full_store_says_so_and_nothing_is_half_written(own_log: client.Log) -> None:
    """R3, on the side of the log: every script refuses before its first write or does the whole."""
    log, keys = own_log, own_log.keys.partitions[P]
    await worlds.regroup(log)
    entry_id = await worlds.publish(log, "before")
    await worlds.show(log, worlds.destination())
    await log.command("XREADGROUP", "GROUP", partitions.GROUP, "d0", "STREAMS", keys.evt, ">")
    await worlds.make_due(log, a1=1, a2=1)
    used = [keys.evt, keys.dlv, keys.due, keys.want, keys.ver]
    before = await log.pipeline([("DUMP", key) for key in used])
    size = await log.command("DBSIZE")
    await log.command("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(errors.StoreFull):
        await worlds.append_items(log, worlds.item("e1", following=1), worlds.item("e2"))
    with pytest.raises(errors.StoreFull):
        await worlds.record(log, "1/5-0/d@1", retry_in_ms=5)
    with pytest.raises(errors.StoreFull):
        await worlds.begin(log, "2/5-0/d@1")
    with pytest.raises(errors.StoreFull):
        (await tasks.claim_due(log, 1, 10)).whole()
    with pytest.raises(errors.StoreFull):
        await log.command("SET", "k", "v")
    opening = {P: [tasks.Opening(entry_id, (f"1/{entry_id}/d@1",))]}
    with pytest.raises(errors.StoreFull):
        (await tasks.open_entries(log, opening, 5)).whole()
    assert before == await log.pipeline([("DUMP", key) for key in used])
    assert size == await log.command("DBSIZE")
    await log.command("CONFIG", "SET", "maxmemory", 0)
    assert {P: [True]} == (await tasks.open_entries(log, opening, 5)).whole()
    assert f"1/{entry_id}/d@1" in await worlds.due(log)
    answers = await worlds.append_items(log, worlds.item("e1", following=1), worlds.item("e2"))
    assert [append.Appended, append.Appended] == [type(answer) for answer in answers]


@both
async def test_a_replica_refuses_to_write_and_that_is_a_store_that_is_away(own_log: client.Log) -> None:
    await worlds.make_due(own_log, a1=1)
    await own_log.command("REPLICAOF", "127.0.0.1", free_port())
    with pytest.raises(errors.StoreUnavailable) as caught:
        await worlds.record(own_log, "1/5-0/d@1")
    assert not isinstance(caught.value, errors.StoreFull)


async def test_a_server_that_is_not_there_is_a_store_that_is_away() -> None:
    log = client.open_log(client.RedisAddress("127.0.0.1", free_port(), password="hunter2"))
    for call in (log.command("PING"), log.wait("PING"), log.pipeline([("PING",)]), tasks.claim_due(log, 1, 1)):
        with pytest.raises(errors.StoreUnavailable) as caught:
            await call
        assert "hunter2" not in str(caught.value)
    await log.close()


class _Refusing(asyncio.Protocol):
    """A connection of a server that answers every command with one error."""

    def __init__(self, reply: str, opened: set[asyncio.BaseTransport]) -> None:
        self._opened = opened
        self._reply = reply.encode() + b"\r\n"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._commands = transport, hiredis.Reader()
        self._opened.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._opened.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._commands.feed(data)
        while self._commands.gets() is not False:
            self._transport.write(self._reply)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("-LOADING Redis is loading the dataset in memory", errors.StoreUnavailable),
        ("-MASTERDOWN Link with MASTER is down", errors.StoreUnavailable),
        ("-MISCONF Errors writing to the AOF file", errors.StoreFull),
        ("-NOAUTH Authentication required.", errors.StoreRefused),
        ("-WRONGPASS invalid username-password pair or user is disabled.", errors.StoreRefused),
        ("-NOPERM this user has no permissions to run the 'ping' command", errors.StoreRefused),
        ("-CROSSSLOT Keys in request don't hash to the same slot", errors.StoreRefused),
        ("-MOVED 3999 127.0.0.1:6381", errors.StoreRefused),
        ("-CLUSTERDOWN Hash slot not served", errors.StoreRefused),
        ("-BUSY Redis is busy running a script", errors.StoreUnavailable),
        ("-OOM command not allowed when used memory > 'maxmemory'.", errors.StoreFull),
        ("-NOGROUP No such key 'k' or consumer group 'dispatch'", errors.GroupMissing),
    ],
)
async def test_each_kind_of_refusal_is_told_apart_on_every_way(
    reply: str, kind: type[errors.StoreUnavailable]
) -> None:
    opened: set[asyncio.BaseTransport] = set()
    server = await asyncio.get_running_loop().create_server(lambda: _Refusing(reply, opened), "127.0.0.1")
    log = client.open_log(client.RedisAddress("127.0.0.1", server.sockets[0].getsockname()[1]))
    for call in (log.command("PING"), log.wait("PING"), log.pipeline([("PING",)]), tasks.claim_due(log, 1, 1)):
        with pytest.raises(errors.StoreUnavailable) as caught:
            await call
        assert kind is type(caught.value)
    await log.close()
    server.close()
    await server.wait_closed()
    await eventually(lambda: not opened)


@both
@pytest.mark.invariant("L1")
async def test_after_a_kill_every_kind_of_call_works_again(own_redis: RedisServer, own_log: client.Log) -> None:
    """L1."""
    log = own_log
    ids = [await worlds.publish(log, f"e{n}") for n in range(50)]
    own_redis.kill9()
    for call in (log.command("PING"), log.wait("PING"), tasks.claim_due(log, 1, 1)):
        with pytest.raises(errors.StoreUnavailable):
            await call
    own_redis.restart()

    async def back() -> bool:
        try:
            await tasks.claim_due(log, 1, 1)
            await log.wait("PING")
            return bool(await log.command("PING"))
        except errors.StoreUnavailable:
            return False

    await eventually(back)
    found = await log.command("XRANGE", log.keys.partitions[P].evt, "-", "+")
    assert ids == [entry_id.decode() for entry_id, _ in found]


async def test_an_address_never_shows_its_password() -> None:
    address = client.RedisAddress("redis.example", username="u", password="hunter2")
    assert "hunter2" not in f"{address!r} {address}"


async def test_a_call_of_nothing_answers_nothing_and_leaves_the_connection_in_step(log: client.Log) -> None:
    script = client.load_script("hold")
    assert [] == await log.call(script, [])
    keys = log.keys.partitions[0]
    assert [[], [b"t"]] == await log.call(script, [((keys.due,), ()), ((keys.due,), ("t", 0))])


def test_a_connection_that_is_lost_in_the_same_turn_of_the_loop_is_a_store_that_is_away() -> None:
    """uvloop, which the product runs on, raises a RuntimeError there; it ended the process."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def write_to_what_was_lost() -> None:
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            await reader.read()
            writer.transport.abort()
            await asyncio.sleep(0)
            for border in (client.mapped_errors, stores.mapped_errors):
                with pytest.raises(errors.StoreUnavailable), border():
                    writer.write(b"PING")
                with pytest.raises(RuntimeError, match="ours"), border():
                    raise RuntimeError("a fault of ours")

    uvloop.run(write_to_what_was_lost())


def test_a_reset_at_any_moment_is_a_store_that_is_away_and_is_got_over(redis70: RedisServer) -> None:
    async def resets() -> None:
        async with Toxic(redis70.host, redis70.port) as proxy:
            log = client.open_log(client.RedisAddress(proxy.host, proxy.port))
            for turns in range(60):
                calls = [asyncio.create_task(call) for call in (log.command("PING"), log.wait("PING"))]
                calls.append(asyncio.create_task(tasks.claim_due(log, 1, 1)))
                for _ in range(turns % 20):
                    await asyncio.sleep(0)
                proxy.reset()
                for outcome in await asyncio.gather(*calls, return_exceptions=True):
                    assert not isinstance(outcome, BaseException) or isinstance(outcome, errors.StoreUnavailable)

            async def works() -> bool:
                with contextlib.suppress(errors.StoreUnavailable):
                    return b"PONG" == await log.wait("PING") and await log.command("PING")
                return False

            await eventually(works)
            await log.close()

    uvloop.run(resets())
