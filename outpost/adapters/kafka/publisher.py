"""A publisher of Kafka: the topic as its cluster described it, and a lane to each leader that has had an event."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine, Sequence

from outpost.adapters import base, codes
from outpost.adapters.kafka import batch as kafka_batch
from outpost.adapters.kafka import cluster as kafka_cluster
from outpost.adapters.kafka import errors as kafka_errors
from outpost.adapters.kafka import lane as kafka_lane
from outpost.adapters.kafka import partition as kafka_partition
from outpost.adapters.kafka import partitioners
from outpost.adapters.kafka import producers as kafka_producers
from outpost.adapters.kafka import wire as kafka_wire
from outpost.adapters.shared import long_lived_client, metadata, templates
from outpost.domain import delivery

VIEW_AGE_S = 300.0  # so that new partitions are used
BACKOFF_S, DOUBLINGS, MAX_BACKOFF_S = 0.1, 4, 1.0  # between two questions who leads
CONTENT_TYPE = ("content-type", b"application/json")


class Publisher:
    """Sends to one topic; see base.Publisher. `template` gives keys, where there is one, and `partitioner` their
    partitions."""

    max_batch = 500  # no service's limit; a request has a batch a partition, however many sends they came in

    def __init__(
        self,
        brokers: Sequence[kafka_cluster.Broker],
        topic: str,
        access: kafka_wire.Access,
        merger: metadata.Merger,
        template: templates.Template | None,
        partitioner: partitioners.Partitioner,
    ) -> None:
        self._brokers = tuple(brokers)
        self._cluster = kafka_cluster.Cluster(brokers, topic, access)
        self._topic = topic
        self._access = access
        self._merger = merger
        self._template = template
        self._partitioner = partitioner
        self._views = long_lived_client.LongLivedClient(self._look, _nothing, access.limit_s)
        self._lanes: dict[kafka_cluster.Broker, kafka_lane.Lane] = {}
        self._producers = kafka_producers.Producers()
        self._partitions: dict[int, kafka_partition.Partition] = {}
        self._unsettled = kafka_partition.Unsettled()
        self._events: set[kafka_batch.Event] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen = 0.0  # when what is held of the topic was asked for

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        """All of `batch` is handed to the lanes of its partitions, then awaited; one outcome each."""
        events = [self._event(each, deadline) for each in batch]
        for event in events:
            if self._unsettled.was_written(event.id):
                event.done.set_result(kafka_lane.DELIVERED)
        waiting = [event for event in events if not event.done.done()]
        self._events.update(waiting)
        try:
            async with asyncio.timeout_at(deadline):
                if waiting:
                    await self._hand_out(waiting, time.monotonic() - VIEW_AGE_S)
                    await asyncio.wait([event.done for event in waiting])
        except TimeoutError:
            for event in waiting:
                kafka_batch.end([event], self._failed(event.failure or _LATE))
        finally:
            self._events.difference_update(waiting)
            for event in waiting:
                event.done.cancel()  # where it has no outcome: nobody waits any more
        return [event.done.result() for event in events]

    async def close(self) -> None:
        """Ends the connections and what aiokafka runs for each; sends under way fail."""
        kafka_batch.end(self._events, self._failed(_CLOSED))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(self._views.close(), *(lane.close() for lane in self._lanes.values()))
        self._lanes.clear()  # they hold this

    def _event(self, event: base.Delivery, deadline: float) -> kafka_batch.Event:
        merged = self._merger.merged(event)
        key = None
        if self._template is not None:
            key = self._template.text({"metadata": merged, "data": templates.document(event.data)})
        headers = [(name, value.encode(errors="replace")) for name, value in merged.items()]
        return kafka_batch.Event(
            event.event_id,
            (key or event.event_id).encode(errors="replace"),
            event.data,
            [CONTENT_TYPE, *headers],
            deadline,
        )

    async def _hand_out(self, events: Sequence[kafka_batch.Event], since: float) -> None:
        """Gives each to the lane of its leader, as the cluster said after `since`; where it says nothing, that is
        their outcome."""
        try:
            view = await self._view(since)
        except kafka_errors.Failure as failure:
            kafka_batch.end(events, self._failed(failure))
            return
        for event in events:
            partition = self._unsettled.attach(event)
            if partition is None:
                number = view.place(event.key, self._partitioner)
                partition = self._partitions.setdefault(number, kafka_partition.Partition(number))
                partition.waiting.append(event)
            if partition.state == "idle":
                self._led(view, partition)

    def _led(self, view: kafka_cluster.View, partition: kafka_partition.Partition) -> None:
        """Gives a partition to the lane of its leader; where there is none now, it is looked for again."""
        leader = view.leader(partition.number)
        if leader is None:
            self._elsewhere([partition], kafka_errors.answered(kafka_errors.NOT_AVAILABLE))
        else:
            self._lane(leader).queue(partition)

    def _lane(self, broker: kafka_cluster.Broker) -> kafka_lane.Lane:
        lane = self._lanes.get(broker)
        if lane is None:
            lane = self._lanes[broker] = kafka_lane.Lane(
                broker,
                self._topic,
                self._access,
                self._producers,
                self._unsettled,
                self._elsewhere,
                self._failed,
            )
        return lane

    async def _view(self, since: float) -> kafka_cluster.View:
        """What the cluster said after `since` (monotonic). Raises kafka_errors.Failure."""
        try:
            view = await self._views.get()
            if self._seen < since:
                self._views.discard(view)
                view = await self._views.get()
        except kafka_errors.Failure:
            raise
        except Exception as exc:
            raise kafka_errors.met(exc, "the cluster") from exc
        return view

    async def _look(self) -> kafka_cluster.View:
        seen = time.monotonic()
        view = await self._cluster.view()
        self._seen = seen
        for gone in self._lanes.keys() - set(view.leaders):  # or a cluster could make us open ever more sockets
            lane = self._lanes.pop(gone)
            if waiting := lane.drained():
                self._elsewhere(waiting, kafka_errors.answered(kafka_errors.NOT_LEADER))
            self._beside(lane.retire())
        return view

    def _elsewhere(self, partitions: list[kafka_partition.Partition], failure: kafka_errors.Failure) -> None:
        """Their leader was not reached, or leads them no more: they go to whoever leads them now, as long as
        anybody waits. What cannot pass by itself ends them."""
        for partition in partitions:
            partition.state = "moving"
            for event in partition.awaited():
                event.failure = failure
        if failure.number == kafka_errors.NONE and failure.code not in _PASSING:
            self._give_up(partitions, failure)
        else:
            self._beside(self._move(partitions, time.monotonic()))

    def _give_up(self, partitions: list[kafka_partition.Partition], failure: kafka_errors.Failure) -> None:
        for partition in partitions:
            kafka_batch.end(partition.awaited(), self._failed(failure))
            partition.state = "idle"

    def _beside(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _move(self, partitions: list[kafka_partition.Partition], told: float) -> None:
        """Asks again who leads, soon and then less often: the cluster may not know at once. `told`: when the last
        answer turned out to be old (monotonic)."""
        while partitions:
            for partition in partitions:
                partition.failures += 1
            often = min(partition.failures for partition in partitions)
            pause_s = min(BACKOFF_S * 2 ** min(often - 1, DOUBLINGS), MAX_BACKOFF_S)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            for partition in partitions:
                if not partition.wanted:
                    partition.state = "idle"
            partitions = [partition for partition in partitions if partition.wanted]
            try:
                view = await self._view(told)
            except kafka_errors.Failure as failure:
                told = time.monotonic()
                for partition in partitions:
                    for event in partition.awaited():
                        event.failure = failure
                if failure.code not in _PASSING:
                    self._give_up(partitions, failure)
                    return
                continue
            for partition in partitions:
                self._led(view, partition)
            return

    def _failed(self, failure: kafka_errors.Failure) -> delivery.Failed:
        final = failure.code is codes.Code.BLOCKED_ADDRESS and self._is_refused()
        return codes.failed(failure.code, failure.text, (self._access.password,), final=final)

    def _is_refused(self) -> bool:
        """Whether each broker that the tenant named is an address that may not be spoken to. What a cluster
        advertises may change."""
        return all(self._access.addresses.refuses(host) for host, _ in self._brokers)


async def _nothing(_: kafka_cluster.View) -> None:
    """A view holds nothing open."""


# Of a broker that was not reached, and may be away for a moment: others are asked who leads now.
_PASSING = frozenset(
    {
        codes.Code.CONNECTION_REFUSED,
        codes.Code.CONNECTION_RESET,
        codes.Code.TIMEOUT,
        codes.Code.NETWORK_UNREACHABLE,
        codes.Code.NETWORK_ERROR,
    }
)
_LATE = kafka_errors.Failure(codes.Code.TIMEOUT, "the deadline passed before the broker confirmed")
_CLOSED = kafka_errors.Failure(codes.Code.CONNECTION_RESET, "the publisher was closed")
