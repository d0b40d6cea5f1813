"""Asking for one more attempt of a delivery, or for its cancellation: the wrapper of the script `request`.

The caller says how the delivery stood at some entry of `dlv`, which is what the log store knows; the script brings
that up to date itself, a page of entries a call, so that nobody has to wait for the log projection.
"""

from __future__ import annotations

import asyncio
import time
from typing import Literal

import msgspec

from outpost import errors
from outpost.domain import delivery as deliveries
from outpost.log import batching
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.redis import client

PAGE = 250  # entries that a call reads at most: 0.8 ms of Redis (measured, entries of 500 bytes)
PAGE_BYTES = 1024 * 1024  # of recorded answers in these, after which a call reads no more
LIMIT_S = 4.0  # after which a caller hears that the store is away
RETRY_PAUSE_S = 0.05

_SCRIPT = client.load_script("request")


class Delivery(msgspec.Struct, frozen=True):
    """One event on its way to one destination, as of the entry `seen` of `dlv`: `last` is the number of its last
    attempt (0: none), `closed` whether no other was to follow, `manual` how many of its attempts were manual.
    `event` is its entry id in `evt`."""

    tenant: str
    event_id: str
    event: str
    destination: str
    created: int
    last: int
    closed: bool
    seen: str
    manual: int = 0

    @property
    def partition(self) -> int:
        return partitions.partition_of(self.tenant)


class Requested(msgspec.Struct, frozen=True, tag=True):
    """It was accepted and stands in the log: an attempt follows; or, of a cancellation, the attempt that is being
    made is the last."""

    position: positions.Position


class Cancelled(msgspec.Struct, frozen=True, tag=True):
    """The delivery is closed, and no attempt was being made."""

    position: positions.Position


class Closed(msgspec.Struct, frozen=True, tag=True):
    """There was nothing left to cancel."""


class Unopened(msgspec.Struct, frozen=True, tag=True):
    """The dispatcher has not opened the event yet, or its tasks are being mended."""


class Outdated(msgspec.Struct, frozen=True, tag=True):
    """Entries behind `seen` have been trimmed; nothing changed. Look at the log tables again, and ask again."""


Answer = Requested | Cancelled | Closed | Unopened | Outdated


async def request(log: client.Log, what: Literal["retry", "cancel"], delivery: Delivery, by: str) -> Answer:
    """Asks once, however often it has to be sent: `by` is unique to what asks (no spaces). Raises
    errors.StoreUnavailable after `LIMIT_S`; then it may have happened."""
    keys = log.keys.partitions[delivery.partition]
    task = deliveries.TaskId(0, delivery.event, delivery.destination, delivery.created)
    fixed: tuple[client.Arg, ...] = (what, str(task)[1:], delivery.tenant, delivery.event_id, by)
    told: tuple[client.Arg, ...] = (
        delivery.last,
        int(delivery.closed),
        delivery.seen,
        delivery.manual,
    )
    give_up = time.monotonic() + LIMIT_S
    while True:
        args = (*fixed, *told, PAGE, batching.SCRIPT_ENTRIES, PAGE_BYTES)
        try:
            [reply] = await log.call(_SCRIPT, [((keys.due, keys.want, keys.dlv, keys.cut, keys.manual), args)])
        except errors.StoreFull:
            raise
        except errors.StoreUnavailable:
            if time.monotonic() + RETRY_PAUSE_S > give_up:
                raise
            await asyncio.sleep(RETRY_PAUSE_S)
            continue
        if reply[0] != b"more":
            return _answer(delivery.partition, reply)
        if time.monotonic() > give_up:
            raise errors.StoreUnavailable("redis", "the log projection is too far behind")
        told = tuple(reply[1:])


def _answer(partition: int, reply: list[bytes]) -> Answer:
    match reply:
        case [b"requested", entry_id]:
            return Requested(positions.of_entry("dlv", partition, entry_id))
        case [b"cancelled", entry_id]:
            return Cancelled(positions.of_entry("dlv", partition, entry_id))
        case [b"closed"]:
            return Closed()
        case [b"unopened"]:
            return Unopened()
        case [b"outdated"]:
            return Outdated()
    raise TypeError("request was answered in an unknown form")
