"""Events read back by position, for the delivery of what is in the streams no more.

What the rows do not keep is filled in so that it decides nothing: `version` 0, nobody in `by`, and of the matches
none. An entry that Postgres refused is decoded from `log_rejected`, where it is kept as it was.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import msgspec

from outpost import errors
from outpost.domain import events, times
from outpost.log import envelope, read
from outpost.log import position as positions
from projections.logs import sql, store

_metadata = msgspec.json.Decoder(dict[str, str]).decode
_fields = msgspec.msgpack.Decoder(read.Fields).decode


async def events_at(
    source: store.Store, wanted: Sequence[positions.Position]
) -> dict[positions.Position, events.Event]:
    """The events at these positions of `evt`; those that are not there are left out.
    Raises errors.StoreUnavailable."""
    if not wanted:
        return {}
    async with source.acquire() as connection:
        found = dict(map(_row, await connection.fetch(sql.STATEMENTS["events_at"], *_arrays(wanted))))
        missing = [at for at in wanted if at not in found]
        if missing:
            rejected = await connection.fetch(sql.STATEMENTS["rejected_events_at"], *_arrays(missing))
            found |= {at: event for at, event in map(_rejected, rejected) if event is not None}
    return found


def _arrays(wanted: Sequence[positions.Position]) -> tuple[list[int], list[int], list[int]]:
    return [at.ms for at in wanted], [at.partition for at in wanted], [at.seq for at in wanted]


def _row(row: asyncpg.Record) -> tuple[positions.Position, events.Event]:
    event = events.Event(
        tenant=row["tenant_id"],
        id=row["event_id"],
        version=0,
        topic=row["topic"],
        time=times.text(row["time"]),
        eligible=row["eligible_for_retry"],
        metadata=_metadata(row["metadata"]),
        matched=(),
        by="",
        data=row["data"].encode(),
    )
    return positions.Position("evt", row["partition"], row["accepted_at"], row["seq"]), event


def _rejected(row: asyncpg.Record) -> tuple[positions.Position, events.Event | None]:
    at = positions.Position("evt", row["partition"], row["ms"], row["seq"])
    try:
        entry = envelope.decode("evt", at, _fields(row["fields"]))
    except (errors.UndecodableEntry, msgspec.DecodeError):
        return at, None
    return at, entry if isinstance(entry, events.Event) else None
