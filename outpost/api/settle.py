"""Waiting for the log projection, so that a read finds what was acknowledged before it.

A look that found nothing asks where the streams end, waits until the projection has come there, and looks again.
What is not in the log by then does not exist; a projection that is behind or dead costs half a second, no more.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from outpost import errors
from outpost.log import partition as partitions
from outpost.log import read
from outpost.log.redis import client
from projections.logs import query
from projections.logs import store as stores

LIMIT_S = 0.5
MOST_WAITING = 64  # requests; others are told at once what is there, so that waiting cannot exhaust Postgres

T = TypeVar("T")


class Settler:
    """Looks, and waits where it has to. One a process."""

    def __init__(self, log: client.Log) -> None:
        self._log = log
        self._waiting = 0

    async def look(
        self,
        store: stores.Store,
        stream: partitions.Stream,
        tenants: Iterable[str],
        look: Callable[[], Awaitable[T]],
        found: Callable[[T], bool],
    ) -> T:
        """What `look` finds, having waited for `stream` of these tenants (none named: of all) if it was nothing.
        Raises errors.StoreUnavailable as `look` does."""
        seen = await look()
        if found(seen) or self._waiting >= MOST_WAITING:
            return seen
        self._waiting += 1
        try:
            among = {partitions.partition_of(tenant) for tenant in tenants} or range(partitions.PARTITIONS)
            await self._wait(store, [(stream, partition) for partition in among])
        finally:
            self._waiting -= 1
        return await look()

    async def _wait(self, store: stores.Store, places: list[tuple[partitions.Stream, int]]) -> None:
        end = time.monotonic() + LIMIT_S
        try:
            heads = await read.heads(self._log, places)
        except errors.StoreUnavailable:
            return  # what is projected can be read without Redis
        for head in heads:
            if (head.ms, head.seq) != (0, 0):
                await query.wait_reached(store, head, max(0.0, end - time.monotonic()))
