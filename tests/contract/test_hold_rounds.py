"""The scheduler holds what waits in memory in rounds; one that is late holds all of it at once."""

from __future__ import annotations

from outpost.dispatch import scheduler
from outpost.dispatch.fairness import lanes as lane_rules
from outpost.domain import delivery, events
from outpost.log.redis import client
from outpost.queue import base
from tests.contract import worlds

EVENT = events.Event("acme", "e1", 0, "t", "2026-09-21T14:13:20.400Z", True, {}, (), "", b"{}")
WATCHDOG_MS = 900  # so that the time of a round is over before its first look


async def test_a_round_that_is_late_holds_all_that_is_left_and_begins_anew(log: client.Log) -> None:
    """After Redis was away for longer than a round: it ended the process."""
    seconds, _ = await log.command("TIME")
    later = int(seconds) * 1000 + 3_600_000
    await worlds.make_due(log, a1=later, b1=later)
    lanes = lane_rules.Lanes(10)
    texts = [worlds.task_of(name) for name in ("a1", "b1")]
    lanes.receive([base.Task(worlds.P, text, delivery.parse_task_id(text), EVENT) for text in texts])
    made = scheduler.Scheduler(log, lanes, WATCHDOG_MS)
    for _ in range(2):
        await made.step()
    assert all(score < later for score in (await worlds.due(log)).values())
    assert {worlds.P: sorted(texts)} == {p: sorted(held) for p, held in lanes.held().items()}
