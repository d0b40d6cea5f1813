"""Random lives of deliveries, by the real scripts: no crash, loss or doubling makes the log and `due` disagree."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.contract import delivery_world, worlds
from tests.harness import servers

LIVES = 40
# Which kind of step among those that do something now, and which of that kind.
CHOICES = st.lists(st.tuples(st.integers(0, 9_999), st.integers(0, 9_999)), min_size=30, max_size=80)


async def _live(world: delivery_world.World, choices: list[tuple[int, int]]) -> None:
    await world.start()
    for kind_number, number in choices:
        options = world.options()
        kind, steps = options[kind_number % len(options)]
        note(kind)
        await steps[number % len(steps)]()
        await world.check()
    await world.finish()


@pytest.mark.parametrize("kind", servers.REDIS_KINDS)
@pytest.mark.invariant("D1", "D2", "D3", "D4", "D5", "D6", "D7", "D8", "D9")
def test_the_fold_of_the_log_is_what_is_live_after_every_step(
    kind: str, session_servers: servers.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1 to D9 in random interleavings."""
    server = session_servers.redis(kind)
    worlds.believe_the_clock(monkeypatch)
    with asyncio.Runner() as runner:
        log = worlds.open_log(server)

        @settings(max_examples=LIVES, suppress_health_check=[*HealthCheck], database=None)
        @given(CHOICES)
        def lives(choices: list[tuple[int, int]]) -> None:
            runner.run(_live(delivery_world.World(log, worlds.Clock(log)), choices))

        try:
            lives()
        finally:
            runner.run(log.close())
