"""Which partition a tenant belongs to, and how every key of the log is spelt.

All keys of a partition share one cluster slot; the hash tags are computed so that the sixteen slots are evenly
spaced, because plain `{p00}` .. `{p15}` leave half of an eight-shard cluster empty.
"""

from __future__ import annotations

import binascii
import functools
import zlib
from typing import Literal

import msgspec

PARTITIONS = 16
CLUSTER_SLOTS = 16_384
GROUP = "dispatch"  # the consumer group on every `evt`, the only one there is

Stream = Literal["cfg", "evt", "dlv"]
STREAMS: tuple[Stream, ...] = ("cfg", "evt", "dlv")


def partition_of(tenant: str) -> int:
    """The partition of a tenant id, 0 to 15."""
    return zlib.crc32(tenant.encode()) % PARTITIONS


def slot_of(tag: str) -> int:
    """The cluster slot of a hash tag (CRC-16/XMODEM modulo 16,384, as the Redis Cluster specification has it)."""
    return binascii.crc_hqx(tag.encode(), 0) % CLUSTER_SLOTS


@functools.cache
def hash_tag(partition: int) -> str:
    """`pNN.k` with the first k whose slot lies in the NN-th sixteenth of the slots."""
    width = CLUSTER_SLOTS // PARTITIONS
    k = 0
    while slot_of(f"p{partition:02}.{k}") // width != partition:
        k += 1
    return f"p{partition:02}.{k}"


class PartitionKeys(msgspec.Struct, frozen=True):
    """The keys of one partition of one deployment."""

    prefix: str
    cfg: str
    evt: str
    dlv: str
    ver: str
    due: str
    want: str
    manual: str
    mend: str
    cut: str
    gen: str
    idem: str

    def stream(self, name: Stream) -> str:
        return f"{self.prefix}:{name}"

    def bucket(self, bucket: int) -> str:
        """Dedupe marks of one half of an idempotency window."""
        return f"{self.prefix}:idem:{bucket}"

    def checkpoint(self, generation: int) -> str:
        return f"{self.prefix}:g{generation}:ck"

    def tenant(self, generation: int, tenant: str) -> str:
        return f"{self.prefix}:g{generation}:t:{tenant}"

    def tenants(self, generation: int) -> str:
        """Listing order: tenant id scored by the ms of its creation."""
        return f"{self.prefix}:g{generation}:tenants"

    def lease(self, name: str) -> str:
        return f"{self.prefix}:lease:{name}"


class Keys(msgspec.Struct, frozen=True):
    """The keys of one deployment: `partitions[NN]`, and the two that belong to none of them."""

    namespace: str
    partitions: tuple[PartitionKeys, ...]

    @property
    def slots(self) -> str:
        """Leased consumer names."""
        return f"{self.namespace}:slots"

    @property
    def meta(self) -> str:
        """What this deployment was made with; another format refuses to start."""
        return f"{self.namespace}:meta"


def keys_of(deployment_id: str = "") -> Keys:
    """Every key of a deployment."""
    namespace = f"outpost:{deployment_id}" if deployment_id else "outpost"
    return Keys(namespace, tuple(_partition(f"{namespace}:{{{hash_tag(p)}}}") for p in range(PARTITIONS)))


def bucket_glob(keys: Keys) -> str:
    """What SCAN finds every bucket of dedupe marks of a deployment by, and little else."""
    return f"{keys.namespace}:{{*}}:idem:*"


def bucket_of(keys: Keys, name: str) -> tuple[PartitionKeys, int] | None:
    """The partition and the number of a bucket of dedupe marks; None for any other key."""
    prefix, _, number = name.rpartition(":idem:")
    found = next((each for each in keys.partitions if each.prefix == prefix), None)
    return (found, int(number)) if found and number.isascii() and number.isdigit() else None


def _partition(prefix: str) -> PartitionKeys:
    names = ("cfg", "evt", "dlv", "ver", "due", "want", "manual", "mend", "cut", "gen", "idem")
    return PartitionKeys(prefix, *(f"{prefix}:{name}" for name in names))
