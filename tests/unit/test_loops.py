"""The background loops of a process: who is told when to stop, and in which order their ends are awaited."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from outpost import errors, telemetry
from outpost.process import loops, readiness, roles
from outpost.process.roles import base

PHASES = (
    *(loops.REQUESTS, loops.APPENDS),
    *(loops.CLAIMS, loops.READS, loops.QUEUES, loops.SENDS),
    *(loops.PROJECTIONS, loops.UPKEEP),
)


class _Diary:
    """Loops that note when they are told to stop, and when their `then` runs."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.then: list[str] = []
        self.go_on = asyncio.Event()

    def loop(self, phase: loops.Phase, name: str = "", *, hangs: bool = False) -> loops.Loop:
        async def run(stop: asyncio.Event) -> None:
            await stop.wait()
            self.told.append(name or phase.name)
            if hangs:
                await self.go_on.wait()

        async def then() -> None:
            self.then.append(name or phase.name)

        return loops.Loop(name or phase.name, run, phase, then=then)


def test_every_phase_but_the_watches_is_awaited_once() -> None:
    awaited = [phase for row in loops.STOP_ORDER for phases in row for phase in phases]
    assert sorted(each.name for each in PHASES) == sorted(each.name for each in awaited)


def test_two_loops_cannot_share_a_name() -> None:
    diary = _Diary()
    with pytest.raises(ValueError, match="two loops are called twin"):
        loops.Loops([diary.loop(loops.READS, "twin"), diary.loop(loops.SENDS, "twin")])


async def test_phases_end_one_after_the_other_and_requests_beside_deliveries() -> None:
    diary = _Diary()
    running = loops.Loops([diary.loop(phase) for phase in reversed(PHASES)])
    running.start()
    await asyncio.sleep(0)
    await running.stop()
    order = [diary.then.index(phase.name) for phase in PHASES]
    requests, appends, claims, reads, queues, sends, projections, upkeep = order
    assert requests < appends < projections
    assert claims < reads < queues < sends < projections < upkeep
    assert not any(running.running().values())


async def test_a_loop_of_a_later_phase_hears_of_the_stop_once_the_earlier_ones_have_ended() -> None:
    diary = _Diary()
    running = loops.Loops(
        [
            diary.loop(loops.REQUESTS, hangs=True),
            diary.loop(loops.APPENDS),
            diary.loop(loops.SENDS),
            diary.loop(loops.PROJECTIONS),
            diary.loop(loops.UPKEEP),
        ]
    )
    running.start()
    stopping = asyncio.create_task(running.stop())
    while "sends" not in diary.then:
        await asyncio.sleep(0)
    assert {"requests", "sends", "upkeep"} == set(diary.told)
    assert ["sends"] == diary.then
    diary.go_on.set()
    await stopping
    assert ["requests", "appends", "projections", "upkeep"] == diary.then[1:]


async def test_a_loop_that_does_not_end_is_cancelled_and_the_next_phase_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    diary = _Diary()
    hurried = loops.Phase("hurried", 0.0)
    monkeypatch.setattr(loops, "STOP_ORDER", (((hurried, loops.SENDS),),))
    running = loops.Loops([diary.loop(hurried, hangs=True), diary.loop(loops.SENDS)])
    running.start()
    await asyncio.sleep(0)
    await running.stop()
    assert running.tasks["hurried"].cancelled()
    assert ["hurried", "sends"] == diary.then


async def test_watches_are_told_at_once_and_cut_off_at_the_end() -> None:
    diary = _Diary()
    running = loops.Loops([diary.loop(loops.WATCHES, hangs=True)])
    running.start()
    await asyncio.sleep(0)
    await running.stop()
    await asyncio.sleep(0)
    assert ["watches"] == diary.told
    assert {"watches": True} == running.running()
    await running.cancel()
    assert {"watches": False} == running.running()


class _Role(base.Role):
    def obstacles(self) -> list[str]:
        return ["the log is over its memory budget", "redis: away"]

    def setbacks(self) -> list[str]:
        return ["a partition is halted"]


def _idle() -> Callable[[asyncio.Event], Coroutine[Any, Any, Any]]:
    async def run(stop: asyncio.Event) -> None:
        await stop.wait()

    return run


@pytest.mark.behaviour(11)
async def test_workers_have_their_published_names_beside_ours() -> None:
    async def fails(stop: asyncio.Event) -> None:
        raise errors.StoreUnavailable("redis", "away")

    def named(**loop: Callable[[asyncio.Event], Coroutine[Any, Any, Any]]) -> loops.Loops:
        each = [loops.Loop(name.replace("_", "-"), run, loops.READS) for name, run in loop.items()]
        return loops.Loops(each)

    well, bad = _idle(), fails
    state = readiness.Readiness()
    for running, published in (
        (
            named(scheduler=well, dispatcher=well, worker=well),
            {"retrymq-consumer": True, "deliverymq-consumer": True},
        ),
        (named(dispatcher=well, worker=bad), {"deliverymq-consumer": False}),
        (named(dispatcher=bad, worker=well), {"deliverymq-consumer": False}),
        (named(log_projector=bad, publish_queue=well), {"logmq-consumer": False, "publishmq-consumer": True}),
        (named(http_server=well, worker=well), {}),
    ):
        running.start()
        await asyncio.sleep(0)
        state.observe(running, [])
        ours = {loop.name: loop.run is well for loop in running.loops}
        assert {**ours, **published} == state.workers()
        await running.cancel()


def test_every_loop_behind_a_published_worker_is_one_of_a_role() -> None:
    assert roles.__file__
    source = "".join(path.read_text() for path in Path(roles.__file__).parent.glob("*.py"))
    for loop in {loop for doing in readiness.PUBLISHED_WORKERS.values() for loop in doing}:
        assert re.search(rf'Loop\(\s*"{loop}"', source), loop


def test_readiness_tells_loops_that_are_required_from_others_and_each_reason_once() -> None:
    state = readiness.Readiness()
    assert ([], [], {}) == (state.obstacles(), state.setbacks(), state.workers())
    needed, useful, well = (telemetry.Health(name) for name in ("needed", "useful", "well"))
    needed.fell("redis", "away")
    useful.fell("postgres", "away")
    running = loops.Loops(
        [
            loops.Loop("needed", _idle(), loops.READS, needed),
            loops.Loop("well", _idle(), loops.READS, well),
            loops.Loop("useful", _idle(), loops.READS, useful, required=False),
            loops.Loop("silent", _idle(), loops.READS),
        ]
    )
    state.observe(running, [_Role()])
    assert ["redis: away", "the log is over its memory budget"] == state.obstacles()
    assert ["postgres: away", "a partition is halted"] == state.setbacks()
