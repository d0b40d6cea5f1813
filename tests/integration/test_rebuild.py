"""Everything that is made of the log is made again from it: the same, and nothing else happens."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from outpost.log import partition as partitions
from outpost.log.delivery import requests
from outpost.log.operator import inspect
from outpost.log.redis import client
from projections.due import repair
from projections.logs import migrate, projector
from projections.logs import store as stores
from tests.harness import log_entries, read_model
from tests.harness import node as nodes
from tests.harness import receiver as receivers
from tests.harness.polling import eventually
from tests.harness.servers import RedisServer

TENANTS = ("acme", "größe/@", "t:3")
EVENTS = 10


@pytest.fixture
async def receiver() -> AsyncIterator[receivers.Receiver]:
    """Refuses the first attempt of each event at /flaky, and all of them at /bad."""
    refused: set[str] = set()

    def answer(request: receivers.Request) -> receivers.Script:
        id_ = request.headers["x-outpost-event-id"]
        if request.target == "/bad" or (request.target == "/flaky" and id_ not in refused):
            refused.add(id_)
            return receivers.answer(500, b'{"no": "\\u0000"}')
        return receivers.answer(200, "größe".encode())

    async with receivers.Receiver() as running:
        running.always(answer)
        yield running


@contextlib.asynccontextmanager
async def tables(url: str, deployment: str) -> AsyncIterator[stores.Store]:
    """The migrated tables of a deployment."""
    store = await stores.open_store(url, deployment)
    await migrate.apply_pending(store)
    yield store
    await store.close()


async def lived(log: client.Log, redis: RedisServer, receiver: receivers.Receiver) -> None:
    """Attempts that succeed, that are retried, that are given up, skipped, cancelled and asked for by hand."""
    async with nodes.Node(redis, retry_schedule_ms=(50,)) as node:
        for tenant in TENANTS:
            await node.tenant(tenant)
            for path in ("good", "flaky", "bad"):
                await node.webhook(tenant, receiver.url(f"/{path}"), f"{tenant}.{path}", metadata={"n": "ß"})
            for n in range(EVENTS):
                await node.publish(tenant, f"{tenant}.{n}", b'{"a": [1.0, "\\u00e4"] }', metadata={"k": "ö"})
            await node.disable(tenant, f"{tenant}.flaky")
            await node.delete(tenant, f"{tenant}.bad")
        await nodes.quiet(log)
        await node.enable("acme", "acme.flaky")
        for entry in await nodes.attempts(log):
            if entry.tenant == "acme" and entry.task.destination == "acme.good" and entry.event_id < "acme.3":
                asked = requests.Delivery("acme", entry.event_id, *entry.task[1:], last=1, closed=True, seen="0-0")
                await requests.request(log, "retry", asked, "admin/again")
        await nodes.quiet(log)


async def everything(redis: RedisServer) -> dict[bytes, bytes | None]:
    """Every key of the server but those of a rebuild, with its content as the server writes it down."""
    asking = redis.client()
    keys = [key for key in await asking.keys() if b":g%d:" % read_model.REBUILT not in key]
    return {key: await asking.dump(key) for key in keys}


@pytest.mark.invariant("P1", "P7")
async def test_a_rebuild_of_everything_is_what_is_live_and_has_no_effect(
    redis70: RedisServer, postgres_url: str, receiver: receivers.Receiver
) -> None:
    log = log_entries.open_log(redis70)
    await lived(log, redis70, receiver)
    async with tables(postgres_url, "") as live, tables(postgres_url, "again") as again:
        await projector.LogProjector(log, live, 1_000).drain(10.0)
        before, streams, requested = await everything(redis70), await inspect.streams(log), len(receiver.requests)

        await read_model.rebuild(log)
        rebuilding = projector.LogProjector(log, again, 7)
        assert await rebuilding.drain(30.0)
        assert 0 == await repair.mend_if_needed(log)

        assert await read_model.content(log) == await read_model.content(log, read_model.REBUILT)
        assert await log_entries.rows(live) == await log_entries.rows(again)
        assert before == await everything(redis70)
        assert streams == await inspect.streams(log)
        assert requested == len(receiver.requests)
        kinds = {entry.type for entry in await nodes.attempts(log)}
        assert {"attempt.succeeded", "attempt.failed", "delivery.skipped", "retry.requested"} <= kinds
    await log.close()


@pytest.mark.invariant("P7")
async def test_due_is_made_again_without_an_entry_or_a_request(
    redis70: RedisServer, receiver: receivers.Receiver
) -> None:
    """With the group lost and `due` with it, what is still to be done comes back, and only that."""
    log = log_entries.open_log(redis70)
    await lived(log, redis70, receiver)
    async with nodes.Node(redis70, deliver=False) as node:
        for n in range(EVENTS):
            await node.publish("t:3", f"waits.{n}")
    streams, requested = await inspect.streams(log), len(receiver.requests)
    for keys in log.keys.partitions:
        await log.command("DEL", keys.due)
        await log.command("XGROUP", "DESTROY", keys.evt, partitions.GROUP)
    assert EVENTS == await repair.mend_if_needed(log)
    assert EVENTS == len(await nodes.due(log))
    assert [(s.stream, s.length, s.added, s.last) for s in streams] == [
        (s.stream, s.length, s.added, s.last) for s in await inspect.streams(log)
    ]
    assert requested == len(receiver.requests)
    async with nodes.Node(redis70):
        await eventually(lambda: requested + EVENTS == len(receiver.requests))
        await nodes.quiet(log)
    await log.close()
