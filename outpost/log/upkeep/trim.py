"""Trimming `evt` and `dlv`: what is older than the window and needed by nobody leaves Redis; `cfg` never does.

The cut is computed, never a length: behind it stand the window, the checkpoint of every projection, and in `evt`
the first entry that the dispatcher's group has not read or not acknowledged. An attempt outlives the event it is
of, so that a fold of what is left never takes a delivery for open that was closed. What has left `dlv` stands
before the key `cut`: a request for a retry that looked at the log tables before that has to look again. A crash at
any point is harmless: the next pass goes on.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from outpost import pacing, telemetry
from outpost.log import batching, read
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.redis import client
from outpost.log.upkeep import leadership

EVERY_S = 5.0
LEASE_MS = 15_000  # three passes
LEASE = "trim"
MOST = 5_000  # entries by one call: 1 ms of Redis (measured: 0.1 to 0.2 us an entry of 400 bytes)
WALK = 500  # entries of `dlv` by one read, if they are small: 0.5 ms of Redis (measured)
WALK_BYTES = 4 * 1024 * 1024  # expected of such a read
_REF_AT = 8  # where `ref` stands among the fields of an entry of `dlv`

_SCRIPT = client.load_script("trim")

EntryKey = tuple[int, int]
Place = tuple[partitions.Stream, int]
Reader = Callable[[], Awaitable[Mapping[Place, EntryKey]]]  # the checkpoints of one projection


class Trimmed(msgspec.Struct, frozen=True):
    """How many entries left each stream."""

    evt: int = 0
    dlv: int = 0


class _Answer(msgspec.Struct, frozen=True):
    """Of the script: the first entry that is or will be in the stream, and the window's edge."""

    trimmed: int
    more: bool
    first: EntryKey
    edge: EntryKey


class Trimmer:
    """One a process. `readers` are the projections that read the log; nothing goes that one of them has not."""

    def __init__(self, log: client.Log, readers: Sequence[Reader], window_ms: int) -> None:
        self._log = log
        self._readers = readers
        self._window_ms = window_ms
        self._reading = batching.Reading(WALK, WALK_BYTES)
        self._holder = uuid.uuid4().hex
        self.health = telemetry.Health("trimmer")

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`: a pass every few seconds, more often only under a window that is shorter than that."""
        await pacing.every(min(EVERY_S, self._window_ms / 4000), self.step, stop, self.health)

    async def step(self) -> Trimmed:
        """One pass over the partitions whose lease is ours. Raises errors.StoreUnavailable."""
        checkpoints = [await reader() for reader in self._readers]
        ours = await leadership.take(self._log, LEASE, self._holder, LEASE_MS, range(partitions.PARTITIONS))
        evt = dlv = 0
        for partition in ours:
            slowest = {
                stream: min(each.get((stream, partition), (0, 0)) for each in checkpoints)
                for stream in partitions.STREAMS
            }
            done = await trim(self._log, partition, slowest["evt"], slowest["dlv"], self._window_ms, self._reading)
            evt, dlv = evt + done.evt, dlv + done.dlv
        if evt or dlv:
            telemetry.count("trimmed.evt", evt)
            telemetry.count("trimmed.dlv", dlv)
            telemetry.emit("log_trimmed", "debug", events=evt, attempts=dlv, partitions=len(ours))
        return Trimmed(evt, dlv)

    async def give_back(self) -> None:
        """Lets another process trim at once. Raises errors.StoreUnavailable."""
        await leadership.give_back(self._log, LEASE, self._holder, range(partitions.PARTITIONS))


async def trim(
    log: client.Log,
    partition: int,
    evt_checkpoint: EntryKey,
    dlv_checkpoint: EntryKey,
    window_ms: int,
    reading: batching.Reading | None = None,
) -> Trimmed:
    """Trims one partition as far as is safe. The checkpoints are those of the slowest projection; `reading` is
    what was learned of the size of attempts. Raises errors.StoreUnavailable."""
    reading = reading or batching.Reading(WALK, WALK_BYTES)
    evt = 0
    while True:
        answer = await _trim(log, "evt", partition, evt_checkpoint, _next(evt_checkpoint), window_ms)
        if answer is None:
            return Trimmed()
        evt += answer.trimmed
        if not answer.more:
            break
    bound, dlv = min(_next(dlv_checkpoint), answer.edge), 0
    while True:
        keep, more = await _first_needed(log, partition, bound, answer.first, reading)
        done = await _trim(log, "dlv", partition, dlv_checkpoint, keep, window_ms)
        if done is None:
            break
        dlv += done.trimmed
        if not more or not done.trimmed:
            break
    return Trimmed(evt, dlv)


async def _trim(
    log: client.Log,
    stream: partitions.Stream,
    partition: int,
    checkpoint: EntryKey,
    keep: EntryKey,
    window_ms: int,
) -> _Answer | None:
    """None: nothing is to be trimmed now."""
    keys = log.keys.partitions[partition]
    args = (partitions.GROUP, _text(checkpoint), _text(keep), window_ms, MOST)
    reply = (await log.call(_SCRIPT, [((keys.stream(stream), keys.evt, keys.mend, keys.cut), args)]))[0]
    if reply is None:
        return None
    trimmed, more, first, edge = reply
    return _Answer(trimmed, more == 1, positions.entry_key(first), positions.entry_key(edge))


async def _first_needed(
    log: client.Log, partition: int, bound: EntryKey, live: EntryKey, reading: batching.Reading
) -> tuple[EntryKey, bool]:
    """The first entry of `dlv` before `bound` that is about an event from `live` on, and False; `bound` if there
    is none. Looks at as many entries as one read brings: with True, how far they reach."""
    key, count = log.keys.partitions[partition].dlv, reading.count
    with read.failing(reading, count):
        found, size = await log.wait_measured("XRANGE", key, "-", f"({_text(bound)}", "COUNT", count)
    reading.answered(len(found), size, count)
    for entry_id, fields in found:  # as they come: a field of each is looked at
        event = _event_of(fields)
        if event is not None and event >= live:
            return positions.entry_key(entry_id), False
    return (_next(positions.entry_key(found[-1][0])), True) if len(found) == count else (bound, False)


def _event_of(fields: list[bytes]) -> EntryKey | None:
    """The event that an entry of `dlv` is about; None where it names none, which then needs it no more."""
    at = _REF_AT if fields[_REF_AT : _REF_AT + 1] == [b"ref"] else None
    if at is None:
        at = next((i for i in range(0, len(fields), 2) if fields[i] == b"ref"), None)
    if at is None:
        return None
    try:
        return positions.entry_key(fields[at + 1].split(b"/", 2)[1])
    except (ValueError, IndexError):
        return None


def _next(key: EntryKey) -> EntryKey:
    return key[0], key[1] + 1


def _text(key: EntryKey) -> str:
    return f"{key[0]}-{key[1]}"
