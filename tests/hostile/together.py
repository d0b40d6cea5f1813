"""Every attack at once beside a healthy tenant, and what the server under attack is measured by.

`measure` runs the healthy tenant alone for a while, then beside all of `attacks.ALL`, and returns a `Report`;
`Report.problems` says what does not hold. The server runs all roles in one process on stores of its own, and the
attacks run in another process. `make hostile` holds every figure. On a machine that does other things too, only
those hold that do not depend on its speed: bytes, counts, descriptors, tasks, and the CPU time of a callback
beside that of a piece of work that is measured with it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import psutil

from tests.harness import cost, counting, process, receiver, servers, watched_entry
from tests.harness.polling import eventually
from tests.hostile import attacks

TENANT = "healthy"
RATE = 50  # events a second of the healthy tenant
WARM_S = 2.0
SAMPLE_S = 0.1
MAX_RSS_MB = 400
MAX_HELD_S = 0.1
MAX_HELD_UNITS = 12  # see cost.unit_s
MAX_RATIO = 3.0
END_S = 60.0  # of the attacks, beyond their time
RECOVERY_S = 120.0  # until descriptors, tasks and threads are back
ATTACK_RATE = 100  # events a second of all attacks together
# What the server keeps for the next delivery or request, whoever it is from: senders and threads of pools, which
# have bounds of their own, as the connections to the stores have.
KEPT = {"Senders._loop", "outpost-dns", "outpost-send", "matching", "asyncio", "uvloop"}
SPARE_DESCRIPTORS, SPARE_TASKS, SPARE_THREADS = 16, 8, 4
WORST = 5
SETTINGS = {"LOG_LEVEL": "info", "DELIVERY_TIMEOUT_SECONDS": "5"}


@dataclasses.dataclass(frozen=True)
class Held:
    """What the server holds at one moment."""

    descriptors: int
    tasks: dict[str, int]
    threads: dict[str, int]

    def exceeds(self, before: Held) -> bool:
        """Whether it is more than was held before, beyond what is kept for reuse."""
        return (
            self.descriptors > before.descriptors + SPARE_DESCRIPTORS
            or sum(_more(self.tasks, before.tasks).values()) > SPARE_TASKS
            or sum(_more(self.threads, before.threads).values()) > SPARE_THREADS
        )


def _more(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """How many there are of each name beyond those before, without what is kept."""
    more = Counter(after) - Counter(before)
    return {name: count for name, count in more.items() if name not in KEPT}


@dataclasses.dataclass(frozen=True)
class Report:
    """What was measured. Times are in seconds, the p99 from when an event was due to its arrival. `refused` are
    publishes of the healthy tenant; `counts` and `assault` say what went wrong with its events and the attacks;
    `attempts` are those to the destinations of attackers; `unit_s` is that of `cost.unit_s`, the most of it."""

    alone_p99_s: float
    beside_p99_s: float
    max_rss_mb: float
    worst: Sequence[watched_entry.Held]
    unit_s: float
    refused: Sequence[str]
    counts: str
    assault: str
    attempts: int
    before: Held
    after: Held

    def problems(self, *, timed: bool) -> list[str]:
        """A sentence for each thing that does not hold; what depends on the machine's speed only if `timed`."""
        found = [self.assault, self.counts]
        if self.refused:
            found.append(f"{len(self.refused)} publishes of the healthy tenant failed, first {self.refused[0]}")
        if not self.attempts:
            found.append("no attack came as far as a delivery")
        if self.max_rss_mb > MAX_RSS_MB:
            found.append(f"RSS rose to {self.max_rss_mb:.0f} MB, and {MAX_RSS_MB} MB are allowed")
        found += [
            f"{one.callback} held the event loop for {one.cpu_s * 1e3:.0f} ms of CPU"
            for one in self.worst
            if one.cpu_s > (MAX_HELD_S if timed else MAX_HELD_UNITS * self.unit_s)
        ]
        if self.after.exceeds(self.before):
            found.append(
                f"{self.before.descriptors} descriptors before the attacks, {self.after.descriptors} after them;"
                f" more tasks: {_more(self.after.tasks, self.before.tasks)};"
                f" more threads: {_more(self.after.threads, self.before.threads)}"
            )
        if timed and self.beside_p99_s > MAX_RATIO * self.alone_p99_s:
            beside, alone = self.beside_p99_s * 1e3, self.alone_p99_s * 1e3
            found.append(f"p99 of the healthy tenant is {beside:.0f} ms, and {alone:.0f} ms alone")
        return [one for one in found if one]

    def lines(self) -> list[str]:
        """The figures for people, a line each."""
        alone, beside = self.alone_p99_s * 1e3, self.beside_p99_s * 1e3
        return [
            f"p99 of the healthy tenant: {alone:.1f} ms alone, {beside:.1f} ms beside the attacks",
            f"attempts at deliveries to attackers: {self.attempts}",
            f"RSS at most: {self.max_rss_mb:.0f} MB",
            *(f"longest on the loop: {one.cpu_s * 1e3:.0f} ms of CPU in {one.callback}" for one in self.worst),
            f"a megabyte of JSON is read in {self.unit_s * 1e3:.0f} ms",
            f"descriptors: {self.before.descriptors} before, {self.after.descriptors} after",
            f"tasks: {sum(self.before.tasks.values())} before, {sum(self.after.tasks.values())} after",
            f"threads: {sum(self.before.threads.values())} before, {sum(self.after.threads.values())} after",
        ]


class Healthy:
    """A tenant at a steady rate, and its receiver."""

    def __init__(self, server: process.Outpost, receiving: receiver.Receiver) -> None:
        self.sent: list[str] = []
        self.refused: list[str] = []
        self.arrived: dict[str, float] = {}
        self._server = server
        self._receiving = receiving
        receiving.always(self._note)

    def _note(self, request: receiver.Request) -> receiver.Script:
        self.arrived.setdefault(request.headers["x-outpost-event-id"], time.monotonic())
        return receiver.answer()

    async def set_up(self) -> None:
        await self._server.tenant(TENANT)
        await self._server.webhook(TENANT, self._receiving.url())

    async def publish(self, prefix: str, seconds: float) -> float:
        """Publishes for so long; returns the p99 in seconds, from when each event was due to its arrival."""
        began = time.monotonic()
        due = {f"{prefix}-{n}": began + n / RATE for n in range(int(RATE * seconds))}
        publishing = []
        for id_, at in due.items():
            await asyncio.sleep(at - time.monotonic())
            publishing.append(asyncio.create_task(self._one(id_)))
        await asyncio.gather(*publishing)
        await eventually(lambda: due.keys() - set(self.refused) <= self.arrived.keys())
        latencies = sorted(self.arrived[id_] - at for id_, at in due.items() if id_ in self.arrived)
        return latencies[int(len(latencies) * 0.99) - 1]

    async def _one(self, id_: str) -> None:
        self.sent.append(id_)
        try:
            await self._server.publish(TENANT, id_)
        except (aiohttp.ClientError, TimeoutError, AssertionError):
            self.refused.append(id_)

    async def miscounted(self, counts: counting.Counts) -> str:
        """A sentence if an event of the tenant was not accepted, delivered and logged, each once."""
        sent = set(self.sent)
        events = [row[0] for row in await counts.sql(f"SELECT event_id FROM event WHERE tenant_id = '{TENANT}'")]
        where = f"WHERE tenant_id = '{TENANT}' AND status = 'success'"
        attempts = [row[0] for row in await counts.sql(f"SELECT event_id FROM attempt {where}")]
        if sent == set(self.arrived) == set(events) == set(attempts) and len(sent) == len(events) == len(attempts):
            return ""
        return (
            f"{len(sent)} events were sent, {len(self.arrived)} arrived, {len(events)} are logged"
            f" with {len(attempts)} successful attempts"
        )


async def measure(
    redis: servers.RedisServer,
    postgres_url: str,
    folder: Path,
    *,
    alone_s: float,
    attack_s: float,
    nice: int = 0,
    only: Sequence[str] = (),
    own_loop: bool = False,
) -> Report:
    """Starts a server on these stores, measures it for `alone_s` + `attack_s` seconds and until it is at rest. The
    attacks run at the priority `nice`; `only` names those to run where they are not all. With `own_loop` the
    server has the event loop of the product, and callbacks are not measured."""
    report = folder / "loop.jsonl"
    server = process.Outpost(redis, postgres_url, folder, changes=(), report=report, own_loop=own_loop, **SETTINGS)
    async with server, receiver.Receiver() as receiving, counting.Counts(redis, postgres_url) as counts:
        healthy = Healthy(server, receiving)
        kept = {receiving.port, redis.port, urlsplit(postgres_url).port or 0}
        await healthy.set_up()
        await healthy.publish("warm", WARM_S)
        alone = await healthy.publish("alone", alone_s)
        before, began = await _held(server, report, kept), time.monotonic()
        async with _sampled(server) as rss:
            async with _assault(server, attack_s, nice, only) as told:
                units = [await asyncio.to_thread(cost.unit_s)]
                beside = await healthy.publish("beside", attack_s)
                units.append(await asyncio.to_thread(cost.unit_s))
            after = await _recovered(server, report, kept, before)
        await counts.rest(RECOVERY_S)
        lines = watched_entry.read(report)
        held = [one for one in lines if isinstance(one, watched_entry.Held) and one.at > began]
        return Report(
            alone_p99_s=alone,
            beside_p99_s=beside,
            max_rss_mb=max(rss),
            worst=sorted(held, key=lambda one: -one.cpu_s)[:WORST],
            unit_s=max(units),
            refused=healthy.refused,
            counts=await healthy.miscounted(counts),
            assault="\n".join(told),
            attempts=(await counts.sql(f"SELECT count(*) FROM attempt WHERE tenant_id <> '{TENANT}'"))[0][0],
            before=before,
            after=after,
        )


async def _held(server: process.Outpost, report: Path, kept: set[int]) -> Held:
    """What the server holds, but for connections to the ports that are kept and those of the healthy tenant."""
    await server.hang_up()
    watched = psutil.Process(server.pid)
    counts = [one for one in watched_entry.read(report) if isinstance(one, watched_entry.Counts)][-1]
    connections = sum(one.raddr.port in kept for one in watched.net_connections("tcp") if one.raddr)
    of_libraries = max(0, watched.num_threads() - sum(counts.threads.values()))
    threads = {**counts.threads, "of libraries": of_libraries}
    return Held(watched.num_fds() - connections, counts.tasks, threads)


async def _recovered(server: process.Outpost, report: Path, kept: set[int], before: Held) -> Held:
    """What the server holds once that is as before, or else when the time for it is over."""
    deadline = time.monotonic() + RECOVERY_S
    while (held := await _held(server, report, kept)).exceeds(before) and time.monotonic() < deadline:
        await asyncio.sleep(SAMPLE_S)
    return held


@asynccontextmanager
async def _sampled(server: process.Outpost) -> AsyncIterator[list[float]]:
    """The server's resident memory in MB, at every moment so far."""
    watched, samples = psutil.Process(server.pid), [0.0]

    async def sample() -> None:
        while True:
            samples.append(watched.memory_info().rss / 1e6)
            await asyncio.sleep(SAMPLE_S)

    sampling = asyncio.create_task(sample())
    try:
        yield samples
    finally:
        sampling.cancel()


@asynccontextmanager
async def _assault(
    server: process.Outpost, seconds: float, nice: int, only: Sequence[str]
) -> AsyncIterator[list[str]]:
    """Attacks the server from another process; afterwards the list says what went wrong with the attacks."""
    port = server.url.rsplit(":", 1)[1]
    words = ["--port", port, "--key", process.KEY, "--seconds", str(seconds)]
    words += ["--pause", str(len(only or attacks.ALL) / ATTACK_RATE), "--nice", str(nice)]
    words += ["--only", *only] if only else []
    attacking = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.hostile.assault", *words, cwd=process.ROOT, stderr=asyncio.subprocess.PIPE
    )
    told: list[str] = []
    try:
        yield told
        _, errors = await asyncio.wait_for(attacking.communicate(), END_S)
        if attacking.returncode:
            told.append(errors.decode())
    finally:
        if attacking.returncode is None:
            attacking.kill()
            await attacking.communicate()
