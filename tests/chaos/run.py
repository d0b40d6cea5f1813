"""One run: start everything, spoil it by the plan while events are published, heal it, count."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from tests.chaos import faults, plan, traffic, verdict
from tests.chaos.members import Client, Member
from tests.harness import clocks, counting, servers
from tests.harness.toxic import Toxic

WATCH_S = 0.2
LAST_LIMIT_S = 180.0  # for what is under way when the last step is over

Say = Callable[[str], None]


class Result(msgspec.Struct, frozen=True):
    """What a run did, and what did not hold at its end."""

    seed: int
    done: dict[str, int]
    events: int
    requests: int
    refused: int
    duplicates: int
    starts: int
    faults: list[str]

    def __str__(self) -> str:
        did = ", ".join(f"{n} x {kind}" for kind, n in sorted(self.done.items()))
        return (
            f"seed {self.seed}: {did}\n{self.events} events acknowledged, {self.duplicates} of them asked for"
            f" again, {self.refused} requests refused or cut off; {self.requests} requests at the receiver;"
            f" {self.starts} processes started"
        )


async def run(seed: int, seconds: float, folder: Path, say: Say, kind: str = servers.VALKEY_9) -> Result:
    """A run of about `seconds` on a Redis of this kind; what the processes said is left in `folder`. Clocks are
    stepped on Valkey only, where libfaketime is there."""
    async with _stage(seed, folder, kind) as (stage, counts):
        say(f"seed {seed}: {', '.join(member.service for member in stage.members)}")
        acts = faults.Faults(stage)
        try:
            await _spoil(stage, acts, seed, seconds, say)
        except* Exception as problems:
            found = [f"{type(e).__name__} while things were spoilt: {e}" for e in problems.exceptions]
        else:
            say("          healed; waiting until everything has come to rest")
            found = await verdict.judge(counts, stage)
        return Result(
            seed,
            acts.done,
            len(stage.publishers.answers),
            stage.receiver.seen,
            stage.client.refused,
            stage.publishers.duplicates,
            sum(member.starts for member in stage.members),
            found,
        )


async def _spoil(stage: faults.Stage, acts: faults.Faults, seed: int, seconds: float, say: Say) -> None:
    """Publishes and does the steps, until the last of them is undone and every publisher has its answer."""
    stop = asyncio.Event()
    begin = time.monotonic()
    async with asyncio.timeout(seconds + LAST_LIMIT_S), asyncio.TaskGroup() as under_way:
        watching = under_way.create_task(_watch(stage.members))
        publishing = [under_way.create_task(stage.publishers.run(stop)) for _ in range(traffic.PUBLISHERS)]
        steps = []
        for step in plan.steps(seed, seconds):
            await asyncio.sleep(begin + step.at_s - time.monotonic())
            say(str(step))
            steps.append(under_way.create_task(acts.do(step)))
        await asyncio.gather(*steps)
        for proxy in stage.proxies.values():
            proxy.heal()
        stop.set()
        await asyncio.gather(*publishing)
        watching.cancel()


async def _watch(members: list[Member]) -> None:
    while True:
        for member in members:
            member.check()
        await asyncio.sleep(WATCH_S)


@contextlib.asynccontextmanager
async def _stage(seed: int, folder: Path, kind: str) -> AsyncIterator[tuple[faults.Stage, counting.Counts]]:
    """Stores, the ways to them, a receiver, processes and tenants; all gone at the end."""
    chance = random.Random(f"traffic {seed}")
    async with contextlib.AsyncExitStack() as open_ones:
        stepped = kind == servers.VALKEY_9 and clocks.library() is not None
        clock = clocks.Clock(folder, "store") if stepped else None
        redis = servers.RedisServer(kind, clock and clock.valkey())
        postgres = servers.PostgresServer(servers.POSTGRES_18)
        open_ones.callback(redis.close)
        open_ones.callback(postgres.close)
        receiver = traffic.Receiver(chance)
        await open_ones.enter_async_context(receiver.server)
        ports = {"redis": redis.port, "postgres": postgres.port, "receiver": receiver.server.port}
        proxies = {
            name: await open_ones.enter_async_context(Toxic("127.0.0.1", port)) for name, port in ports.items()
        }
        url = postgres.url.replace(f":{postgres.port}/", f":{proxies['postgres'].port}/")
        members = []
        for n, service in enumerate(plan.layout(seed)):
            own = clocks.Clock(folder, f"process-{n}") if stepped else None
            members.append(Member(service, proxies["redis"], url, folder, own))
        for member in members:
            open_ones.push_async_callback(member.end)
        await asyncio.gather(*(member.start() for member in members))
        client = Client(members, chance)
        open_ones.push_async_callback(client.close)
        await traffic.prepare(client, receiver, proxies["receiver"])
        # Through the proxy, which leads to whichever server is the primary.
        counts = await open_ones.enter_async_context(counting.Counts(proxies["redis"], postgres.url))
        publishers = traffic.Publishers(client, chance)
        stores: dict[str, servers.Controlled] = {"redis": redis, "postgres": postgres}
        replicas: list[servers.RedisServer] = []
        open_ones.callback(lambda: [replica.close() for replica in replicas])
        yield faults.Stage(members, stores, proxies, receiver, publishers, client, replicas, clock), counts
