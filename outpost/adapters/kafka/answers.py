"""What a broker answers to requests for metadata and to produced batches, read without the library.

aiokafka makes some dozen objects of each partition, 2 to 3 us, however many there are. This reads what a publisher
needs, in 0.5 us a partition, and refuses more of them than a topic has. It reads the versions that aiokafka asks
for: 0 to 5 of metadata and 0 to 8 of produce, https://kafka.apache.org/protocol#protocol_messages.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from outpost.adapters.shared import answers

MAX_METADATA_BYTES = 1_048_576  # a topic of 10,000 partitions with three replicas takes 0.5 MB
MAX_PRODUCE_BYTES = 65_536  # of an answer to produced batches, and for each of them
PRODUCED_BATCH_BYTES = 64
MAX_SMALL_BYTES = 16_384  # of every other answer: versions, login, producer number
MAX_PARTITIONS = 10_000  # of the topic that was asked for
MAX_BROKERS = 2_000  # of the cluster; 3 us each
MAX_TOPICS = 16  # one was asked for; what is said of others is passed over

PRODUCE, METADATA = 0, 3  # the protocol's numbers of requests
_INT16, _INT32 = struct.Struct(">h"), struct.Struct(">i")
_PARTITION = struct.Struct(">hii")  # error, number, leader


class Metadata(msgspec.Struct, frozen=True):
    """`brokers` by their numbers; `topics` as name -> error and the partitions (number, leader's number)."""

    brokers: dict[int, tuple[str, int]]
    topics: dict[str, tuple[int, list[tuple[int, int]]]]


class Produced(msgspec.Struct, frozen=True):
    """Topic -> partition -> error."""

    topics: dict[str, dict[int, int]]


class Response:
    """Stands for aiokafka's class of the response to `request` (a struct of its `protocol`), whose answer may have
    `limit` bytes."""

    def __init__(self, request: Any) -> None:
        self._produced = request.API_KEY == PRODUCE
        self._version: int = request.API_VERSION
        self.limit = MAX_METADATA_BYTES
        if self._produced:
            batches = sum(len(partitions) for _, partitions in request.topics)
            self.limit = MAX_PRODUCE_BYTES + PRODUCED_BATCH_BYTES * batches

    def decode(self, stream: Any) -> Metadata | Produced:
        """The answer that begins where `stream` (a BytesIO) stands. Raises AnswerTooLarge, and ValueError for
        what is no such answer."""
        reader = _Reader(stream.read(), self._version, self.limit)
        try:
            return reader.produced() if self._produced else reader.metadata()
        except (struct.error, UnicodeDecodeError):
            raise ValueError("no answer to this request") from None


class _Reader:
    def __init__(self, data: bytes, version: int, limit: int) -> None:
        self._data = data
        self._version = version
        self._limit = limit
        self._at = 0

    def metadata(self) -> Metadata:
        version = self._version
        if version >= 3:
            self._at += 4  # how long we were throttled
        brokers = dict(self._broker() for _ in range(self._count(MAX_BROKERS)))
        if version >= 2:
            self._text()  # the cluster's id
        if version >= 1:
            self._at += 4  # the controller's number
        return Metadata(brokers, dict(self._topic() for _ in range(self._count(MAX_TOPICS))))

    def produced(self) -> Produced:
        topics: dict[str, dict[int, int]] = {}
        for _ in range(self._count(MAX_TOPICS)):
            name = self._text()
            topics[name] = dict(self._batch() for _ in range(self._count(MAX_PARTITIONS)))
        return Produced(topics)

    def _batch(self) -> tuple[int, int]:
        number, error = self._int32(), self._int16()
        # The first offset; since version 2 a time; since version 5 the log's first offset.
        self._at += 8 * (1 + (self._version >= 2) + (self._version >= 5))
        if self._version >= 8:
            for _ in range(self._count(len(self._data))):  # the records that are at fault: number and text
                self._at += 4
                self._skip_text()
            self._skip_text()
        return number, error

    def _broker(self) -> tuple[int, tuple[str, int]]:
        number, host, port = self._int32(), self._text(), self._int32()
        if self._version >= 1:
            self._text()  # the rack
        return number, (host, port)

    def _topic(self) -> tuple[str, tuple[int, list[tuple[int, int]]]]:
        error, name = self._int16(), self._text()
        if self._version >= 1:
            self._at += 1  # whether it is internal
        return name, (error, self._partitions(self._count(MAX_PARTITIONS)))

    def _partitions(self, count: int) -> list[tuple[int, int]]:
        """Unrolled, since it is what takes the time: each is followed by two or three lists of replicas."""
        data, at, lists = self._data, self._at, range(3 if self._version >= 5 else 2)
        partition, int32 = _PARTITION.unpack_from, _INT32.unpack_from
        found: list[tuple[int, int]] = []
        for _ in range(count):
            _, number, leader = partition(data, at)
            at += _PARTITION.size
            for _ in lists:
                length = int32(data, at)[0]
                at += 4 + 4 * max(length, 0)
            found.append((number, leader))
        self._at = at
        return found

    def _count(self, most: int) -> int:
        count = max(self._int32(), 0)  # -1 is none
        if count > most:
            raise answers.AnswerTooLarge(self._limit)
        return count

    def _int16(self) -> int:
        value: int = _INT16.unpack_from(self._data, self._at)[0]
        self._at += _INT16.size
        return value

    def _int32(self) -> int:
        value: int = _INT32.unpack_from(self._data, self._at)[0]
        self._at += _INT32.size
        return value

    def _text(self) -> str:
        """ "" where there is none."""
        start = self._at + _INT16.size
        self._skip_text()
        return self._data[start : self._at].decode()

    def _skip_text(self) -> None:
        length = self._int16()
        self._at += max(length, 0)  # -1 is none
        if self._at > len(self._data):
            raise ValueError("a text that ends before its end")
