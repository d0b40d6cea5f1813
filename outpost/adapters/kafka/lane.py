"""The way to one leader: what waits for it goes out in one request at a time, one batch a partition.

So events that come while a request is under way share the next one, and the batches of a producer that the broker
knows by number (idempotent) arrive in their order. A batch that may or may not have been written goes out once
more, unchanged, where the broker tells it from a new one; elsewhere it is a failed attempt. A link that was cut
off in the middle of a request is thrown away with its producer number.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from aiokafka import errors as theirs
from aiokafka.protocol import produce, transaction

from outpost.adapters import codes
from outpost.adapters.kafka import answers as kafka_answers
from outpost.adapters.kafka import batch as kafka_batch
from outpost.adapters.kafka import cluster as kafka_cluster
from outpost.adapters.kafka import errors as kafka_errors
from outpost.adapters.kafka import wire as kafka_wire
from outpost.adapters.shared import long_lived_client
from outpost.domain import delivery

DELIVERED = delivery.Delivered(codes.OK, {})
ALL_REPLICAS = -1  # acks=all
REQUEST_EVENTS = 2_000
REQUEST_BYTES = 8_388_608  # of data; it has to pass within a deadline, and brokers take no more than 100 MB
MOST_MOVES = 3  # of an event to another leader
BACKOFF_S = 0.1
TIMEOUT_OF_TRANSACTIONS_MS = (1 << 31) - 1  # there are none

# Kafka's numbers by what they mean for a batch.
WRITTEN = frozenset({0, 46})  # NONE; DUPLICATE_SEQUENCE_NUMBER: written before
# UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE, NOT_LEADER, KAFKA_STORAGE_ERROR, FENCED_LEADER_EPOCH
ELSEWHERE = frozenset({3, 5, 6, 56, 74})
# CORRUPT_MESSAGE, MESSAGE_TOO_LARGE, RECORD_LIST_TOO_LARGE, POLICY_VIOLATION, INVALID_RECORD: one spoils all
ONE_IS_BAD = frozenset({2, 10, 18, 44, 87})
UNANSWERED = -1
UNSURE = frozenset({7, 20})  # REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS_AFTER_APPEND
# OUT_OF_ORDER_SEQUENCE_NUMBER, INVALID_PRODUCER_EPOCH, INVALID_PRODUCER_ID_MAPPING, UNKNOWN_PRODUCER_ID
FORGOTTEN = frozenset({45, 47, 49, 59})
# Refused before anything is written, so that the sequence numbers are free. NOT_ENOUGH_REPLICAS,
# TOPIC_ and CLUSTER_AUTHORIZATION_FAILED, THROTTLING_QUOTA_EXCEEDED; the others are above
NOT_TRIED = (ELSEWHERE - {56}) | ONE_IS_BAD | {19, 29, 31, 89}
# REQUEST_TIMED_OUT, COORDINATOR_LOAD_IN_PROGRESS, _NOT_AVAILABLE, NOT_COORDINATOR, THROTTLING_QUOTA_EXCEEDED
PASSING = frozenset({7, 14, 15, 16, 89})


class Producers:
    """Whether this cluster gives out producer numbers to us; remembered once it does not."""

    refused = False


class Lane:
    """To one broker. `moved` takes events whose partition is not there (any more), `failed` makes the outcome of a
    failure."""

    def __init__(
        self,
        broker: kafka_cluster.Broker,
        topic: str,
        access: kafka_wire.Access,
        producers: Producers,
        moved: Callable[[list[kafka_batch.Event]], None],
        failed: Callable[[kafka_errors.Failure], delivery.Outcome],
    ) -> None:
        self._broker = broker
        self._topic = topic
        self._access = access
        self._producers = producers
        self._moved = moved
        self._failed = failed
        self._waiting: deque[kafka_batch.Event] = deque()
        self._carried: list[kafka_batch.Batch] = []
        self._links = long_lived_client.LongLivedClient(self._open, _shut, access.limit_s)
        self._task: asyncio.Task[None] | None = None

    def push(self, event: kafka_batch.Event) -> None:
        """Takes `event`, whose partition is known."""
        self._waiting.append(event)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def drained(self) -> list[kafka_batch.Event]:
        """What still waits, given back."""
        events, self._waiting = list(self._waiting), deque()
        return events

    async def retire(self) -> None:
        """Closes when what is under way is answered."""
        try:
            if self._task is not None:
                await asyncio.wait([self._task])
        finally:
            await self.close()

    async def close(self) -> None:
        """Ends the connection; what is under way fails."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        outcome = self._failed(_CLOSED)
        _end(self._carried, outcome)
        kafka_batch.end(self._waiting, outcome)
        await self._links.close()

    async def _open(self) -> kafka_batch.Link:
        connection = kafka_wire.Connection(*self._broker, self._access)
        await connection.connect()
        try:
            return kafka_batch.Link(connection, await self._producer(connection), {})
        except BaseException:
            connection.close()
            raise

    async def _producer(self, connection: kafka_wire.Connection) -> tuple[int, int] | None:
        """A producer number; None where the broker gives none: an old one, one that wants a right for it that the
        tenant lacks, or one that only speaks the protocol."""
        if self._producers.refused:
            return None
        try:
            request = transaction.InitProducerIdRequest(None, TIMEOUT_OF_TRANSACTIONS_MS)
            answer = await connection.ask(request)
        except kafka_errors.Failure as failure:
            if not isinstance(failure.__cause__, (theirs.IncompatibleBrokerVersion, NotImplementedError)):
                raise
            self._producers.refused = True
            return None
        if answer.error_code == kafka_errors.NONE:
            return answer.producer_id, answer.producer_epoch
        self._producers.refused = answer.error_code not in PASSING
        return None

    async def _run(self) -> None:
        """Until nothing waits."""
        try:
            while self._waiting:
                try:
                    link = await self._link()
                except kafka_errors.Failure as failure:
                    kafka_batch.end(self._waiting, self._failed(failure))
                    self._waiting.clear()
                    return
                self._carried = self._taken(link)
                await self._carry(link, self._carried)
        finally:
            self._task = None

    async def _link(self) -> kafka_batch.Link:
        while True:
            try:
                link = await self._links.get()
            except kafka_errors.Failure:
                raise
            except Exception as exc:
                raise kafka_errors.met(exc, ":".join(map(str, self._broker))) from exc
            if link.connection.connected():
                return link
            self._links.discard(link)

    def _taken(self, link: kafka_batch.Link) -> list[kafka_batch.Batch]:
        """What goes out now: the front of what waits, as far as it fits one batch a partition."""
        batches: dict[int, kafka_batch.Batch] = {}
        size = 0
        for _ in range(min(len(self._waiting), REQUEST_EVENTS)):
            event = self._waiting.popleft()
            if event.done.done():
                continue
            size += len(event.value)
            batch = batches.get(event.partition)
            if batch is None and (not batches or size <= REQUEST_BYTES):
                batches[event.partition] = kafka_batch.Batch(link, event)
            elif batch is None or not batch.add(event):
                self._waiting.appendleft(event)
                break
        for batch in batches.values():
            batch.encode()
        return list(batches.values())

    async def _carry(self, link: kafka_batch.Link, batches: list[kafka_batch.Batch]) -> None:
        """Sends and settles `batches`; what may have been written goes once more where that cannot make two."""
        once_more = link.producer is not None
        while batches:
            try:
                answers = await self._answers(link, batches)
            except kafka_errors.Failure as failure:
                self._links.discard(link)
                fresh = await self._fresh() if once_more else None
                if fresh is None:
                    _end(batches, self._failed(failure))
                    return
                link = fresh
            else:
                if answers is None:
                    self._links.discard(link)
                    return
                self._carried = batches = self._settled(batches, answers, once_more=once_more)
                if batches:
                    await asyncio.sleep(BACKOFF_S)
            once_more = False

    async def _fresh(self) -> kafka_batch.Link | None:
        """Another link after one broke; None if there is none to be had."""
        try:
            return await self._link()
        except kafka_errors.Failure:
            return None

    async def _answers(self, link: kafka_batch.Link, batches: list[kafka_batch.Batch]) -> dict[int, int] | None:
        """The number that the broker answers for each partition; None if nobody waits for it any more."""
        events = [event for batch in batches for event in batch.events]
        left_s = max(event.deadline for event in events) - asyncio.get_running_loop().time()
        records = [(batch.partition, batch.encoded) for batch in batches]
        request = produce.ProduceRequest(
            None, ALL_REPLICAS, max(1, round(left_s * 1000)), [(self._topic, records)]
        )
        asking = asyncio.ensure_future(link.connection.ask(request))
        waiting = asyncio.gather(*(event.done for event in events), return_exceptions=True)
        try:
            await asyncio.wait({asking, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                return None
            produced: kafka_answers.Produced = asking.result()
            return produced.topics.get(self._topic, {})
        finally:
            asking.cancel()
            del asking  # it has the error, whose traceback has this frame

    def _settled(
        self, batches: list[kafka_batch.Batch], answers: dict[int, int], *, once_more: bool
    ) -> list[kafka_batch.Batch]:
        """Ends what is decided; the batches that are to go once more, as they are."""
        unsure: list[kafka_batch.Batch] = []
        for batch in batches:
            number = answers.get(batch.partition, UNANSWERED)
            if number in UNSURE and once_more:
                unsure.append(batch)
            else:
                self._decided(batch, number, first=once_more or batch.link.producer is None)
        return unsure

    def _decided(self, batch: kafka_batch.Batch, number: int, *, first: bool) -> None:
        """`first`: it went out once, so that what is refused now was not written before."""
        if number in WRITTEN:
            batch.written()
            kafka_batch.end(batch.events, DELIVERED)
            return
        if batch.link.producer is not None and not (first and number in NOT_TRIED):
            self._links.discard(batch.link)  # whether its sequence numbers are used up is not known
        if number in ONE_IS_BAD and len(batch.events) > 1:
            self._back(batch.events, alone=True)
        elif number in FORGOTTEN and first and batch.moves < MOST_MOVES:
            self._back(batch.events)
        elif number in ELSEWHERE and first and batch.moves < MOST_MOVES:
            for event in batch.events:
                event.moves += 1
            self._moved(batch.events)
        else:
            kafka_batch.end(batch.events, self._failed(kafka_errors.answered(number)))

    def _back(self, events: list[kafka_batch.Event], *, alone: bool = False) -> None:
        """They go out with the next request."""
        for event in reversed(events):
            event.alone = alone
            event.moves += not alone
            self._waiting.appendleft(event)


def _end(batches: Iterable[kafka_batch.Batch], outcome: delivery.Outcome) -> None:
    for batch in batches:
        kafka_batch.end(batch.events, outcome)


_CLOSED = kafka_errors.Failure(codes.Code.CONNECTION_RESET, "the connection to the broker was closed")


async def _shut(link: kafka_batch.Link) -> None:
    link.connection.close()
