"""The life of a task in `due`: opened, held, claimed, begun, recorded. One thin wrapper for each script.

A task is live if and only if it stands in `due`; its score says when it is to be dispatched again, and a score
that ends in .5 that it was begun and when its lease ends. Every call is batched and makes one round trip; all
raise errors.StoreUnavailable, and then any part of the batch may have happened: the scripts make repeating safe.
Where it failed for some partitions only, the others have their answers (`client.ByPartition`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from outpost.domain import delivery, events
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.redis import client

HOLD_TASKS = 250  # of one `hold`, which holds up every other command

_OPEN = client.load_script("open")
_BEGIN = client.load_script("begin")
_RECORD = client.load_script("record")
_HOLD = client.load_script("hold")
_CLAIM = client.load_script("claim_due")


class Opening(msgspec.Struct, frozen=True):
    """A read entry of `evt` and the first attempts that it asks for."""

    entry_id: str
    tasks: tuple[str, ...]


class Beginning(msgspec.Struct, frozen=True):
    """A task that is about to be sent. `matched_version` is that of its event, `cached_version` the destination
    version this process holds (0: none)."""

    task: str
    matched_version: int
    tenant: str
    event_id: str
    destination: str
    created: int
    cached_version: int


class Begun(msgspec.Struct, frozen=True, tag=True):
    """The lease is ours. `field` is the destination's read-model field if the cached version is not current,
    `before` how many manual attempts the delivery had."""

    manual: bool
    field: bytes | None
    before: int = 0


class Dropped(msgspec.Struct, frozen=True, tag=True):
    """Not ours to send: `gone`, `leased`, `cancelled` or `skipped`."""

    reason: str


class TryAgain(msgspec.Struct, frozen=True, tag=True):
    """Nothing changed: the read model is `behind` the event, or another `generation` is active."""

    generation: int | None


BeginAnswer = Begun | Dropped | TryAgain


class Recording(msgspec.Struct, frozen=True):
    """An attempt that was made. `retry_in_ms`: when an automatic attempt follows, if this one was automatic;
    `retry_in_ms_if_manual`: if it was manual; None: none follows. The script knows which it is. `detail` is
    `envelope.encode_detail` of it."""

    task: str
    tenant: str
    event_id: str
    succeeded: bool
    retry_in_ms: int | None
    detail: bytes
    retry_in_ms_if_manual: int | None = None

    @property
    def retries(self) -> str:
        """As the script takes them."""
        if self.retry_in_ms is None and self.retry_in_ms_if_manual is None:
            return ""
        both = (self.retry_in_ms, self.retry_in_ms_if_manual)
        return " ".join("" if ms is None else str(ms) for ms in both)


class Longest(msgspec.Struct, frozen=True):
    """The longest delay and the longest lease, in ms, that a score of `due` can have by the settings. What is
    further away was scored while the clock of Redis was ahead."""

    delay_ms: int = delivery.MAX_DELAY_MS
    lease_ms: int = 60_000


_LONGEST = Longest()


class Claimed(msgspec.Struct, frozen=True):
    """What `claim_due` took from a partition, in how many ms the next one is due (None: none waits), and what time
    it was by the clock of Redis."""

    tasks: list[str]
    next_in_ms: float | None
    now_ms: int


async def open_entries(
    log: client.Log,
    opening: Mapping[int, Sequence[Opening]],
    watchdog_ms: int,
) -> client.ByPartition[list[bool]]:
    """Acknowledges entries and makes their tasks live; True for those whose tasks are ours to hand over."""
    calls: dict[int, client.Call] = {}
    for partition, entries in opening.items():
        keys = log.keys.partitions[partition]
        args: list[client.Arg] = [partitions.GROUP, watchdog_ms]
        for entry in entries:
            args += (entry.entry_id, len(entry.tasks), *entry.tasks)
        calls[partition] = ((keys.evt, keys.due), args)
    return await log.call_each(_OPEN, calls, lambda _, reply: [acked == 1 for acked in reply])


async def begin(
    log: client.Log,
    beginning: Mapping[int, Sequence[Beginning]],
    generations: Mapping[int, int],
    lease_ms: int,
    by: str,
) -> client.ByPartition[list[BeginAnswer]]:
    """Leases tasks for `lease_ms`, or says why they must not be sent. `generations`: the read-model generation
    that the caller believes active in each partition; `by` is written where a delivery closes."""
    calls: dict[int, client.Call] = {}
    for partition, wanted in beginning.items():
        keys, generation = log.keys.partitions[partition], generations[partition]
        hashes = {tenant: at for at, tenant in enumerate(dict.fromkeys(b.tenant for b in wanted), start=7)}
        args: list[client.Arg] = [generation, lease_ms, by]
        for b in wanted:
            args += (
                b.task,
                b.matched_version,
                hashes[b.tenant],
                b.tenant,
                b.event_id,
                b.destination,
                b.created,
                b.cached_version,
            )
        fixed = (keys.due, keys.want, keys.dlv, keys.gen, keys.ver, keys.manual)
        calls[partition] = ([*fixed, *(keys.tenant(generation, t) for t in hashes)], args)
    return await log.call_each(_BEGIN, calls, lambda _, reply: [_begun(answer) for answer in reply])


_AS_CACHED = Begun(False, None)


def _begun(answer: int | bytes | list[bytes | int | None]) -> BeginAnswer:
    match answer:
        case 1:
            return _AS_CACHED
        case [int() as manual, field, int() as before]:
            return Begun(manual == 1, field if isinstance(field, bytes) else None, before)
        case [b"generation", bytes() as active]:
            return TryAgain(int(active))
        case b"behind":
            return TryAgain(None)
        case bytes() as reason:
            return Dropped(reason.decode())
    raise TypeError("begin was answered in an unknown form")


async def record(
    log: client.Log,
    recording: Mapping[int, Sequence[Recording]],
    by: str,
) -> client.ByPartition[list[positions.Position | None]]:
    """Records attempts and schedules what follows. None: there is a record already, or the lease had ended and the
    delivery was closed by another."""
    calls: dict[int, client.Call] = {}
    for partition, attempts in recording.items():
        keys, args = log.keys.partitions[partition], list[client.Arg]([by])
        for a in attempts:
            args += (
                a.task,
                a.tenant,
                a.event_id,
                int(a.succeeded),
                a.retries,
                a.detail,
            )
        calls[partition] = ((keys.due, keys.want, keys.dlv, keys.manual), args)
    return await log.call_each(_RECORD, calls, _recorded)


def _recorded(partition: int, reply: list[bytes | None]) -> list[positions.Position | None]:
    return [None if entry_id is None else positions.of_entry("dlv", partition, entry_id) for entry_id in reply]


async def hold(log: client.Log, held: Mapping[int, Sequence[str]], delay_ms: int) -> set[tuple[int, str]]:
    """Lets tasks come back in `delay_ms` (0: now, to whoever claims them). Returns those (partition, task)
    that are not the caller's to keep."""
    return await put_aside(log, {p: [(task, delay_ms) for task in tasks] for p, tasks in held.items()})


async def put_aside(log: client.Log, held: Mapping[int, Sequence[tuple[str, int]]]) -> set[tuple[int, str]]:
    """`hold` with a delay for each task. Callers put at most `HOLD_TASKS` into a call. Raises
    too where only some partitions failed, after the others were dealt with."""
    calls = {
        p: ((log.keys.partitions[p].due,), [each for pair in pairs for each in pair]) for p, pairs in held.items()
    }
    lost = await log.call_each(_HOLD, calls, lambda p, reply: {(p, task.decode()) for task in reply})
    return set().union(*lost.whole().values())


async def claim_due(
    log: client.Log,
    watchdog_ms: int,
    most: int,
    among: Sequence[int] = tuple(range(partitions.PARTITIONS)),
    longest: Longest = _LONGEST,
) -> client.ByPartition[Claimed]:
    """Takes at most `most` tasks of each partition whose time has come, and as many that are further away than
    `longest`. Raises where every partition failed."""
    args = (watchdog_ms, most, longest.delay_ms, longest.lease_ms)
    calls: dict[int, client.Call] = {p: ((log.keys.partitions[p].due,), args) for p in among}
    return (await log.call_each(_CLAIM, calls, _claimed)).checked()


def _claimed(_: int, reply: list[bytes | int | None]) -> Claimed:
    now, following, *tasks = reply
    assert isinstance(now, int)
    next_in_ms = None if following is None else float(following) - now
    return Claimed([t.decode() for t in tasks if isinstance(t, bytes)], next_in_ms, now)


def first_attempts(event: events.Event, entry_id: str) -> tuple[delivery.TaskId, ...]:
    """The tasks that an accepted event asks for, one a matched destination."""
    return tuple(delivery.TaskId(1, entry_id, m.destination, m.created) for m in event.matched)
