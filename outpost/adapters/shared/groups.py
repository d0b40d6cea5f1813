"""One call at a time for each group of events that have to stay in order: a group of a FIFO queue, a session, an
ordering key, a key of a stream.

Events of different groups do not wait for each other, and go out together as far as one call takes them. Nothing
waits for a call to fill. A group keeps its order as long as its attempts succeed: what failed is tried again by
the schedule of retries, and those behind it do not wait for that. Kafka needs none of this: its partitions are
groups already, see `kafka.partition`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from outpost.adapters import codes
from outpost.domain import delivery

T = TypeVar("T")  # an event as its type wants to send it

# Events and the deadline of the call (the loop's clock), which it keeps -> one outcome each, in order.
Post = Callable[[list[T], float], Awaitable[list[delivery.Outcome]]]

_TIMEOUT = codes.failed(codes.Code.TIMEOUT)
_CLOSED = codes.failed(codes.Code.NETWORK_ERROR)


class _Waiting(Generic[T]):
    """One event; `done` gets its outcome, and is cancelled where nobody waits any more."""

    __slots__ = ("deadline", "done", "event")

    def __init__(self, event: T, deadline: float) -> None:
        self.event = event
        self.deadline = deadline
        self.done: asyncio.Future[delivery.Outcome] = asyncio.get_running_loop().create_future()


class Groups(Generic[T]):
    """`post` gets at most `most` events, which may be lowered meanwhile; `together`: also several of one group, in
    their order, where the service takes or refuses those of one call in their order. At most `calls` are under
    way at once."""

    def __init__(self, post: Post[T], most: int, calls: int, *, together: bool) -> None:
        self._post = post
        self.most = most
        self._calls = calls
        self._together = together
        self._groups: dict[object, deque[_Waiting[T]]] = {}  # those with events that wait or are under way
        self._ready: deque[object] = deque()  # those of them with nothing under way
        self._posting: set[asyncio.Task[None]] = set()
        self._closed = False

    async def send(
        self, batch: Sequence[T], groups: Sequence[str | None], deadline: float
    ) -> list[delivery.Outcome]:
        """One outcome an event, in order, before `deadline`. `groups` has the group of each, None for an event
        that need not keep any order."""
        if self._closed:
            return [_CLOSED] * len(batch)
        waiting = [_Waiting(event, deadline) for event in batch]
        for each, group in zip(waiting, groups, strict=True):
            self._add(group if group is not None else each, each)
        self._go_on()
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.wait([each.done for each in waiting])
        except TimeoutError:
            pass
        finally:
            for each in waiting:
                each.done.cancel()  # where it has no outcome: nobody waits any more
        return [_TIMEOUT if each.done.cancelled() else each.done.result() for each in waiting]

    async def close(self) -> None:
        """Cuts off what is under way; who waits gets a failure."""
        self._closed = True
        for group in self._groups.values():
            for each in group:
                _end(each, _CLOSED)
        self._ready.clear()
        posting = list(self._posting)
        for task in posting:
            task.cancel()
        await asyncio.gather(*posting, return_exceptions=True)
        self._groups.clear()
        self._post = _closed  # the other one holds the publisher, which holds this

    def _add(self, group: object, each: _Waiting[T]) -> None:
        line = self._groups.get(group)
        if line is None:
            self._groups[group] = deque([each])
            self._ready.append(group)
        else:
            line.append(each)

    def _go_on(self) -> None:
        """As many calls as there may be."""
        while len(self._posting) < self._calls and (taken := self._taken()):
            task = asyncio.create_task(self._call(taken))
            self._posting.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._posting.discard(task)
        self._go_on()

    def _taken(self) -> list[tuple[object, _Waiting[T]]]:
        """What the next call carries: the fronts of the groups that have nothing under way."""
        taken: list[tuple[object, _Waiting[T]]] = []
        while self._ready and len(taken) < self.most:
            group = self._ready.popleft()
            line = self._groups[group]
            before = len(taken)
            while line and len(taken) < self.most and (self._together or len(taken) == before):
                each = line.popleft()
                if not each.done.done():
                    taken.append((group, each))
            if len(taken) == before:  # nobody waits for it any more
                del self._groups[group]
        return taken

    async def _call(self, taken: list[tuple[object, _Waiting[T]]]) -> None:
        deadline = max(each.deadline for _, each in taken)
        outcomes: Sequence[delivery.Outcome] = [_CLOSED] * len(taken)
        try:
            outcomes = await self._post([each.event for _, each in taken], deadline)
        except Exception as exc:  # noqa: BLE001 -- it goes to those who wait, as if each had posted alone
            for _, each in taken:
                if not each.done.done():
                    each.done.set_exception(exc)
        finally:
            for (_, each), outcome in zip(taken, outcomes, strict=True):
                _end(each, outcome)
            for group in dict.fromkeys(group for group, _ in taken):
                if self._groups.get(group):
                    self._ready.append(group)
                else:
                    self._groups.pop(group, None)


def _end(each: _Waiting[T], outcome: delivery.Outcome) -> None:
    if not each.done.done():
        each.done.set_result(outcome)


async def _closed(events: list[T], _: float) -> list[delivery.Outcome]:
    return [_CLOSED] * len(events)
