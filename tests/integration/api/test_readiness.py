"""What readiness says of a process that works in part, and when it takes itself out."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from outpost.log import budget
from outpost.log import partition as partitions
from projections.logs import migrate
from projections.logs import store as stores
from tests.harness.api_server import SETTINGS, Api
from tests.harness.servers import RedisServer


async def _waiting(api: Api, seconds: int = 100) -> None:
    """An event that nobody has read, accepted so long ago."""
    now, _ = await api.log.command("TIME")
    key = api.log.keys.partitions[3].evt
    await api.log.command("XADD", key, f"{(int(now) - seconds) * 1000}-0", "t", "event.accepted")


async def test_what_works_in_part_is_told_and_keeps_the_traffic(api: Api) -> None:
    api.health.in_part = ["the config projection is halted before cfg.07.1-0"]
    answer = await api.http.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "degraded", "reasons": api.health.in_part}


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("all", ["deliveries are N s behind", "the log projection is N s behind"]),
        ("api", ["deliveries are N s behind", "the log projection is N s behind"]),
        ("delivery", ["deliveries are N s behind"]),
        ("log", ["the log projection is N s behind"]),
    ],
)
async def test_readiness_says_who_is_behind(
    redis70: RedisServer, postgres_url: str, start: Callable[..., Api], service: str, expected: list[str]
) -> None:
    store = await stores.open_store(postgres_url)
    await migrate.apply_pending(store)
    api = start(msgspec.structs.replace(SETTINGS, service=service), redis70, store)
    await _waiting(api, 10)
    assert (await api.http.get("/readyz")).json() == {"status": "ready", "reasons": []}
    await api.log.command("DEL", api.log.keys.partitions[3].evt)
    await _waiting(api, 100)
    answer = await api.http.get("/readyz")
    told = answer.json()["reasons"]
    assert (200, "degraded") == (answer.status_code, answer.json()["status"])
    assert expected == [" ".join("N" if word.isdigit() else word for word in reason.split()) for reason in told]
    assert all(100 <= int(word) <= 105 for reason in told for word in reason.split() if word.isdigit())
    await store.close()


async def test_a_publish_over_the_budget_is_answered_503_and_when_to_come_again(api: Api) -> None:
    await api.tenant()
    full = budget.Usage((0,) * partitions.PARTITIONS, server=90_000_000, maxmemory=100_000_000)
    api.commit._budget.judge(full)
    answer = await api.http.post(
        "/publish", json={"tenant_id": "acme", "topic": "user.created", "data": {}, "id": "e1"}
    )
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert answer.json() == {
        "status": 503,
        "message": "the log is over its memory budget",
        "data": {"store": "redis"},
    }
    api.commit._budget.judge(msgspec.structs.replace(full, server=10_000_000))
    assert (await api.publish(id="e1"))["duplicate"] is False
