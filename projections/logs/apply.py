"""What entries of `evt` and `dlv` are as rows of the log tables; pure.

Every row follows from one entry and its position alone, so the rows are the same for any batch size, any cut and
any interleaving of the streams. Rows are tuples in the order of the columns below; times are Unix milliseconds.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from outpost import json_grammar
from outpost.domain import events

EVENT_COLUMNS = (
    "accepted_at",
    "partition",
    "seq",
    "time",
    "tenant_id",
    "event_id",
    "topic",
    "eligible_for_retry",
    "metadata",
    "matched_destination_ids",
    "data",
)
ATTEMPT_COLUMNS = (
    "accepted_at",
    "partition",
    "seq",
    "time",
    "tenant_id",
    "event_id",
    "event_accepted_at",
    "event_seq",
    "destination_id",
    "destination_created",
    "destination_type",
    "topic",
    "status",
    "code",
    "attempt_number",
    "manual",
    "response_data",
    "next",
    "latency_ms",
)
CHANGE_COLUMNS = (
    "accepted_at",
    "partition",
    "seq",
    "tenant_id",
    "event_id",
    "event_accepted_at",
    "event_seq",
    "destination_id",
    "destination_created",
    "attempt_number",
    "type",
    "by",
)

Row = tuple[object, ...]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NULL = bytes(events.NO_RESPONSE)
_DAY_MS = 86_400_000
_encode = msgspec.json.Encoder(order="deterministic").encode


class Placed(NamedTuple):
    """A decoded entry where it stands; the stream follows from what it is."""

    partition: int
    ms: int
    seq: int
    entry: events.Event | events.DeliveryEntry


class Unfit(NamedTuple):
    """An entry that decodes and still has no row: where, and which field breaks which rule."""

    partition: int
    ms: int
    seq: int
    entry: events.Event | events.DeliveryEntry
    reason: str


class Rows(NamedTuple):
    """The rows of some entries, each list in the order of the entries."""

    events: list[Row]
    attempts: list[Row]
    changes: list[Row]
    unfit: list[Unfit]


def apply(entries: Iterable[Placed]) -> Rows:
    """The rows of these entries; those of `dlv` that are not attempts are changes of their delivery."""
    rows = Rows([], [], [], [])
    for placed in entries:
        entry = placed.entry
        if isinstance(entry, events.Event):
            try:
                rows.events.append(_event_row(placed, entry))
            except _Unfit as exc:
                rows.unfit.append(Unfit(*placed, reason=str(exc)))
        elif entry.detail is not None:
            rows.attempts.append(_attempt_row(placed, entry, entry.detail))
        else:
            rows.changes.append(_change_row(placed, entry))
    return rows


class _Unfit(Exception):
    """Control flow of this module; never leaves it."""


def _event_row(at: Placed, event: events.Event) -> Row:
    return (
        at.ms,
        at.partition,
        at.seq,
        _unix_ms(event.time),
        event.tenant,
        event.id,
        event.topic,
        event.eligible,
        _encode(event.metadata).decode() if event.metadata else "{}",
        [match.destination for match in event.matched],
        _json_text(event.data),
    )


def _attempt_row(at: Placed, entry: events.DeliveryEntry, detail: events.AttemptDetail) -> Row:
    task = entry.task
    event_ms, _, event_seq = task.event.partition("-")
    response = bytes(detail.response_data)
    return (
        at.ms,
        at.partition,
        at.seq,
        detail.started_ms + detail.took_ms,
        entry.tenant,
        entry.event_id,
        int(event_ms),
        int(event_seq),
        task.destination,
        task.created,
        detail.destination_type,
        detail.topic,
        detail.status,
        detail.code,
        task.attempt,
        detail.manual,
        None if response == _NULL else response.decode(),
        detail.next,
        detail.took_ms,
    )


def _change_row(at: Placed, entry: events.DeliveryEntry) -> Row:
    task = entry.task
    event_ms, _, event_seq = task.event.partition("-")
    return (
        at.ms,
        at.partition,
        at.seq,
        entry.tenant,
        entry.event_id,
        int(event_ms),
        int(event_seq),
        task.destination,
        task.created,
        task.attempt,
        entry.type,
        entry.by,
    )


def _unix_ms(text: str) -> int:
    """Exact, where `timestamp()` would go through a float."""
    try:
        second, rest = text[:19], text[20:23]
        if len(text) == 24 and text[19] == "." and text[23] == "Z" and rest.isdecimal() and rest.isascii():
            return _second_ms(second) + int(rest)  # as we write it
        return _whole_ms(text)
    except (ValueError, TypeError) as exc:  # TypeError: a time without its zone
        raise _Unfit("tm: is not a time with a zone") from exc


@functools.lru_cache(maxsize=256)  # the times of a batch lie close together
def _second_ms(second: str) -> int:
    return _whole_ms(f"{second}Z")


def _whole_ms(text: str) -> int:
    since = dt.datetime.fromisoformat(text) - _EPOCH
    return since.days * _DAY_MS + since.seconds * 1000 + since.microseconds // 1000


def _json_text(data: bytes) -> str:
    """The payload as text; it is put as it is into the answers of the API, so it has to be JSON."""
    try:
        json_grammar.check(data)
        return data.decode()
    except (ValueError, RecursionError) as exc:
        raise _Unfit("d: is not JSON in UTF-8") from exc
