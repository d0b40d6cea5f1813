"""Where a delivery stands, for those who ask for another attempt of it or for its cancellation."""

from __future__ import annotations

import asyncpg
import msgspec

from outpost.log.delivery import requests
from projections.logs import rows, sql, store, write


class Found(msgspec.Struct, frozen=True):
    """A delivery, and its event; None where that is projected later or was dropped with its day."""

    delivery: requests.Delivery
    event: rows.EventRow | None


async def newest(
    source: store.Store,
    event_id: str,
    destination_id: str,
    tenant: str | None = None,
) -> Found | None:
    """The delivery of the newest event with this id at the destination; None if it had neither an attempt nor was
    skipped or cancelled before its first. The ids hold no NUL. Raises errors.StoreUnavailable."""
    async with source.acquire() as connection:
        found = await connection.fetchrow(
            sql.STATEMENTS["delivery"], event_id, destination_id, tenant, write.PROJECTION
        )
    return None if found is None else Found(_delivery(found), _event(found))


async def undelivered(
    source: store.Store,
    event_id: str,
    destination_id: str,
    tenant: str | None = None,
) -> Found | None:
    """The newest event with this id that did not match the destination, as a delivery that was closed before its
    first attempt; which making of the destination it is of is left to the caller. Raises
    errors.StoreUnavailable."""
    async with source.acquire() as connection:
        found = await connection.fetchrow(
            sql.STATEMENTS["undelivered"], event_id, tenant, destination_id, write.PROJECTION
        )
    return None if found is None else Found(_delivery(found), _event(found))


def _delivery(r: asyncpg.Record) -> requests.Delivery:
    return requests.Delivery(
        tenant=r["tenant_id"],
        event_id=r["event_id"],
        event=f"{r['event_accepted_at']}-{r['event_seq']}",
        destination=r["destination_id"],
        created=r["destination_created"],
        last=r["last"],
        closed=r["closed"],
        seen=f"{r['seen_ms']}-{r['seen_seq']}",
        manual=r["manual_attempts"],
    )


def _event(r: asyncpg.Record) -> rows.EventRow | None:
    if r["e_time"] is None:
        return None
    return rows.EventRow(
        r["event_accepted_at"],
        r["partition"],
        r["event_seq"],
        r["e_time"],
        r["tenant_id"],
        r["event_id"],
        r["e_topic"],
        r["eligible_for_retry"],
        r["metadata"],
        tuple(r["matched_destination_ids"]),
        r["data"],
    )
