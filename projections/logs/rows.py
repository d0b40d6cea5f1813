"""What the log lists are asked for and what they answer, as plain structs. Times are Unix milliseconds."""

from __future__ import annotations

import msgspec

from projections.logs import paging

_MICROS = 1000


class TimeRange(msgspec.Struct, frozen=True):
    """Bounds on a row's time in Unix **microseconds**, since clients may give more digits than are stored."""

    gte: int | None = None
    gt: int | None = None
    lte: int | None = None
    lt: int | None = None

    def bounds_ms(self) -> tuple[int | None, int | None]:
        """The first and the last whole millisecond in the range."""
        firsts = [-(-self.gte // _MICROS)] if self.gte is not None else []
        firsts += [self.gt // _MICROS + 1] if self.gt is not None else []
        lasts = [self.lte // _MICROS] if self.lte is not None else []
        lasts += [-(-self.lt // _MICROS) - 1] if self.lt is not None else []
        return max(firsts, default=None), min(lasts, default=None)


class EventFilter(msgspec.Struct, frozen=True):
    """Which events; an empty tuple does not restrict, several values mean any of them."""

    tenant_ids: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    destination_ids: tuple[str, ...] = ()
    time: TimeRange = TimeRange()


class AttemptFilter(msgspec.Struct, frozen=True):
    """Which attempts; `time` is that of the attempt, `status` is compared literally."""

    tenant_ids: tuple[str, ...] = ()
    event_ids: tuple[str, ...] = ()
    destination_ids: tuple[str, ...] = ()
    destination_types: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    status: str | None = None
    time: TimeRange = TimeRange()


class EventRow(msgspec.Struct, frozen=True):
    """An event as logged; `metadata` is JSON text, `data` JSON in UTF-8 as received. `data` is None where it was
    not asked for."""

    accepted_ms: int
    partition: int
    seq: int
    time_ms: int
    tenant_id: str
    id: str
    topic: str
    eligible_for_retry: bool
    metadata: str
    matched_destination_ids: tuple[str, ...]
    data: bytes | None

    @property
    def place(self) -> paging.Place:
        return paging.Place(self.time_ms, self.accepted_ms, self.partition, self.seq)


class AttemptRow(msgspec.Struct, frozen=True):
    """An attempt as logged. (partition, accepted_ms, seq) make its id; `response_data` is JSON in UTF-8. `event`
    and `response_data` are None where they were not asked for or do not exist."""

    accepted_ms: int
    partition: int
    seq: int
    time_ms: int
    tenant_id: str
    event_id: str
    destination_id: str
    destination_created: int
    destination_type: str
    topic: str
    status: str
    code: str
    attempt_number: int
    manual: bool
    response_data: bytes | None
    event: EventRow | None = None
    latency_ms: int | None = None

    @property
    def place(self) -> paging.Place:
        return paging.Place(self.time_ms, self.accepted_ms, self.partition, self.seq)


class Include(msgspec.Struct, frozen=True):
    """What an attempt is to be shown with."""

    event: bool = False
    event_data: bool = False
    response_data: bool = False
