"""The count at the end: accepted = delivered at least once = recorded once = in Postgres once; nothing is left.

Each function is one sentence; `judge` runs them all and gathers what does not hold.
"""

from __future__ import annotations

import json
import traceback
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable

from outpost.log import partition as partitions
from projections.config import catch_up
from tests.chaos import faults, plan, traffic
from tests.harness import counting, read_model
from tests.harness import node as nodes

REST_LIMIT_S = 120.0 + plan.LONGEST_STEP_S  # what was scored by a clock that was ahead waits until then
MOST_NAMED = 5
_ATTEMPTS = "SELECT event_id, destination_id, destination_created, attempt_number, status, manual FROM attempt"
_SKIPPED = (
    "SELECT event_id, destination_id, destination_created FROM delivery_change WHERE type = 'delivery.skipped'"
)

Delivery = tuple[str, str, int]  # event id (the tenant is in it), destination, version that made it
Check = Callable[[counting.Counts, faults.Stage], Awaitable[None]]


async def judge(counts: counting.Counts, stage: faults.Stage) -> list[str]:
    """Waits until everything has come to rest; what does not hold, a sentence each."""
    found: list[str] = []
    for check in CHECKS:
        try:
            await check(counts, stage)
        except AssertionError as exc:
            found.append(f"{check.__doc__} {exc}")
        except Exception:
            found.append(f"{check.__doc__} {traceback.format_exc()}")
    return found


async def everything_comes_to_rest(counts: counting.Counts, stage: faults.Stage) -> None:
    """Every event is opened, no task lives, every entry is in Postgres, and every process is ready."""
    await counts.rest(REST_LIMIT_S)
    assert {} == await nodes.due(counts.log)
    assert 0 == await nodes.pending(counts.log)
    for keys in counts.log.keys.partitions:
        assert not await counts.log.command("EXISTS", keys.mend)


async def what_was_acknowledged_is_there_once(counts: counting.Counts, stage: faults.Stage) -> None:
    """Every acknowledged event is one row with the payload and the destinations that were told; no other is."""
    rows = await counts.sql("SELECT event_id, tenant_id, matched_destination_ids, data FROM event")
    answers = stage.publishers.answers
    _none((id_ for id_, n in Counter(row[0] for row in rows).items() if n > 1), "are there twice")
    _none(answers.keys() - {row[0] for row in rows}, "are lost")
    _none({row[0] for row in rows} - answers.keys(), "were never asked for")
    for id_, tenant, matched, data in rows:
        assert answers[id_] == (tenant, tuple(sorted(matched))), id_
        assert traffic.event(tenant, id_)["data"] == json.loads(data), id_
    assert [] == await counts.sql("SELECT stream, partition, ms, seq, reason FROM log_rejected")


async def every_delivery_was_recorded(counts: counting.Counts, stage: faults.Stage) -> None:
    """Attempts are contiguous, one row each; every match ends in a success, or was skipped after a change."""
    attempts: dict[Delivery, list[tuple[int, str, bool]]] = defaultdict(list)
    for *delivery, number, status, manual in await counts.sql(_ATTEMPTS):
        attempts[delivery[0], delivery[1], delivery[2]].append((number, status, manual))
    for delivery, made in attempts.items():
        assert [*range(1, len(made) + 1)] == sorted(number for number, *_ in made), delivery
        by_itself = [status for _, status, manual in made if not manual]
        assert by_itself.count("success") <= 1, f"{delivery} succeeded twice"
    delivered = {d[:2] for d, made in attempts.items() if any(status == "success" for _, status, _ in made)}
    skipped = {(id_, destination) for id_, destination, _ in await counts.sql(_SKIPPED)}
    moving = {(tenant, d) for tenant, d in traffic.MOVING_DESTINATIONS}
    wanted = {(id_, d): tenant for id_, (tenant, ids) in stage.publishers.answers.items() for d in ids}
    _none(wanted.keys() - delivered - skipped, "were never delivered")
    _none((d for d in skipped if (wanted.get(d), d[1]) not in moving), "were skipped for no reason")
    _none((d for d in delivered - wanted.keys()), "were delivered and never matched")
    taken = {(id_, destination) for destination, id_ in stage.receiver.taken}
    _none(delivered - taken, "are recorded as delivered and were not")
    _none(taken - wanted.keys(), "reached a destination that they do not match")


async def added_is_trimmed_and_live(counts: counting.Counts, stage: faults.Stage) -> None:
    """Entries added = entries in the stream and rows of those that were trimmed."""
    await counts.assert_trimmed_is_logged()


async def a_rebuild_is_what_is_live(counts: counting.Counts, stage: faults.Stage) -> None:
    """The config read model, built again from the log, is the live one byte for byte."""
    for p in range(partitions.PARTITIONS):
        await catch_up.to_head(counts.log, p)
    await read_model.rebuild(counts.log)
    assert await read_model.content(counts.log) == await read_model.content(counts.log, read_model.REBUILT)


async def every_api_shows_the_last_write(counts: counting.Counts, stage: faults.Stage) -> None:
    """What one API acknowledges, every other shows at once."""
    for number, (tenant, id_) in enumerate(traffic.MOVING_DESTINATIONS):
        path = f"{traffic.tenant_path(tenant)}/destinations/{id_}"
        for member in stage.client.apis:
            topics = [f"topic-{number}-{member.url.rpartition(':')[2]}"]
            answer = await stage.client.once(member, "PATCH", path, {"topics": topics})
            assert answer is not None, member.service
            assert 200 == answer[0], answer
            for other in stage.client.apis:
                shown = await stage.client.once(other, "GET", path)
                assert shown is not None, other.service
                assert 200 == shown[0], (other.service, shown)
                assert topics == shown[1]["topics"]


CHECKS: tuple[Check, ...] = (
    everything_comes_to_rest,
    what_was_acknowledged_is_there_once,
    every_delivery_was_recorded,
    added_is_trimmed_and_live,
    a_rebuild_is_what_is_live,
    every_api_shows_the_last_write,
)


def _none(bad: Iterable[object], what: str) -> None:
    named = sorted(map(str, bad))
    assert [] == named, f"{len(named)} {what}: {', '.join(named[:MOST_NAMED])}"
