"""One long-lived client that concurrent sends share: opened once, thrown away when it was cut off or broke."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T")

REMEMBERED_S = 1.0  # how long a failed opening answers for those that come after it


class LongLivedClient(Generic[T]):
    """`open_` makes a client within `limit_s` seconds; it goes on when the send that asked for it gives up. `shut`
    ends one. Belongs to one event loop."""

    def __init__(
        self, open_: Callable[[], Awaitable[T]], shut: Callable[[T], Awaitable[None]], limit_s: float
    ) -> None:
        self._open = open_
        self._shut = shut
        self._limit_s = limit_s
        self._client: T | None = None
        self._opening: asyncio.Task[T] | None = None
        self._failure: tuple[float, Exception] | None = None
        self._forgetting: asyncio.TimerHandle | None = None
        self._ends: set[asyncio.Task[None]] = set()
        self._closed = False

    async def get(self) -> T:
        """The client, opened if need be. Raises what `open_` raised, TimeoutError after `limit_s`, and
        ConnectionError when this is closed."""
        if self._client is not None:
            return self._client
        if self._closed:
            raise ConnectionAbortedError
        if self._failure is not None and time.monotonic() < self._failure[0]:
            raise self._failure[1].with_traceback(None)
        if self._opening is None:
            self._opening = asyncio.create_task(self._make())
            self._opening.add_done_callback(self._opened)
        opening = self._opening
        try:
            return await asyncio.shield(opening)  # one who gives up must not take the others with it
        except asyncio.CancelledError:
            if opening.cancelled() and self._closed:  # not the caller, but this was ended
                raise ConnectionAbortedError from None
            raise
        finally:
            del opening  # it has the error, whose traceback has this frame

    def discard(self, client: T) -> None:
        """`client` was cut off in the middle of something, or broke: the next `get` opens another."""
        if self._client is client:
            self._client = None
            self._end(client)

    async def close(self) -> None:
        """Ends the client; who still uses it fails."""
        self._closed = True
        self.forget_failure()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._client is not None:
            self.discard(self._client)
        await asyncio.gather(*self._ends, return_exceptions=True)
        self._open, self._shut = _closed, _ignored  # they hold the publisher, which holds this

    async def _make(self) -> T:
        async with asyncio.timeout(self._limit_s):
            return await self._open()

    def _opened(self, opening: asyncio.Task[T]) -> None:
        self._opening = None
        if opening.cancelled():
            return
        failure = opening.exception()
        if failure is None:
            self._client, self._failure = opening.result(), None
            if self._closed:
                self.discard(self._client)
        elif isinstance(failure, Exception):
            self.forget_failure()
            self._failure = (time.monotonic() + REMEMBERED_S, failure)
            self._forgetting = asyncio.get_running_loop().call_later(REMEMBERED_S, self.forget_failure)

    def forget_failure(self) -> None:
        """Lets the next `get` try again at once, and lets go of the last failure: its traceback holds the frames,
        and so the events, of who heard of it."""
        self._failure = None
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None

    def _end(self, client: T) -> None:
        task = asyncio.create_task(self._shut_within(client))
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)

    async def _shut_within(self, client: T) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(self._limit_s):
                await self._shut(client)


async def _closed() -> NoReturn:
    raise ConnectionAbortedError


async def _ignored(_: object) -> None:
    """What comes after the end has nothing to shut."""
