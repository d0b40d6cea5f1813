"""The loop that drives a projector: step after step without a pause, with growing pauses while a store is away.

A step applies what there is, the next one what came meanwhile, so batches grow with the load. The first entry
after idleness is applied at once; only small steps that follow each other are spaced, because a step costs 1.8 ms
of CPU whatever it holds (measured): without the spacing, 1,000 events and attempts a second in bursts of five took
0.61 of a core.
"""

from __future__ import annotations

import asyncio
import time

from outpost import errors, pacing
from outpost.log.redis import client
from outpost.log.upkeep import leadership
from projections import base

SPACING_S = 0.08  # from the begin of a small step to the begin of the next one
SMALL = 1_000  # entries; beyond them the rows cost more than the step


async def drive(
    projector: base.Projector,
    stop: asyncio.Event,
    pause: pacing.Pause | None = None,
    turn: leadership.Turn | None = None,
) -> None:
    """Runs until `stop` is set, then returns within the time of one blocking read. With a `turn`, works only while
    it has it. Never cancel it inside a command: the connection could be left off by one."""
    pause = pause or pacing.Pause()

    async def step() -> float | None:
        began = time.monotonic()
        if turn is not None and not await turn.ours():
            return leadership.LOOK_AGAIN_S
        entries = await projector.step(client.BLOCK_MS)
        if projector.health.halted:
            await pacing.sleep(pause.next_s(), stop)
            return None
        return SPACING_S - (time.monotonic() - began) if 0 < entries < SMALL else 0

    await pacing.repeat(step, stop, projector.health, pause)


async def drain(projector: base.Projector, limit_s: float) -> bool:
    """Applies what is left, for at most about `limit_s`; whether nothing is left. The clock is read between
    steps only, so that no command is cut off."""
    end = time.monotonic() + limit_s
    try:
        while time.monotonic() < end:
            if await projector.step() == 0:
                return not projector.health.halted
    except errors.StoreUnavailable:
        return False
    return False
