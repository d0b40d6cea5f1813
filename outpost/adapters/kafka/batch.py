"""Events on their way to a partition, as one batch that a broker can tell from every other of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from outpost.adapters.kafka import errors as kafka_errors
from outpost.domain import delivery

BATCH_BYTES = 262_144  # of one partition; brokers take 1 MB unless told otherwise. A larger event goes alone
NO_PRODUCER = (-1, -1)

Producer = tuple[int, int]  # number and epoch


class Event:
    """One event on its way; `done` gets its outcome, and is cancelled where nobody waits any more. `failure` is
    what it met last."""

    __slots__ = ("alone", "deadline", "done", "failure", "headers", "id", "key", "moves", "value")

    def __init__(
        self, id_: str, key: bytes, value: bytes, headers: list[tuple[str, bytes]], deadline: float
    ) -> None:
        self.id = id_
        self.key = key
        self.value = value
        self.headers = headers
        self.deadline = deadline
        self.done: asyncio.Future[delivery.Outcome] = asyncio.get_running_loop().create_future()
        self.alone = False
        self.moves = 0
        self.failure: kafka_errors.Failure | None = None


class Batch:
    """Events of one partition, as they go out. `producer` is None where the broker gives no numbers; `sequence` is
    that of the first of them. `in_doubt`: it went out, and may have been written or not."""

    def __init__(self, first: Event, producer: Producer | None, sequence: int) -> None:
        self.producer = producer
        self.sequence = sequence
        self.events: list[Event] = []
        self.encoded = b""
        self.in_doubt = False
        self._closed = False
        number, epoch = producer or NO_PRODUCER
        self._builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=0,
            is_transactional=0,
            producer_id=number,
            producer_epoch=epoch,
            base_sequence=-1 if producer is None else sequence,
            batch_size=BATCH_BYTES,
        )
        self.add(first)

    def add(self, event: Event) -> bool:
        """False if it has no room there."""
        if self._closed or (event.alone and self.events):
            return False
        added = self._builder.append(
            len(self.events), timestamp=None, key=event.key, value=event.value, headers=event.headers
        )
        if added is None:
            return False
        self.events.append(event)
        self._closed = event.alone
        return True

    def encode(self) -> None:
        """As it goes out, however often."""
        self.encoded = bytes(self._builder.build())
        del self._builder

    @property
    def awaited(self) -> bool:
        """Whether anybody still waits for one of them."""
        return any(not event.done.done() for event in self.events)

    @property
    def moves(self) -> int:
        """How often one of them was sent before, in vain."""
        return max(event.moves for event in self.events)


def end(events: Iterable[Event], outcome: delivery.Outcome) -> None:
    """Gives `outcome` to those that have none."""
    for event in events:
        if not event.done.done():
            event.done.set_result(outcome)
