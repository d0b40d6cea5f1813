"""Which partition a key belongs to.

Who writes to a topic that others write to has to place keys as they do, or the records of one key stand in two
partitions, in no order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiokafka import partitioner

Partitioner = Callable[[bytes, int], int]  # a key, and how many partitions there are -> index of the partition


def fnv1a(key: bytes, count: int) -> int:
    """FNV-1a with 32 bits, signed, as the published Outpost (kafka-go's `Hash`) and Sarama have it, so that a
    consumer finds every key where it was."""
    mixed = 0x811C9DC5
    for byte in key:
        mixed = (mixed ^ byte) * 0x01000193 & 0xFFFF_FFFF
    return abs(mixed - (1 << 32) if mixed >> 31 else mixed) % count


def murmur2(key: bytes, count: int) -> int:
    """Murmur2 with 32 bits without its sign bit, as Java's producer, Kafka Streams and Connect have it."""
    mixed: int = partitioner.murmur2(key)
    return (mixed & 0x7FFF_FFFF) % count


BY_NAME: Mapping[str, Partitioner] = {"fnv1a": fnv1a, "murmur2": murmur2}
