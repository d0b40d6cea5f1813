"""What a cluster says of one topic, asked of the brokers that a tenant named: partitions, and who leads each."""

from __future__ import annotations

import asyncio
import bisect
import random
from collections.abc import Sequence

import msgspec
from aiokafka.protocol import metadata as protocol

from outpost.adapters import codes
from outpost.adapters.kafka import answers as kafka_answers
from outpost.adapters.kafka import errors as kafka_errors
from outpost.adapters.kafka import partitioners
from outpost.adapters.kafka import wire as kafka_wire

MOST_LEADERS = 256  # a socket each; a topic of more brokers than that is somebody's trick
ASK_AGAIN = 3
ASK_AGAIN_S = 0.1
_OF_THE_TOPIC = frozenset({3, 5, 17, 29})  # every broker would say the same

Broker = tuple[str, int]  # host and port


class View(msgspec.Struct, frozen=True):
    """The topic as it was said to be. `leaders` has the broker of each partition in order of their numbers, None
    where there is none now."""

    partitions: tuple[int, ...]
    leaders: tuple[Broker | None, ...]

    def place(self, key: bytes, partitioner: partitioners.Partitioner) -> int:
        """The number of the partition that `key` belongs to."""
        return self.partitions[partitioner(key, len(self.partitions))]

    def leader(self, number: int) -> Broker | None:
        """Who leads a partition; None if nobody does now, or it is not there any more."""
        at = bisect.bisect_left(self.partitions, number)
        there = at < len(self.partitions) and self.partitions[at] == number
        return self.leaders[at] if there else None


class Cluster:
    """The brokers that a tenant named, and the topic."""

    def __init__(self, brokers: Sequence[Broker], topic: str, access: kafka_wire.Access) -> None:
        self._brokers = brokers
        self._topic = topic
        # One that is silent must not use up the time of the others.
        self._access = msgspec.structs.replace(access, limit_s=access.limit_s / len(brokers))

    async def view(self) -> View:
        """Asks one broker after the other until one answers. Raises kafka_errors.Failure: the answer of one, or
        the most telling of their failures."""
        failures: list[kafka_errors.Failure] = []
        try:
            return await self._first(failures)
        finally:
            failures.clear()  # the one that is raised has this frame

    async def _first(self, failures: list[kafka_errors.Failure]) -> View:
        for host, port in random.sample(self._brokers, len(self._brokers)):
            connection = kafka_wire.Connection(host, port, self._access)
            try:
                await connection.connect()
                return await self._asked(connection)
            except kafka_errors.Failure as failure:
                if failure.number in _OF_THE_TOPIC:
                    raise
                failures.append(failure)
            finally:
                connection.close()
        raise kafka_errors.most_telling(failures)

    async def _asked(self, connection: kafka_wire.Connection) -> View:
        """A topic that is missing is not made by asking: a spelling mistake is to be seen."""
        request = protocol.MetadataRequest([self._topic], allow_auto_topic_creation=False)
        for more in reversed(range(ASK_AGAIN)):
            answer = await connection.ask(request)
            try:
                return _read(answer, self._topic)
            except kafka_errors.Failure as failure:
                if failure.number != kafka_errors.NOT_AVAILABLE or not more:
                    raise
            await asyncio.sleep(ASK_AGAIN_S)
        raise AssertionError


def _read(answer: kafka_answers.Metadata, topic: str) -> View:
    """Raises kafka_errors.Failure."""
    told = answer.topics.get(topic)
    if told is None:
        raise kafka_errors.answered(kafka_errors.UNKNOWN_TOPIC)
    error, partitions = told
    if error != kafka_errors.NONE:
        raise kafka_errors.answered(error)
    partitions = sorted(partitions)
    leaders = tuple(answer.brokers.get(leader) for _, leader in partitions)
    if not partitions:
        raise kafka_errors.answered(kafka_errors.NOT_AVAILABLE)
    if len(set(leaders)) > MOST_LEADERS:
        raise kafka_errors.Failure(codes.Code.KAFKA_ERROR, f"the topic has more than {MOST_LEADERS} leaders")
    return View(tuple(number for number, _ in partitions), leaders)
