"""A receiver that says back everything puts no secret of its destination anywhere."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from outpost.cli import streams
from outpost.log.redis import client
from outpost.settings import Settings
from tests.harness import process
from tests.harness.polling import eventually
from tests.harness.process import Outpost
from tests.harness.servers import RedisServer
from tests.hostile import attack
from tests.hostile.attackers import echo

ATTACK_S = 3.0
LIMIT_S = 60.0


def test_its_mark_stands_in_every_secret() -> None:
    assert all(echo.MARK in secret for secret in (echo.USER, echo.PASSWORD, echo.TOKEN, echo.HEADER, echo.SECRET))


async def test_nothing_of_it_is_kept_logged_or_shown(
    redis70: RedisServer, postgres_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attacker = echo.Echo()
    async with Outpost(redis70, postgres_url, tmp_path, RETRY_SCHEDULE="1") as outpost:
        host, _, port = outpost.url.removeprefix("http://").partition(":")
        await attacker.run(attack.Target(host, int(port), process.KEY), ATTACK_S)
        assert attacker.served > 0

        async def attempts() -> list[dict[str, object]]:
            path = f"/attempts?tenant_id={echo.TENANT}&include=response_data&limit=100"
            return (await outpost.api("GET", path))["models"]

        told = repr(await eventually(attempts, LIMIT_S))
        logged = outpost.stderr
    kept = await everything(redis70)
    parser = argparse.ArgumentParser()
    streams.add_arguments(parser)
    arguments = parser.parse_args(["tail", "--from", "0", "--no-follow", "--payload", "--json"])
    await asyncio.to_thread(
        streams.run_with, arguments, Settings(redis_host=redis70.host, redis_port=redis70.port)
    )
    tailed = capsys.readouterr().out
    assert "destination.created" in tailed
    for text in (kept, told, tailed):
        assert "***" in text
    for text in (told, logged, kept, tailed):
        assert echo.MARK not in text
        assert echo.LOGIN not in text


async def everything(redis: RedisServer) -> str:
    """All that stands in the log and in the read model."""
    log = client.open_log(client.RedisAddress(redis.host, redis.port))
    try:
        found: list[object] = []
        for keys in log.keys.partitions:
            found += [await log.command("XRANGE", key, "-", "+") for key in (keys.cfg, keys.evt, keys.dlv)]
            found.append(await log.command("HGETALL", keys.tenant(1, echo.TENANT)))
        return "\n".join(texts(found))
    finally:
        await log.close()


def texts(reply: object) -> Iterator[str]:
    """The leaves of what Redis answers."""
    if isinstance(reply, bytes):
        yield reply.decode("utf-8", "replace")
    elif isinstance(reply, dict):
        yield from texts([*reply, *reply.values()])
    elif isinstance(reply, Iterable) and not isinstance(reply, str):
        for item in reply:
            yield from texts(item)
