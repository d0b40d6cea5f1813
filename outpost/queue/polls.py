"""Asks a service for messages that are not sent unasked: some calls at a time, each of which waits there a while.

A call goes on when `receive` returns, so that the next `receive` finds what came meanwhile; what nobody has taken
by the end of its lock is dropped, as the service hands it out again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from outpost.queue import broker

AT_ONCE = 2

# So many messages, for which the service may wait so many seconds. Raises BrokerError.
Ask = Callable[[int, float], Awaitable[list[broker.Received]]]


class Polls:
    """Belongs to one connection. One call brings up to `most` messages."""

    def __init__(self, ask: Ask, most: int) -> None:
        self._ask = ask
        self._most = most
        self._under_way: set[asyncio.Task[None]] = set()
        self._arrived: deque[tuple[float, broker.Received]] = deque()
        self._failure: broker.BrokerError | None = None
        self._news = asyncio.Event()

    async def receive(self, count: int, wait_s: float, lock_s: float) -> list[broker.Received]:
        """Up to `count`; waits for the first one for up to `wait_s`, and asks for none where that is 0."""
        self._drop_before(asyncio.get_running_loop().time() - lock_s)
        if not self._arrived and wait_s > 0:
            self._news.clear()
            while len(self._under_way) < AT_ONCE:
                self._under_way.add(asked := asyncio.create_task(self._poll(min(count, self._most), wait_s)))
                asked.add_done_callback(self._under_way.discard)
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                pass
        if not self._arrived and self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return [self._arrived.popleft()[1] for _ in range(min(count, len(self._arrived)))]

    async def close(self, grace_s: float = 0.0) -> list[broker.Received]:
        """Ends every call, those that end by themselves within `grace_s` before; returns what nobody took."""
        if self._under_way and grace_s:
            await asyncio.wait(list(self._under_way), timeout=grace_s)
        left = list(self._under_way)
        for asked in left:
            asked.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        found = [received for _, received in self._arrived]
        self._arrived.clear()
        self._failure = None
        return found

    async def _poll(self, count: int, wait_s: float) -> None:
        try:
            found = await self._ask(count, wait_s)
        except broker.BrokerError as exc:
            self._failure = exc
            self._news.set()
        else:
            if found:
                now = asyncio.get_running_loop().time()
                self._arrived.extend((now, each) for each in found)
                self._news.set()

    def _drop_before(self, moment: float) -> None:
        while self._arrived and self._arrived[0][0] < moment:
            self._arrived.popleft()
