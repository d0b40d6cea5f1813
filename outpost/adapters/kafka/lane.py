"""The way to one leader: the partitions that wait for it go out in one request at a time, one batch each.

So events that come while a request is under way share the next one, and the batches of a producer that the broker
knows by number (idempotent) arrive in their order. A batch that may or may not have been written goes out again,
unchanged, where the broker tells it from a new one; elsewhere it is a failed attempt. A connection that was cut
off in the middle of a request is thrown away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiokafka.protocol import produce

from outpost.adapters import codes
from outpost.adapters.kafka import answers as kafka_answers
from outpost.adapters.kafka import batch as kafka_batch
from outpost.adapters.kafka import cluster as kafka_cluster
from outpost.adapters.kafka import errors as kafka_errors
from outpost.adapters.kafka import partition as kafka_partition
from outpost.adapters.kafka import producers as kafka_producers
from outpost.adapters.kafka import wire as kafka_wire
from outpost.adapters.shared import long_lived_client
from outpost.domain import delivery

DELIVERED = delivery.Delivered(codes.OK, {})
ALL_REPLICAS = -1  # acks=all
REQUEST_BYTES = 8_388_608  # of data; it has to pass within a deadline, and brokers take no more than 100 MB
MOST_MOVES = 3  # of an event to another producer number
SILENT_SHARE = 2  # a leader may take one in so many of the time that is left; then others are asked who leads

# Kafka's numbers by what they mean for a batch.
WRITTEN = frozenset({0, 46})  # NONE; DUPLICATE_SEQUENCE_NUMBER: written before
# UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE, NOT_LEADER, NOT_ENOUGH_REPLICAS (as long as a broker is away),
# KAFKA_STORAGE_ERROR, FENCED_LEADER_EPOCH
ELSEWHERE = frozenset({3, 5, 6, 19, 56, 74})
# CORRUPT_MESSAGE, MESSAGE_TOO_LARGE, RECORD_LIST_TOO_LARGE, POLICY_VIOLATION, INVALID_RECORD: one spoils all
ONE_IS_BAD = frozenset({2, 10, 18, 44, 87})
UNANSWERED = -1
UNSURE = frozenset({7, 20})  # REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS_AFTER_APPEND
# OUT_OF_ORDER_SEQUENCE_NUMBER, INVALID_PRODUCER_EPOCH, INVALID_PRODUCER_ID_MAPPING, UNKNOWN_PRODUCER_ID
FORGOTTEN = frozenset({45, 47, 49, 59})
# Refused before anything is written, so that the sequence numbers are free. TOPIC_ and
# CLUSTER_AUTHORIZATION_FAILED, THROTTLING_QUOTA_EXCEEDED; the others are above
NOT_TRIED = (ELSEWHERE - {56}) | ONE_IS_BAD | {29, 31, 89}

Pair = tuple[kafka_partition.Partition, kafka_batch.Batch]


class Lane:
    """To one broker. `elsewhere` takes partitions that it does not lead (any more), or that it did not answer for;
    `failed` makes the outcome of a failure."""

    def __init__(
        self,
        broker: kafka_cluster.Broker,
        topic: str,
        access: kafka_wire.Access,
        producers: kafka_producers.Producers,
        unsettled: kafka_partition.Unsettled,
        elsewhere: Callable[[list[kafka_partition.Partition], kafka_errors.Failure], None],
        failed: Callable[[kafka_errors.Failure], delivery.Outcome],
    ) -> None:
        self._broker = broker
        self._topic = topic
        self._access = access
        self._producers = producers
        self._unsettled = unsettled
        self._elsewhere = elsewhere
        self._failed = failed
        self._ready: dict[kafka_partition.Partition, None] = {}
        self._carried: list[Pair] = []
        self._connections = long_lived_client.LongLivedClient(self._open, _shut, access.limit_s)
        self._task: asyncio.Task[None] | None = None

    def queue(self, partition: kafka_partition.Partition) -> None:
        """Takes a partition that is idle or on its way here."""
        partition.state = "queued"
        self._ready[partition] = None
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def drained(self) -> list[kafka_partition.Partition]:
        """What still waits, given back."""
        ready, self._ready = list(self._ready), {}
        return ready

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
        for _, batch in self._carried:
            kafka_batch.end(batch.events, outcome)
        for partition in self._ready:
            kafka_batch.end(partition.awaited(), outcome)
        await self._connections.close()

    async def _open(self) -> kafka_wire.Connection:
        connection = kafka_wire.Connection(*self._broker, self._access)
        await connection.connect()
        return connection

    async def _run(self) -> None:
        """Until nothing waits."""
        try:
            while self._ready:
                try:
                    connection = await self._connection()
                    producer = await self._producers.get(connection)
                except kafka_errors.Failure as failure:
                    self._elsewhere(self.drained(), failure)
                    return
                self._carried = self._taken(producer)
                if self._carried:
                    await self._carry(connection, self._carried)
                self._carried = []
        finally:
            self._task = None

    async def _connection(self) -> kafka_wire.Connection:
        while True:
            try:
                connection = await self._connections.get()
            except kafka_errors.Failure:
                raise
            except Exception as exc:
                raise kafka_errors.met(exc, ":".join(map(str, self._broker))) from exc
            if connection.connected():
                return connection
            self._connections.discard(connection)

    def _taken(self, producer: kafka_batch.Producer | None) -> list[Pair]:
        """What goes out now: a batch of each partition, as far as they fit into one request."""
        taken: list[Pair] = []
        size = 0
        for partition in list(self._ready):
            if size >= REQUEST_BYTES:
                break
            del self._ready[partition]
            batch = partition.taken(producer)
            if batch is None:
                partition.state = "idle"
                continue
            partition.state = "carried"
            size += len(batch.encoded)
            self._unsettled.sent(partition, batch)
            taken.append((partition, batch))
        return taken

    async def _carry(self, connection: kafka_wire.Connection, pairs: list[Pair]) -> None:
        """Sends and settles batches."""
        away: dict[tuple[codes.Code, int], tuple[kafka_errors.Failure, list[kafka_partition.Partition]]] = {}
        try:
            answers = await self._answers(connection, [batch for _, batch in pairs])
        except kafka_errors.Failure as failure:
            self._connections.discard(connection)
            for partition, batch in pairs:
                self._in_doubt(partition, batch, failure)
            self._elsewhere([partition for partition, _ in pairs], failure)
            return
        for partition, batch in pairs:
            told = self._settled(partition, batch, answers.get(partition.number, UNANSWERED))
            if told is None:
                partition.state = "idle"
                if partition.wanted:
                    self.queue(partition)
            else:
                away.setdefault((told.code, told.number), (told, []))[1].append(partition)
        for told, partitions in away.values():
            self._elsewhere(partitions, told)

    async def _answers(
        self, connection: kafka_wire.Connection, batches: list[kafka_batch.Batch]
    ) -> dict[int, int]:
        """The number that the broker answers for each partition. Raises kafka_errors.Failure, also where it takes
        so long that another may lead by now, or that nobody waits for it any more."""
        events = [event for partition, _ in self._carried for event in partition.awaited()]
        events += [event for batch in batches for event in batch.events if not event.done.done()]
        if not events:
            raise _SILENT
        left_s = max(event.deadline for event in events) - asyncio.get_running_loop().time()
        records = [(partition.number, batch.encoded) for partition, batch in self._carried]
        request = produce.ProduceRequest(
            None, ALL_REPLICAS, max(1, round(left_s * 1000)), [(self._topic, records)]
        )
        asking = asyncio.ensure_future(connection.ask(request))
        waiting = asyncio.gather(*(event.done for event in events), return_exceptions=True)
        known = all(batch.producer is not None for batch in batches)
        try:
            limit_s = left_s / SILENT_SHARE if known else None
            await asyncio.wait({asking, waiting}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise _SILENT
            produced: kafka_answers.Produced = asking.result()
            return produced.topics.get(self._topic, {})
        finally:
            asking.cancel()
            del asking  # it has the error, whose traceback has this frame

    def _settled(
        self, partition: kafka_partition.Partition, batch: kafka_batch.Batch, number: int
    ) -> kafka_errors.Failure | None:
        """What the broker's answer means for a batch; the failure for which its partition goes elsewhere, if it is
        to."""
        failure = kafka_errors.answered(number)
        if number in WRITTEN:
            partition.written(batch)
            self._unsettled.settle(partition, batch, written=True)
            kafka_batch.end(batch.events, DELIVERED)
        elif number in UNSURE or (number in ELSEWHERE and number not in NOT_TRIED):
            self._in_doubt(partition, batch, failure)
            return failure
        elif number in ELSEWHERE:
            if not batch.in_doubt:
                self._unsettled.settle(partition, batch)
                partition.back(batch)
            return failure
        elif number in ONE_IS_BAD and len(batch.events) > 1:
            self._unsettled.settle(partition, batch)
            partition.back(batch, alone=True)
        elif number in FORGOTTEN and batch.moves < MOST_MOVES:
            self._unsettled.settle(partition, batch)
            self._producers.forget(batch.producer)
            partition.back(batch)
        else:
            self._refused(partition, batch, failure)
        return None

    def _refused(
        self, partition: kafka_partition.Partition, batch: kafka_batch.Batch, failure: kafka_errors.Failure
    ) -> None:
        """Nothing helps for now. A batch that was in doubt before stays so, and nothing goes before it."""
        events = batch.events
        if failure.number in ONE_IS_BAD | FORGOTTEN:
            self._unsettled.settle(partition, batch)
            if failure.number in FORGOTTEN:
                self._producers.forget(batch.producer)
        elif batch.in_doubt:
            events = partition.awaited()
        elif batch.producer is not None and failure.number not in NOT_TRIED:
            self._keep_in_doubt(partition, batch)
        else:
            self._unsettled.settle(partition, batch)
        kafka_batch.end(events, self._failed(failure))

    def _in_doubt(
        self, partition: kafka_partition.Partition, batch: kafka_batch.Batch, failure: kafka_errors.Failure
    ) -> None:
        """Whether `batch` was written is not known. Where the broker can tell, it goes to whoever leads now."""
        if batch.producer is None:
            kafka_batch.end(batch.events, self._failed(failure))
        else:
            self._keep_in_doubt(partition, batch)

    def _keep_in_doubt(self, partition: kafka_partition.Partition, batch: kafka_batch.Batch) -> None:
        for given_up in self._unsettled.doubt(partition, batch):
            self._producers.forget(given_up.producer)  # whether its sequence numbers are used up is not known


_CLOSED = kafka_errors.Failure(codes.Code.CONNECTION_RESET, "the connection to the broker was closed")
_SILENT = kafka_errors.Failure(codes.Code.TIMEOUT, "the broker did not answer in time")


async def _shut(connection: kafka_wire.Connection) -> None:
    connection.close()
