"""The wall clocks of Redis and of a process are stepped under load, far and back: nothing is lost or doubled."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash import scene
from tests.harness import clocks, counting, servers
from tests.harness import node as nodes
from tests.harness import receiver as receivers
from tests.harness.polling import eventually
from tests.harness.process import Crash, Outpost

EVENTS_A_STEP = 8
# Of the clock of Redis, in s. The second goes back further than the longest delay, and less than half a window.
OFFSETS_S = (0, 300, -300, -320, 3, 0)
AHEAD_S = 1_000
ENVIRONMENT = scene.ENVIRONMENT | {"RETRY_AFTER_MAX_SECONDS": "0"}  # the longest delay is one and a half minutes


@pytest.fixture
def clock(tmp_path: Path) -> clocks.Clock:
    clocks.require()
    return clocks.Clock(tmp_path, "store")


@pytest.fixture
def stepped(clock: clocks.Clock) -> Iterator[servers.RedisServer]:
    """A Valkey with that clock."""
    server = servers.RedisServer(servers.VALKEY_9, clock.valkey())
    yield server
    server.close()


@pytest.mark.invariant("L1", "L2", "D1", "D2")
async def test_a_clock_that_is_stepped_neither_loses_nor_doubles(
    clock: clocks.Clock,
    stepped: servers.RedisServer,
    postgres_url: str,
    tmp_path: Path,
    receiver: receivers.Receiver,
) -> None:
    own = clocks.Clock(tmp_path, "process")
    client = scene.Client(EVENTS_A_STEP * len(OFFSETS_S))
    started = Outpost(stepped, postgres_url, tmp_path, changes=scene.CHANGES, **ENVIRONMENT | own.environment)
    async with counting.Counts(stepped, postgres_url) as counts, started as server:
        await scene.prepare(server, receiver)
        for number, offset_s in enumerate(OFFSETS_S):
            clock.step_to(offset_s)
            own.step_to(OFFSETS_S[-number])
            await eventually(lambda at=offset_s: _is_ahead(counts, at))
            ids = client.wanted[EVENTS_A_STEP * number :][:EVENTS_A_STEP]
            for id_ in client.answers:
                assert (await server.publish(scene.TENANT, id_))["duplicate"], id_
            await client.publish(server, *ids)
        await scene.count(client, counts, receiver)
        assert 0 == await server.stop()


async def _is_ahead(counts: counting.Counts, offset_s: float) -> bool:
    """Whether the clock of Redis is so far ahead of ours."""
    seconds, micros = await counts.log.command("TIME")
    return abs(int(seconds) + int(micros) / 1e6 - time.time() - offset_s) < 1


@pytest.mark.invariant("D1")
async def test_what_died_while_the_clock_was_ahead_is_taken_over_soon_after_it_went_back(
    clock: clocks.Clock,
    stepped: servers.RedisServer,
    postgres_url: str,
    tmp_path: Path,
    receiver: receivers.Receiver,
) -> None:
    """Its leases and what it had read are dated far into the future."""
    client = scene.Client(EVENTS_A_STEP)
    serve = functools.partial(Outpost, stepped, postgres_url, tmp_path, changes=scene.CHANGES, **ENVIRONMENT)
    clock.step_to(AHEAD_S)
    async with counting.Counts(stepped, postgres_url) as counts:
        async with serve(crash=Crash("outpost.dispatch.dispatcher:Dispatcher._open_some")) as died:
            await scene.prepare(died, receiver)
            await client.publish(died)
            await died.crashed()
        assert 0 < await nodes.pending(counts.log)
        clock.step_to(0)
        async with serve() as other:
            await client.insist(other)
            await scene.count(client, counts, receiver)
