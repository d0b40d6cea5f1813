"""False Kafkas: metadata of any size, counts that are not true, answers that nobody asked for."""

from __future__ import annotations

import asyncio
import struct

from tests.hostile.attackers.brokers import Behaviour, FalseService, pour

VERSIONS, METADATA, PRODUCER, PRODUCE = 18, 3, 22, 0
SUPPORTED = struct.pack(">hi", 0, 3) + b"".join(
    struct.pack(">hhh", key, 0, newest) for key, newest in ((METADATA, 5), (PRODUCER, 0), (PRODUCE, 8))
)
NOTHING = struct.pack(">i", 0)
PARTITION = struct.pack(">hiiiii", 0, 0, 0, 0, 0, 0)


def text(said: bytes) -> bytes:
    return struct.pack(">h", len(said)) + said


def metadata(port: int, partitions: bytes, count: int, brokers: bytes = b"", named: int = 0) -> bytes:
    """Version 5, of the topic `topic`. `brokers`: instead of this one; `named` is how many they are."""
    this = struct.pack(">i", 0) + text(b"127.0.0.1") + struct.pack(">i", port) + text(b"")
    told = struct.pack(">ii", 0, named or 1) + (brokers or this) + text(b"cluster") + struct.pack(">i", 0)
    return told + struct.pack(">ih", 1, 0) + text(b"topic") + b"\x00" + struct.pack(">i", count) + partitions


def produced(partition: int, error: int, topic: bytes = b"topic") -> bytes:
    """Version 8, of one batch."""
    told = struct.pack(">i", 1) + text(topic) + struct.pack(">i", 1)
    return told + struct.pack(">ihqqqih", partition, error, 0, -1, 0, 0, -1) + NOTHING


def broker(
    view: bytes | None = None,
    produce: bytes | None = None,
    versions: bytes = SUPPORTED + NOTHING,
    length: int | None = None,
    piece: bytes = b"",
    at: int = METADATA,
) -> Behaviour:
    """Answers as a broker does, but for what is given. At a request of the kind `at`, `length` is announced in
    place of the true one, and `piece` poured after the answer."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        answers = {
            VERSIONS: versions,
            METADATA: metadata(port, PARTITION, 1) if view is None else view,
            PRODUCER: struct.pack(">ihqh", 0, 0, 7, 0),
            PRODUCE: produced(0, 0) if produce is None else produce,
        }
        while True:
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            asked = await reader.readexactly(size)
            kind, _, correlation = struct.unpack(">hhi", asked[:8])
            answer = struct.pack(">i", correlation) + answers[kind]
            announced = length if length is not None and kind == at else len(answer)
            writer.write(struct.pack(">i", announced) + answer)
            await writer.drain()
            if piece and kind == at:
                await pour(writer, piece)

    return behave


BROKER = struct.pack(">i", 0) + text(b"127.0.0.1") + struct.pack(">i", 9092) + text(b"")
SERVICES = [
    FalseService("kafka", name, code, behaviour)
    for name, code, behaviour in (
        ("metadata of 4 MB", "answer_too_large", broker(metadata(1, PARTITION * 160_000, 160_000))),
        ("metadata of 40,000 partitions", "answer_too_large", broker(metadata(1, PARTITION * 40_000, 40_000))),
        ("metadata of 2 billion partitions", "answer_too_large", broker(metadata(1, PARTITION, 2**31 - 1))),
        ("brokers without an end", "answer_too_large", broker(metadata(1, b"", 0, b"x", 2**31 - 1))),
        ("3,000 brokers", "answer_too_large", broker(metadata(1, b"", 0, BROKER * 3_000, 3_000))),
        ("metadata that ends early", "kafka_error", broker(metadata(1, PARTITION, 2))),
        ("an answer of 100 MB", "answer_too_large", broker(length=100_000_000, piece=b"x" * 1_000)),
        (
            "versions of 1 MB",
            "answer_too_large",
            broker(versions=struct.pack(">hi", 0, 170_000) + b"\x00" * 1_020_000),
        ),
        ("versions that end early", "kafka_error", broker(versions=struct.pack(">hi", 0, 2**31 - 1))),
        ("answers that were not asked for", "OK", broker(piece=struct.pack(">i", 4) + b"\x00" * 4, at=PRODUCE)),
        ("an answer for another partition", "kafka_error", broker(produce=produced(1, 0))),
        ("an answer for another topic", "kafka_error", broker(produce=produced(0, 0, b"other"))),
        ("an answer for no topic", "kafka_error", broker(produce=NOTHING + NOTHING)),
        ("an answer of 1 MB to one batch", "answer_too_large", broker(produce=b"\x00" * 1_000_000)),
    )
]
