"""Whose look-up runs next: no tenant, and no number of slow names, takes all threads from the others."""

from __future__ import annotations

from collections import Counter

import pytest

from outpost.adapters.egress import lookup_turns
from outpost.adapters.egress.lookup_turns import Level

Job = lookup_turns.Job[str]
Turns = lookup_turns.Turns[str]


@pytest.fixture
def turns() -> Turns:
    return lookup_turns.Turns()


def ask(turns: Turns, tenant: str, count: int, level: Level = Level.UNPROVEN) -> list[Job]:
    jobs: list[Job] = [lookup_turns.Job(f"{tenant}-{number}.test") for number in range(count)]
    assert all(turns.add(job, tenant, level) for job in jobs)
    return jobs


def started(turns: Turns) -> list[Job]:
    """Every look-up that may run now."""
    return [job for job in iter(turns.start, None) if job is not None]


def tenants(jobs: list[Job]) -> Counter[str]:
    return Counter(job.tenant for job in jobs)


def test_one_tenant_holds_no_more_than_its_share_of_threads(turns: Turns):
    ask(turns, "a", 100)
    assert {"a": lookup_turns.TENANT_THREADS} == tenants(started(turns))
    ask(turns, "b", 1)
    assert {"b": 1} == tenants(started(turns))


def test_tenants_take_turns_whatever_one_of_them_has_waiting(turns: Turns):
    ask(turns, "a", 100)
    ask(turns, "b", 2)
    ask(turns, "c", 2)
    assert ["a", "b", "c", "a", "b", "c"] == [job.tenant for job in started(turns)[:6]]


def test_new_names_leave_threads_for_names_that_were_prompt(turns: Turns):
    for number in range(100):
        ask(turns, f"new-{number}", 10)
    assert lookup_turns.UNPROVEN_THREADS == len(started(turns))
    ask(turns, "old", 100, Level.PROMPT)
    assert {"old": lookup_turns.TENANT_THREADS} == tenants(started(turns))


def test_slow_names_of_any_number_of_tenants_leave_most_of_the_threads(turns: Turns):
    ask(turns, "slow", 10, Level.DOUBTFUL)
    assert {"slow": lookup_turns.DOUBTFUL_TENANT_THREADS} == tenants(started(turns))
    for number in range(100):
        ask(turns, f"slow-{number}", 10, Level.DOUBTFUL)
    assert lookup_turns.DOUBTFUL_THREADS == lookup_turns.DOUBTFUL_TENANT_THREADS + len(started(turns))
    ask(turns, "new", 3)
    assert {"new": 3} == tenants(started(turns))


def test_a_look_up_that_turns_out_slow_counts_as_such_with_what_its_tenant_has_waiting(turns: Turns):
    ask(turns, "a", 20)
    running = started(turns)
    for job in running:
        turns.slow(job)
    assert [Level.DOUBTFUL] * len(running) == [job.level for job in running]
    for job in running:
        turns.end(job)
    assert {"a": lookup_turns.DOUBTFUL_TENANT_THREADS} == tenants(started(turns))


def test_a_flood_of_prompt_names_leaves_every_level_its_threads(turns: Turns):
    for number in range(20):
        ask(turns, f"prompt-{number}", 100, Level.PROMPT)
    running = started(turns)
    assert lookup_turns.THREADS == len(running)
    ask(turns, "new", 8)
    ask(turns, "slow", 1, Level.DOUBTFUL)
    after: list[Job] = []
    for job in running[: lookup_turns.GUARANTEED_THREADS + 1]:
        turns.end(job)
        after += started(turns)
    assert {"new": 8, "slow": 1} == tenants(after)


def test_a_name_that_two_tenants_ask_for_is_looked_up_in_the_first_turn_of_either(turns: Turns):
    ask(turns, "a", 50)
    started(turns)
    [*_, last] = ask(turns, "a", 50)
    assert turns.add(last, "b", Level.UNPROVEN)
    assert [last] == started(turns)
    assert "b" == last.tenant
    turns.end(last)
    assert [] == started(turns)


def test_what_a_tenant_has_waiting_is_bounded_and_what_is_taken_out_makes_room(turns: Turns):
    jobs = ask(turns, "a", lookup_turns.MAX_TENANT_WAITING)
    assert not turns.add(lookup_turns.Job("more.test"), "a", Level.UNPROVEN)
    assert turns.add(lookup_turns.Job("other.test"), "b", Level.UNPROVEN)
    turns.remove(jobs[0])
    assert turns.add(lookup_turns.Job("more.test"), "a", Level.UNPROVEN)


def test_counts_are_back_at_nothing_when_all_is_over(turns: Turns):
    for tenant in "abc":
        ask(turns, tenant, 30, Level.PROMPT)
    while running := started(turns):
        for job in running:
            turns.end(job)
    assert (0, {}, {}) == (turns.running, turns._running_of, turns._waiting_of)
