"""One at a time, tenants in turn."""

from __future__ import annotations

import asyncio

from outpost.adapters.shared import turns
from tests.harness.polling import eventually


class Scene:
    """Who had a turn, in order; each is over by `finish`."""

    def __init__(self) -> None:
        self.turns = turns.Turns()
        self.had: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, *names: str) -> None:
        """`a1` asks for a turn of tenant `a`."""
        for name in names:
            self.tasks.append(asyncio.create_task(self._take(name)))
            await asyncio.sleep(0)

    async def _take(self, name: str) -> None:
        await self.turns.wait(name[0])
        self.had.append(name)

    async def finish(self, number: int) -> None:
        """As many turns, one after another."""
        for _ in range(number):
            before = len(self.had)
            self.turns.passed()
            await eventually(lambda at=before: len(self.had) == at + 1)


async def test_tenants_take_turns_and_each_keeps_its_order() -> None:
    scene = Scene()
    await scene.ask("a1", "a2", "a3", "b1", "c1", "c2")
    assert ["a1"] == scene.had
    await scene.finish(5)
    assert ["a1", "a2", "b1", "c1", "a3", "c2"] == scene.had
    scene.turns.passed()
    assert {} == scene.turns._waiting
    await scene.ask("d1")
    assert "d1" == scene.had[-1]


async def test_who_gives_up_leaves_the_line_and_passes_on_a_turn_that_came_meanwhile() -> None:
    scene = Scene()
    await scene.ask("a1", "a2", "b1", "c1")
    scene.tasks[1].cancel()
    await asyncio.sleep(0)
    assert {"b", "c"} == scene.turns._waiting.keys()
    scene.turns.passed()  # b1 has its turn
    scene.tasks[2].cancel()  # and gives up before it knows
    await eventually(lambda: scene.had == ["a1", "c1"])
    scene.turns.passed()
    await scene.ask("a3")
    assert ["a1", "c1", "a3"] == scene.had
