"""Appending to `cfg` and `evt`: each entry once, each against the tenant version it was made for.

`append` is the script with its retries. `GroupCommit` gathers the events of a process: whatever waits when a flush
returns is the next flush, so a busy process pays one round trip for hundreds and an idle one adds no delay. Large
events are flushed by themselves, so that no small one waits until a megabyte is sent and on the disk.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from outpost import errors
from outpost.domain import events
from outpost.log import batching, envelope, marks
from outpost.log import budget as budgets
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.redis import client

RETRY_PAUSE_S = 0.05  # between two tries of an append that got no answer
APPEND_LIMIT_S = 4.0  # after which a caller hears that the store is away
MAX_FLUSH = 512  # entries of one flush; bounds how long Redis is busy with it
OVERHEAD_BYTES = 512  # of a call, for an item beside its payload: names of fields, ids, times, mark
LARGE_ITEM_BYTES = 32_768  # items from this size on are flushed apart from the others
MAX_WAITING = 20_000  # entries that may wait for a flush; beyond it publishers are told to come again

_SCRIPT = client.load_script("append")


class Appended(msgspec.Struct, frozen=True, tag=True):
    """The entry stands at `position`."""

    position: positions.Position


class Duplicate(msgspec.Struct, frozen=True, tag=True):
    """Another request put this id there within the window; `matched` is what it was told."""

    position: positions.Position
    matched: tuple[events.Matched, ...]


class Stale(msgspec.Struct, frozen=True, tag=True):
    """The tenant is at `version`, not at the expected one; nothing was written."""

    version: int


Answer = Appended | Duplicate | Stale


class Item(msgspec.Struct, frozen=True, gc=False):
    """One entry to be appended. `mark` is what may be there once within the window, `request` tells a retry of
    the same request from a second one (no spaces in it). `expected` None: any version; `following`: the version
    after it, if it changes. `payload_bytes`: what its publisher decides, and `fan_out_bytes` what its matches
    take later: both are counted by the budget beside the usual size of an entry."""

    tenant: str
    mark: str
    request: str
    fields: Sequence[client.Arg]
    expected: int | None = None
    following: int | None = None
    matched: bytes = b"[]"
    payload_bytes: int = 0
    fan_out_bytes: int = 0


Window = marks.Window


async def append(
    log: client.Log,
    stream: partitions.Stream,
    batches: Mapping[int, Sequence[Item]],
    window: Window,
) -> client.ByPartition[list[Answer]]:
    """Appends the items of each partition and answers each, in order; one round trip if nothing goes wrong.

    Tries again for `APPEND_LIMIT_S` where the outcome is unknown: marks make that safe. Then a partition without
    an answer has failed, and each of its items stands in the log once or not at all. Raises
    errors.StoreUnavailable where all have failed.
    """
    give_up = time.monotonic() + APPEND_LIMIT_S
    answers: client.ByPartition[list[Answer]] = client.ByPartition()
    left = dict(batches)
    while True:
        failed = await _append(log, stream, left, window, answers)
        if not failed and not answers.failed:
            return answers
        for partition in (*answers, *(p for p, exc in failed.items() if isinstance(exc, errors.StoreFull))):
            left.pop(partition, None)
        answers.failed = {p: exc for p, exc in (answers.failed | failed).items() if p not in answers}
        if not left or time.monotonic() + RETRY_PAUSE_S > give_up:
            return answers.checked()
        if not all(isinstance(exc, _OtherBuckets) for exc in failed.values()):
            await asyncio.sleep(RETRY_PAUSE_S)


class _OtherBuckets(errors.StoreUnavailable):
    """The buckets that were declared are not those that matter; the next try declares the right ones."""


async def _append(
    log: client.Log,
    stream: partitions.Stream,
    batches: Mapping[int, Sequence[Item]],
    window: Window,
    answers: client.ByPartition[list[Answer]],
) -> dict[int, errors.StoreUnavailable]:
    """One try. Adds to `answers`, and returns why partitions have none."""
    declared = window.declared()
    try:
        replies = await log.call_each(
            _SCRIPT,
            {p: _call(log.keys.partitions[p], stream, items, window, declared) for p, items in batches.items()},
            lambda _, reply: reply,
        )
    except errors.StoreUnavailable as exc:
        return dict.fromkeys(batches, exc)
    failed = replies.failed
    for partition, reply in replies.items():
        if reply and reply[0] == b"buckets":
            window.learn(reply[1], reply[2:])
            failed[partition] = _OtherBuckets("redis", "its clock cannot be followed")
        else:
            answers[partition] = [_answer(stream, partition, answer) for answer in reply]
    return failed


def _call(
    keys: partitions.PartitionKeys,
    stream: partitions.Stream,
    items: Sequence[Item],
    window: Window,
    declared: marks.Declared,
) -> client.Call:
    args: list[client.Arg] = [window.ttl_ms, len(declared), *itertools.chain(*declared)]
    for item in items:
        args += (
            item.tenant,
            item.mark,
            item.request,
            "" if item.expected is None else item.expected,
            "" if item.following is None else item.following,
            item.matched,
            len(item.fields),
        )
        args += item.fields
    return [keys.stream(stream), keys.ver, keys.idem, *window.keys(keys, declared)], args


def _answer(stream: str, partition: int, reply: bytes | list[bytes]) -> Answer:
    match reply:
        case bytes() as entry_id:
            return Appended(positions.of_entry(stream, partition, entry_id))
        case [b"duplicate", entry_id, matched]:
            return Duplicate(positions.of_entry(stream, partition, entry_id), envelope.decode_matched(matched))
        case [_, version]:
            return Stale(int(version))
    raise errors.StoreUnavailable("redis", "an append was answered in an unknown form")


class _Line:
    """Items that wait for the next flush, and how much one flush may carry."""

    def __init__(self) -> None:
        self.sending = batching.Sending(MAX_FLUSH)
        self.waiting: deque[tuple[int, Item, asyncio.Future[Answer]]] = deque()
        self.wake = asyncio.Event()


class GroupCommit:
    """Appends the events of a process together. `run` is its one background task; `close` flushes what waits."""

    def __init__(self, log: client.Log, window: Window, budget: budgets.Budget | None = None) -> None:
        self._log = log
        self._window = window
        self._budget = budget or budgets.Budget()
        self._small, self._large = self._lines = (_Line(), _Line())
        self._closed = False

    async def append(self, partition: int, item: Item) -> Answer:
        """Waits until `item` is in the log, or is known not to be. Raises errors.StoreUnavailable as `put`."""
        return await self.put(partition, item)

    def put(self, partition: int, item: Item) -> asyncio.Future[Answer]:
        """Takes `item` into the next flush; the answer comes with it. Raises errors.StoreUnavailable, which is
        errors.OverBudget where nothing was tried for want of memory."""
        if self._closed or len(self._small.waiting) + len(self._large.waiting) >= MAX_WAITING:
            raise errors.StoreUnavailable(
                "redis", "too many appends wait" if not self._closed else "shutting down"
            )
        if not self._budget.admits(partition, item.payload_bytes + item.fan_out_bytes):
            raise errors.OverBudget("redis", "the memory budget is used up")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        line = self._small if item.payload_bytes < LARGE_ITEM_BYTES else self._large
        line.waiting.append((partition, item, future))
        line.wake.set()
        return future

    async def run(self) -> None:
        """Flushes until `close` was called and nothing waits any more. If it is cancelled, nothing is taken any
        more and whoever waits hears so."""
        try:
            async with asyncio.TaskGroup() as group:
                for line in self._lines:
                    group.create_task(self._run(line))
        finally:
            self._closed = True
            for line in self._lines:
                _fail((future for *_, future in line.waiting), errors.StoreUnavailable("redis", "shutting down"))
                line.waiting.clear()

    async def _run(self, line: _Line) -> None:
        while line.waiting or not self._closed:
            if not line.waiting:
                line.wake.clear()
                await line.wake.wait()
                continue
            await self._flush(line)

    def close(self) -> None:
        """Takes no more; `run` ends when the last flush is answered."""
        self._closed = True
        for line in self._lines:
            line.wake.set()

    async def _flush(self, line: _Line) -> None:
        batches: dict[int, list[Item]] = defaultdict(list)
        futures: dict[int, list[asyncio.Future[Answer]]] = defaultdict(list)
        for _ in range(line.sending.cut(map(_size, line.waiting))):
            partition, item, future = line.waiting.popleft()
            batches[partition].append(item)
            futures[partition].append(future)
        began, behind = time.monotonic(), len(line.waiting)
        try:
            answers = await append(self._log, "evt", batches, self._window)
        except errors.OutpostError as exc:
            line.sending.failed()
            _fail(itertools.chain(*futures.values()), exc)
            if time.monotonic() - began >= APPEND_LIMIT_S - RETRY_PAUSE_S:  # so long have those behind waited, too
                _fail([line.waiting.popleft()[2] for _ in range(behind)], exc)
        except BaseException:
            _fail(itertools.chain(*futures.values()), errors.StoreUnavailable("redis", "the append was cut off"))
            raise
        else:
            line.sending.passed()
            for partition, waiting in futures.items():
                if partition in answers.failed:
                    _fail(waiting, answers.failed[partition])
                    continue
                for future, answer in zip(waiting, answers[partition], strict=True):
                    if not future.done():
                        future.set_result(answer)


def _size(waiting: tuple[int, Item, object]) -> int:
    item = waiting[1]
    return item.payload_bytes + len(item.matched) + OVERHEAD_BYTES


def _fail(futures: Iterable[asyncio.Future[Answer]], exc: errors.OutpostError) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(exc)
