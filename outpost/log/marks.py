"""Where the dedupe marks of `append` stand: buckets of half a window, and which windows are in use in a partition.

Processes may have different windows for a while, after the setting was changed. Each writes marks into buckets
of its own width and looks into those of every width that is in use. The partition's key `idem` says which are: a
caller that does not name one of them is told so, and declares its buckets as well the next time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from outpost.log import partition as partitions
from outpost.log.redis import client

BUCKETS = 6  # of a width that a caller declares
LIVES = 4  # widths from the start of a bucket until its marks expire
_BACK = 3  # the script looks back two buckets, and clocks differ by one
_SCAN = 1_000  # keys a round trip

Declared = tuple[tuple[int, int], ...]  # width ms and number of its first bucket, our own first


class Window(msgspec.Struct):
    """The idempotency window of this process, the offset of its clock from that of Redis, in ms, and the widths of
    other windows in use, each with the Unix ms until which it is."""

    ttl_ms: int
    clock_offset_ms: int = 0
    others: dict[int, int] = msgspec.field(default_factory=dict)
    _keys: dict[str, tuple[Declared, list[str]]] = msgspec.field(default_factory=dict)

    @property
    def bucket_ms(self) -> int:
        return max(1, -(-self.ttl_ms // 2))  # half of the window, rounded up

    def declared(self) -> Declared:
        """The widths to declare now. Each has `BUCKETS` buckets: the script looks back two and ahead one, for a
        clock that stepped back, and clocks differ by one."""
        now = time.time_ns() // 1_000_000 + self.clock_offset_ms
        if not self.others:
            width = self.bucket_ms
            return ((width, now // width - _BACK),)
        self.others = {width: until for width, until in self.others.items() if until > now}
        widths = (self.bucket_ms, *(width for width in self.others if width != self.bucket_ms))
        return tuple((width, now // width - _BACK) for width in widths)

    def keys(self, keys: partitions.PartitionKeys, declared: Declared) -> list[str]:
        """The keys of the declared buckets in a partition, made once for as long as they are the same."""
        made = self._keys.get(keys.prefix)
        if made is None or made[0] != declared:
            names = [keys.bucket(first + i) for _, first in declared for i in range(BUCKETS)]
            made = self._keys[keys.prefix] = (declared, names)
        return made[1]

    def learn(self, now_ms: int, in_use: Sequence[bytes]) -> None:
        """Follows what a script said: the clock of Redis, and the widths in use with their ends."""
        self.clock_offset_ms = now_ms - time.time_ns() // 1_000_000
        self.others |= {int(w): int(until) for w, until in zip(in_use[::2], in_use[1::2], strict=True)}


async def adopt(log: client.Log) -> int:
    """Finds buckets that a version wrote which did not say their width, and notes it, so that a first start with
    another window finds their marks. Returns how many there were. Raises errors.StoreUnavailable."""
    cursor, found = 0, 0
    while True:
        reply = await log.command("SCAN", cursor, "MATCH", partitions.bucket_glob(log.keys), "COUNT", _SCAN)
        cursor = int(reply[0])
        for name in reply[1]:
            bucket = partitions.bucket_of(log.keys, name.decode())
            until = await log.command("PEXPIRETIME", name)
            if bucket is None or until <= 0:
                continue
            keys, number = bucket
            width = until // (number + LIVES)
            if width:
                await log.command("HSET", keys.idem, width, until)
                found += 1
        if cursor == 0:
            return found
