"""Every attack at once, in short: what does not depend on the speed of the machine is held here, and all of it by
`make hostile`. Beside that, what the measuring notices."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import process, watched_entry
from tests.harness.servers import RedisServer
from tests.hostile import assault, together
from tests.hostile.attack import Target

ALONE_S, ATTACK_S = 5.0, 20.0
NOTHING = together.Held(descriptors=30, tasks={"run": 30}, threads={"MainThread": 1})
GOOD = together.Report(
    alone_p99_s=0.01,
    beside_p99_s=0.03,
    max_rss_mb=400,
    worst=[watched_entry.Held(0.0, 0.1, "work")],
    unit_s=0.0084,
    refused=[],
    counts="",
    assault="",
    attempts=1,
    before=NOTHING,
    after=NOTHING,
)


async def test_a_healthy_tenant_and_the_servers_memory_loop_and_descriptors_survive_every_attack_at_once(
    own_redis: RedisServer, postgres_url: str, tmp_path: Path
):
    report = await together.measure(own_redis, postgres_url, tmp_path, alone_s=ALONE_S, attack_s=ATTACK_S)
    print("\n".join(report.lines()))
    assert [] == report.problems(timed=False)


def test_every_figure_that_does_not_hold_is_told():
    assert [] == GOOD.problems(timed=True)
    leaked = dataclasses.replace(NOTHING, tasks={"run": 30, "leak": together.SPARE_TASKS + 1})
    bad = dataclasses.replace(
        GOOD,
        beside_p99_s=0.031,
        max_rss_mb=401,
        worst=[watched_entry.Held(0.0, 0.101, "work")],
        refused=["e1"],
        counts="9 were sent",
        assault="it raised",
        attempts=0,
        after=leaked,
    )
    assert 7 == len(bad.problems(timed=False))
    assert 6 == len(dataclasses.replace(bad, unit_s=0.02).problems(timed=False))  # of a slower machine
    assert 8 == len(dataclasses.replace(bad, unit_s=0.02).problems(timed=True))
    assert "p99 of the healthy tenant is 31 ms, and 10 ms alone" in bad.problems(timed=True)


def test_a_callback_that_computes_for_long_is_reported_with_its_coroutine_and_one_that_waits_is_not(
    tmp_path: Path,
):
    script = """
import asyncio, gc, pathlib, sys, time
from tests.harness import watched_entry

async def computes():
    until = time.thread_time() + 0.2
    while time.thread_time() < until:
        pass

async def waits():
    time.sleep(0.2)

async def collects():
    held = [[] for _ in range(3_000_000)]
    gc.collect()

async def main():
    await asyncio.gather(*map(asyncio.create_task, (computes(), waits(), collects())))

with pathlib.Path(sys.argv[1]).open("a", buffering=1) as report:
    watched_entry.watch(report)
    asyncio.run(main())
"""
    report = tmp_path / "loop.jsonl"
    subprocess.run([sys.executable, "-c", script, str(report)], cwd=process.ROOT, check=True, timeout=60)
    held, collecting = watched_entry.read(report)
    assert isinstance(held, watched_entry.Held)
    assert "computes" == held.callback
    assert 0.2 <= held.cpu_s
    assert isinstance(collecting, watched_entry.Held)
    assert re.fullmatch(r"collects, [0-9]+ ms of it collecting garbage", collecting.callback)


async def test_an_attack_that_raises_or_does_not_end_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(assault, "END_S", 0.05)

    class Raises:
        name = "raises"

        async def run(self, target: Target, seconds: float) -> None:
            raise ValueError("by itself")

    class Hangs:
        name = "hangs"

        async def run(self, target: Target, seconds: float) -> None:
            await asyncio.Event().wait()

    told = await assault.run(Target("127.0.0.1", 1, "key"), 0.0, [Raises(), Hangs()])
    assert ["raises", "hangs"] == [line.partition(":")[0] for line in told]
