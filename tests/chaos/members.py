"""The processes of a run, started again after each kill, and how a client reaches them: any API that answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

import aiohttp

from tests.chaos import plan
from tests.harness import clocks, process
from tests.harness.toxic import Toxic

READY_LIMIT_S = 90.0  # a start waits up to a minute for its stores
ANSWER_LIMIT_S = 6.0  # longer than the server tries
ASK_LIMIT_S = 120.0
PAUSE_S = 0.1
ENVIRONMENT = {
    "LOG_LEVEL": "info",
    "STREAM_RETENTION_SECONDS": "20",  # the trimmer is part of it, and retries of what it took away
    "RETRY_SCHEDULE": ",".join(["1"] * 100),  # nothing is given up: at the end everything is delivered
    "DELIVERY_MAX_CONCURRENCY": "100",
    "MAX_DESTINATIONS_PER_TENANT": "10000",
}
AGAIN_WITHIN_S = 60.0  # of its answer an event is asked for once more
# Of PUBLISH_IDEMPOTENCY_KEY_TTL: all of them longer than an event is asked for, by a clock that is stepped
# meanwhile, and half of them longer than a step.
WINDOWS_S = ("3600", "900", str(round(AGAIN_WITHIN_S + ASK_LIMIT_S + plan.LONGEST_STEP_S)))


class Surprise(AssertionError):
    """Something that no fault explains."""


class Member:
    """A place for a process: whoever is in it now, and whether a fault is at work on it."""

    def __init__(
        self, service: str, redis: Toxic, postgres_url: str, folder: Path, clock: clocks.Clock | None
    ) -> None:
        self.service = service
        self.clock = clock
        environment = ENVIRONMENT | (clock.environment if clock else {})
        self.busy = False
        self.starts = 0
        self.window_s = WINDOWS_S[0]
        self._make = lambda: process.Outpost(
            redis, postgres_url, folder, service, PUBLISH_IDEMPOTENCY_KEY_TTL=self.window_s, **environment
        )
        self.now = self._make()

    @property
    def url(self) -> str:
        """Where it answers, empty while it does not listen yet."""
        return self.now.url

    async def start(self) -> None:
        """Puts a new process there and waits until it is well."""
        self.now = self._make()
        self.now.spawn()
        self.starts += 1
        await self.now.ready(READY_LIMIT_S)

    async def kill(self) -> None:
        await self.now.kill()
        await self.now.end()

    async def end(self) -> None:
        """Frees everything, whatever state it is in."""
        await self.now.end()

    def check(self) -> None:
        """Raises Surprise if it has ended and nobody killed it."""
        if not self.busy and self.now.ended:
            raise Surprise(f"{self.service} ended by itself: {self.now.stderr[-2_000:]}")


class Client:
    """Asks whichever API answers, again and again until one does."""

    def __init__(self, members: Collection[Member], chance: random.Random) -> None:
        self._members = [m for m in members if m.service in ("all", "api")]
        self._chance = chance
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(ANSWER_LIMIT_S), headers={"Authorization": f"Bearer {process.KEY}"}
        )
        self.refused = 0

    async def close(self) -> None:
        await self._session.close()

    @property
    def apis(self) -> list[Member]:
        return self._members

    async def ask(self, method: str, path: str, body: Any = None, *, allowed: Collection[int] = (200,)) -> Any:
        """The body of the first answer that is no 503. Raises Surprise if its status is not one of `allowed`, or
        if nobody answers for long."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + ASK_LIMIT_S
        while loop.time() < give_up:
            answer = await self.once(self._chance.choice(self._members), method, path, body)
            if answer is not None and answer[0] != 503:
                if answer[0] not in allowed:
                    raise Surprise(f"{method} {path}: {answer}")
                return answer[1]
            self.refused += 1
            await asyncio.sleep(PAUSE_S)
        raise Surprise(f"{method} {path}: no answer for {ASK_LIMIT_S} s")

    async def once(self, member: Member, method: str, path: str, body: Any = None) -> tuple[int, Any] | None:
        """Status and body, or None where there was no whole answer."""
        if not member.url:
            return None
        try:
            async with self._session.request(method, f"{member.url}{path}", json=body) as answer:
                return answer.status, await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError):
            return None
