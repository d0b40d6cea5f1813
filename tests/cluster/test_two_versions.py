"""Two versions of the program beside each other: each runs its own scripts, over the same keys."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import counting
from tests.harness import node as nodes
from tests.harness import receiver as receivers
from tests.harness.process import ROOT, Outpost
from tests.harness.servers import RedisServer

TENANT = "acme"
SCRIPTS = Path("outpost", "log", "scripts")


@pytest.fixture
async def receiver() -> AsyncIterator[receivers.Receiver]:
    async with receivers.Receiver() as running:
        running.always(receivers.after(0.02, receivers.answer()))
        yield running


def sha(folder: Path, name: str) -> str:
    text = (folder / SCRIPTS / f"{name}.lua").read_bytes()
    return hashlib.sha1(text, usedforsecurity=False).hexdigest()


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A folder with another version: a process that is started in it imports what lies there."""
    folder = tmp_path / "other"
    shutil.copytree(ROOT / "outpost", folder / "outpost", ignore=shutil.ignore_patterns("__pycache__"))
    for script in (folder / SCRIPTS).glob("*.lua"):
        script.write_text(script.read_text("utf-8") + "-- of another version\n", "utf-8")
    return folder


async def test_they_share_the_work_and_nothing_is_lost_or_doubled(
    any_redis: RedisServer, postgres_url: str, tmp_path: Path, other: Path, receiver: receivers.Receiver
):
    async with (
        counting.Counts(any_redis, postgres_url) as counts,
        Outpost(any_redis, postgres_url, tmp_path, DELIVERY_MAX_CONCURRENCY="16") as old,
        Outpost(any_redis, postgres_url, other, DELIVERY_MAX_CONCURRENCY="16") as new,
    ):
        await old.tenant(TENANT)
        await new.webhook(TENANT, receiver.url())
        ids = [f"e{n}" for n in range(200)]
        for at in range(0, len(ids), 20):
            batch = ids[at : at + 20]
            await asyncio.gather(*((new if n % 2 else old).publish(TENANT, id_) for n, id_ in enumerate(batch)))
        await counts.rest()
        await counts.assert_exact(ids, receiver.requests)
        assert {} == counting.doubles(receiver.requests)
        assert 2 == len(Counter(entry.by for entry in await nodes.attempts(counts.log)))
        for name in ("append", "open", "begin", "record"):
            both = (sha(ROOT, name), sha(other, name))
            assert 2 == len({*both})
            assert [1, 1] == await counts.log.command("SCRIPT", "EXISTS", *both), name
