"""The loop that background work is driven by: `pacing.repeat` and what is built on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import pytest

from outpost import errors, pacing, telemetry

AWAY = errors.StoreUnavailable("postgres", "connection refused")


class _Pause(pacing.Pause):
    """A pause of no length that counts."""

    def __init__(self) -> None:
        super().__init__(0.0, 0.0)
        self.told: list[str] = []

    def next_s(self) -> float:
        self.told.append("next")
        return super().next_s()

    def reset(self) -> None:
        self.told.append("reset")


def _steps(
    stop: asyncio.Event, answers: Iterable[float | Exception | None]
) -> Callable[[], Awaitable[float | None]]:
    """A step that gives these answers one after the other, and sets `stop` with the last one."""
    left = list(answers)

    async def step() -> float | None:
        answer = left.pop(0)
        if not left:
            stop.set()
        if isinstance(answer, Exception):
            raise answer
        return answer

    return step


async def _repeat(answers: Iterable[float | Exception | None]) -> tuple[telemetry.Health, _Pause]:
    stop, health, pause = asyncio.Event(), telemetry.Health("test"), _Pause()
    await pacing.repeat(_steps(stop, answers), stop, health, pause)
    return health, pause


async def test_a_failed_step_is_followed_by_a_pause_and_a_step_that_succeeds_resets_it() -> None:
    _, pause = await _repeat([AWAY, AWAY, 0, AWAY, 0])
    assert ["next", "next", "reset", "next", "reset"] == pause.told


async def test_health_says_which_store_is_away_until_a_step_succeeds() -> None:
    health, _ = await _repeat([0, AWAY])
    assert (False, "postgres: connection refused") == (health.healthy, health.reason)
    health, _ = await _repeat([AWAY, 0])
    assert (True, "") == (health.healthy, health.reason)


async def test_a_step_that_had_nothing_to_do_says_nothing_of_the_store() -> None:
    health, pause = await _repeat([AWAY, None, None])
    assert not health.healthy
    assert ["next"] == pause.told


async def test_other_failures_end_the_loop_unless_they_are_named() -> None:
    stop, health = asyncio.Event(), telemetry.Health("test")
    with pytest.raises(errors.NotFound):
        await pacing.repeat(_steps(stop, [errors.NotFound("tenant"), 0]), stop, health)
    step = _steps(stop, [errors.NotFound("tenant"), None])
    await pacing.repeat(step, stop, health, _Pause(), failures=errors.OutpostError)
    assert "redis: NotFound" == health.reason


async def test_whoever_judges_a_step_may_call_it_a_failure_in_part() -> None:
    stop, health = asyncio.Event(), telemetry.Health("test")

    def judge() -> None:
        health.fell("redis", "partition 07 is halted")

    await pacing.repeat(_steps(stop, [0]), stop, health, judge=judge)
    assert "redis: partition 07 is halted" == health.reason


async def test_every_sleep_ends_with_the_stop() -> None:
    stop, health = asyncio.Event(), telemetry.Health("test")
    began = asyncio.Event()

    async def step() -> None:
        began.set()

    running = asyncio.create_task(pacing.every(3600, step, stop, health))
    await began.wait()
    stop.set()
    async with asyncio.timeout(60):
        await running


async def test_waking_tells_of_the_stop_and_of_nothing_else() -> None:
    stop, woken = asyncio.Event(), asyncio.Event()
    with pacing.waking(stop, woken.set):
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not woken.is_set()
    with pacing.waking(stop, woken.set):
        stop.set()
        async with asyncio.timeout(60):
            await woken.wait()
