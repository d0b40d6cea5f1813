"""One partition of the topic as we write to it: one batch at a time, in the order of the events, whoever leads it.

A batch that may have been written or not (its answer never came) keeps its sequence number: it goes out again as
it was before anything else does, so that the broker tells it from a new one. It outlives the attempts of its
events; their next attempts hear what became of it, and make no copies.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from outpost.adapters.kafka import batch as kafka_batch

MAX_DOUBT_BYTES = 1_048_576  # of batches in doubt that a publisher keeps
MAX_WRITTEN = 10_000  # events that were written after their attempt had ended
SEQUENCES = 1 << 31  # sequence numbers begin anew after so many


class Partition:
    """`state` says where it is: nowhere, in the line of a lane, in a request, or on its way to another leader."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting: deque[kafka_batch.Event] = deque()
        self.doubt: kafka_batch.Batch | None = None
        self.state: Literal["idle", "queued", "carried", "moving"] = "idle"
        self.failures = 0  # in a row
        self._producer: kafka_batch.Producer | None = None
        self._sequence = 0  # the next one of this producer

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for it."""
        while self.waiting and self.waiting[0].done.done():
            self.waiting.popleft()
        return bool(self.waiting) or (self.doubt is not None and self.doubt.awaited)

    def awaited(self) -> list[kafka_batch.Event]:
        """The events that somebody waits for."""
        doubted = [] if self.doubt is None else self.doubt.events
        return [event for event in (*doubted, *self.waiting) if not event.done.done()]

    def taken(self, producer: kafka_batch.Producer | None) -> kafka_batch.Batch | None:
        """What goes out now: the batch in doubt, else the front of what waits that fits; None for nothing."""
        if self.doubt is not None:
            return self.doubt
        if producer is not None and producer != self._producer:
            self._producer, self._sequence = producer, 0
        batch: kafka_batch.Batch | None = None
        while self.waiting:
            event = self.waiting[0]
            if not event.done.done():
                if batch is None:
                    batch = kafka_batch.Batch(event, producer, self._sequence)
                elif not batch.add(event):
                    break
            self.waiting.popleft()
        if batch is not None:
            batch.encode()
        return batch

    def written(self, batch: kafka_batch.Batch) -> None:
        """The broker has it: its sequence numbers are used up."""
        if batch.producer is not None and batch.producer == self._producer:
            self._sequence = (batch.sequence + len(batch.events)) % SEQUENCES
        self.failures = 0

    def back(self, batch: kafka_batch.Batch, *, alone: bool = False) -> None:
        """It was not written: its events go out again, before the others; each `alone` if need be."""
        for event in reversed(batch.events):
            event.alone = event.alone or alone
            event.moves += not alone
            self.waiting.appendleft(event)


class Unsettled:
    """What is under way or in doubt, by the ids of the events; and which events were written late."""

    def __init__(self) -> None:
        self._events: dict[str, tuple[Partition, kafka_batch.Batch, int]] = {}
        self._partitions: dict[int, Partition] = {}  # those in doubt, the oldest first
        self._written: dict[str, None] = {}  # the oldest first
        self._bytes = 0

    def was_written(self, event_id: str) -> bool:
        """Whether the event was written after its attempt had ended; told once."""
        return self._written.pop(event_id, self) is None

    def attach(self, event: kafka_batch.Event) -> Partition | None:
        """Lets a further attempt of an event wait for the batch that holds it, which is under way or in doubt;
        None where there is none, or another attempt waits for it."""
        found = self._events.get(event.id)
        if found is None or not found[1].events[found[2]].done.done():
            return None
        partition, batch, at = found
        batch.events[at] = event
        return partition

    def sent(self, partition: Partition, batch: kafka_batch.Batch) -> None:
        """`batch` goes out; a further attempt of its events may come before its answer."""
        if batch.producer is not None and not batch.in_doubt:
            self._events.update({event.id: (partition, batch, at) for at, event in enumerate(batch.events)})

    def doubt(self, partition: Partition, batch: kafka_batch.Batch) -> list[kafka_batch.Batch]:
        """`batch` may have been written or not. Returns those that are given up for it: what becomes of them is
        not known any more."""
        if batch.in_doubt:
            return []
        batch.in_doubt, partition.doubt = True, batch
        self._partitions[partition.number] = partition
        self._bytes += len(batch.encoded)
        given_up: list[kafka_batch.Batch] = []
        for oldest in list(self._partitions.values()):
            if self._bytes <= MAX_DOUBT_BYTES:
                break
            if oldest.doubt is not None and not oldest.doubt.awaited and oldest.state != "carried":
                given_up.append(oldest.doubt)
                self.settle(oldest, oldest.doubt)
        return given_up

    def settle(self, partition: Partition, batch: kafka_batch.Batch, *, written: bool = False) -> None:
        """What became of `batch` is known, or nobody looks after it any more."""
        if batch.in_doubt:
            batch.in_doubt, partition.doubt = False, None
            self._partitions.pop(partition.number, None)
            self._bytes -= len(batch.encoded)
        for event in batch.events:
            known = self._events.pop(event.id, None) is not None
            if written and known and event.done.done():
                self._written[event.id] = None
        while len(self._written) > MAX_WRITTEN:
            del self._written[next(iter(self._written))]
