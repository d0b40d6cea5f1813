"""Two API processes on the same stores behave as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import counting
from tests.harness import receiver as receivers
from tests.harness.process import Outpost
from tests.harness.servers import RedisServer

TENANT = "acme"
ROUNDS = 15


@pytest.fixture
async def receiver() -> AsyncIterator[receivers.Receiver]:
    async with receivers.Receiver() as running:
        yield running


@pytest.mark.invariant("R1")
async def test_what_one_acknowledged_the_other_shows_and_obeys_at_once(
    any_redis: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    """R1, and that matches follow every acknowledged change."""
    async with (
        Outpost(any_redis, postgres_url, tmp_path) as one,
        Outpost(any_redis, postgres_url, tmp_path, "api") as two,
    ):
        await one.tenant(TENANT)
        id_ = await one.webhook(TENANT, receiver.url())
        place = f"/tenants/{TENANT}/destinations/{id_}"
        for n in range(ROUNDS):
            writer, reader = (one, two) if n % 2 else (two, one)
            await writer.api("PATCH", place, {"metadata": {"round": str(n)}})
            assert {"round": str(n)} == (await reader.api("GET", place))["metadata"]
            await writer.api("PUT", f"{place}/disable")
            assert (await reader.api("GET", f"/tenants/{TENANT}/destinations"))[0]["disabled_at"]
            assert [] == (await reader.publish(TENANT, f"off{n}"))["destination_ids"]
            await writer.api("PUT", f"{place}/enable")
            assert [id_] == (await reader.publish(TENANT, f"on{n}"))["destination_ids"]
            assert f"on{n}" == (await writer.api("GET", f"/events/on{n}"))["id"]
        await one.api("DELETE", f"/tenants/{TENANT}")
        await two.api("GET", f"/tenants/{TENANT}", expected=404)
        assert [] == (await two.publish(TENANT, "gone"))["destination_ids"]


@pytest.mark.invariant("R2")
async def test_a_duplicate_gets_the_first_answer_from_either(
    any_redis: RedisServer, postgres_url: str, tmp_path: Path, receiver: receivers.Receiver
):
    """R2, with both asked at the same moment."""
    async with (
        counting.Counts(any_redis, postgres_url) as counts,
        Outpost(any_redis, postgres_url, tmp_path) as one,
        Outpost(any_redis, postgres_url, tmp_path, "api") as two,
    ):
        await one.tenant(TENANT)
        first = await one.webhook(TENANT, receiver.url())
        pairs = [
            await asyncio.gather(one.publish(TENANT, f"e{n}"), two.publish(TENANT, f"e{n}")) for n in range(ROUNDS)
        ]
        assert [[False, True]] * ROUNDS == [sorted(said["duplicate"] for said in pair) for pair in pairs]
        await two.webhook(TENANT, receiver.url())
        pairs.append([await one.publish(TENANT, "e0"), await two.publish(TENANT, "e0")])
        assert [[[first], [first]]] * (ROUNDS + 1) == [
            [said["destination_ids"] for said in pair] for pair in pairs
        ]
        await counts.rest()
        await counts.assert_exact([f"e{n}" for n in range(ROUNDS)], receiver.requests)
        assert {} == counting.doubles(receiver.requests)
        assert ROUNDS == (await counts.added())["evt"]
