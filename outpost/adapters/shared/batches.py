"""Sends over a connection that takes one at a time: what waits meanwhile goes out together with the next one.

For libraries whose connection two sends must not use at once. Nothing waits for a batch to fill, and each send
keeps its own deadline; what nobody waits for any more is cut off.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from outpost.adapters import base, codes
from outpost.domain import delivery

Post = Callable[[list[base.Delivery]], Awaitable[list[delivery.Outcome]]]

_TIMEOUT = codes.failed(codes.Code.TIMEOUT)
_CLOSED = codes.failed(codes.Code.NETWORK_ERROR)


class _Group:
    """The events of one `send`; `done` is cancelled when it gives up."""

    def __init__(self, events: Sequence[base.Delivery]) -> None:
        self.events = events
        self.done: asyncio.Future[list[delivery.Outcome]] = asyncio.get_running_loop().create_future()


class Batches:
    """`post` gets at most `most` events, unless one send brings more, and answers one outcome an event. It is
    cancelled when it is cut off, and must then not leave its connection half used."""

    def __init__(self, post: Post, most: int) -> None:
        self._post = post
        self._most = most
        self._waiting: deque[_Group] = deque()
        self._under_way: list[_Group] = []
        self._posting: asyncio.Task[None] | None = None
        self._closed = False

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        """One outcome an event, in order, before `deadline` (the loop's clock)."""
        if self._closed:
            return [_CLOSED] * len(batch)
        group = _Group(batch)
        self._waiting.append(group)
        if self._posting is None:
            self._begin()
        try:
            async with asyncio.timeout_at(deadline):
                return await group.done
        except TimeoutError:
            return [_TIMEOUT] * len(batch)
        finally:
            if group in self._under_way and all(other.done.done() for other in self._under_way):
                self._cut_off()
            del group  # it may have an error, whose traceback has this frame

    async def close(self) -> None:
        """Cuts off what is under way; who waits gets a failure."""
        self._closed = True
        for group in (*self._under_way, *self._waiting):
            if not group.done.done():
                group.done.set_result([_CLOSED] * len(group.events))
        self._waiting.clear()
        if self._posting is not None:
            self._posting.cancel()
            await asyncio.gather(self._posting, return_exceptions=True)
        self._post = _closed  # the other one holds the publisher, which holds this

    def _cut_off(self) -> None:
        if self._posting is not None:  # what has just finished takes no notice
            self._posting.cancel()

    def _begin(self) -> None:
        """Posts what waits, if anything does."""
        self._posting = None
        self._under_way = self._taken()
        if self._under_way:
            self._posting = asyncio.create_task(self._run(self._under_way))
            self._posting.add_done_callback(lambda _: self._begin())

    def _taken(self) -> list[_Group]:
        taken: list[_Group] = []
        room = self._most
        while self._waiting:
            group = self._waiting[0]
            if not group.done.done():
                if taken and len(group.events) > room:
                    break
                taken.append(group)
                room -= len(group.events)
            self._waiting.popleft()
        return taken

    async def _run(self, groups: list[_Group]) -> None:
        outcomes: Sequence[delivery.Outcome] = ()
        try:
            outcomes = await self._post([event for group in groups for event in group.events])
        except Exception as exc:  # noqa: BLE001 -- it goes to those who wait, as if each had posted alone
            for group in groups:
                if not group.done.done():
                    group.done.set_exception(exc)
            del group, groups  # the traceback of the error has this frame
            return
        at = 0
        for group in groups:
            if not group.done.done():
                group.done.set_result(list(outcomes[at : at + len(group.events)]))
            at += len(group.events)


async def _closed(events: list[base.Delivery]) -> list[delivery.Outcome]:
    return [_CLOSED] * len(events)
