"""Events on their way to a partition, as one batch that a broker can tell from every other of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from outpost.adapters.kafka import wire as kafka_wire
from outpost.domain import delivery

BATCH_BYTES = 262_144  # of one partition; brokers take 1 MB unless told otherwise. A larger event goes alone
SEQUENCES = 1 << 31  # sequence numbers begin anew after so many


class Event:
    """One event on its way; `done` gets its outcome, and is cancelled where nobody waits any more."""

    __slots__ = ("alone", "deadline", "done", "headers", "key", "moves", "partition", "value")

    def __init__(self, key: bytes, value: bytes, headers: list[tuple[str, bytes]], deadline: float) -> None:
        self.key = key
        self.value = value
        self.headers = headers
        self.deadline = deadline
        self.done: asyncio.Future[delivery.Outcome] = asyncio.get_running_loop().create_future()
        self.partition = 0
        self.alone = False
        self.moves = 0


class Link(msgspec.Struct):
    """What is thrown away as one. `producer` is number and epoch, None where there is none."""

    connection: kafka_wire.Connection
    producer: tuple[int, int] | None
    sequences: dict[int, int]  # the next one by partition


class Batch:
    """Events of one partition, as they go out."""

    def __init__(self, link: Link, first: Event) -> None:
        self.link = link
        self.partition = first.partition
        self.events: list[Event] = []
        self.encoded = b""
        self._closed = False
        self._builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=0,
            is_transactional=0,
            producer_id=-1,
            producer_epoch=-1,
            base_sequence=-1,
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

    @property
    def moves(self) -> int:
        """How often one of them was sent before, in vain."""
        return max(event.moves for event in self.events)

    def encode(self) -> None:
        """As it goes out, under the next sequence number of the link's producer."""
        if self.link.producer is not None:
            sequence = self.link.sequences.get(self.partition, 0)
            self._builder.set_producer_state(*self.link.producer, sequence)
        self.encoded = bytes(self._builder.build())

    def written(self) -> None:
        """The sequence numbers are used up."""
        used = self.link.sequences.get(self.partition, 0) + len(self.events)
        self.link.sequences[self.partition] = used % SEQUENCES


def end(events: Iterable[Event], outcome: delivery.Outcome) -> None:
    """Gives `outcome` to those that have none."""
    for event in events:
        if not event.done.done():
            event.done.set_result(outcome)
