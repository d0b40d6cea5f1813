"""A short run of `make chaos`: every process, Redis, Postgres and every connection fails, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import plan, run

SEED = 5884  # three services apart; its plan has 19 kinds of faults in this time, and kills both stores
SECONDS = 20.0


@pytest.mark.invariant("L1", "L5", "P1", "D1", "D2", "D7", "R1")
async def test_whatever_fails_what_was_accepted_is_delivered_and_recorded_once(tmp_path: Path) -> None:
    result = await run.run(SEED, SECONDS, tmp_path, print)
    assert [] == result.faults
    assert result.events > 0
    assert {
        "kill process",
        "kill store",
    } <= result.done.keys()  # others come in time on a fast machine


def test_a_plan_is_the_same_for_the_same_seed_and_deals_every_kind() -> None:
    assert [*plan.steps(7, 60)] == [*plan.steps(7, 60)]
    assert [*plan.steps(7, 60)] != [*plan.steps(8, 60)]
    assert plan.KINDS.keys() == {step.kind for step in plan.steps(7, 60)}
