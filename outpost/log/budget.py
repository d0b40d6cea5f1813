"""How much memory the log may take, and whose events are refused before Redis itself refuses.

At the limit every partition is refused, near it those that take more than their share. An eighth more is for tasks
that are made live, and what is left over is for attempts, so that deliveries go on and the trim can follow.
Between two looks (see `usage`) a process takes no more than half of what was left.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from outpost import telemetry
from outpost.log import partition as partitions

OF_MAXMEMORY = 0.8  # the limit as to the server: beyond it, attempts alone are written
PRESSURE = 0.75  # of the limit, from which on a partition may take no more than its share of it
BACK = 0.95  # of a bound that was passed; below it publishing goes on
ENTRY_BYTES = 1_100  # of an event beside its payload: entry, task, one attempt, dedupe mark (measured)
TASK_BYTES = 115  # of a live task beside its text (measured: 160 with a text of 45)
OPENING = 9 / 8  # of the limit, up to which tasks are made live: 90 % of maxmemory

_ALL = (1 << partitions.PARTITIONS) - 1
_UNLIMITED = 1 << 62
_TASK_HEAD_BYTES = 18  # attempt and event in the text of a task


class Usage(msgspec.Struct, frozen=True):
    """Bytes: what each partition takes, what the whole server does and may (`maxmemory`; 0: what it wants)."""

    partitions: tuple[int, ...]
    server: int
    maxmemory: int


class Judgement(msgspec.Struct, frozen=True):
    """`refused` is a bit for each partition; `allowance` the bytes that may be admitted before the next look,
    `opening` those of the tasks that may be made live."""

    refused: int
    allowance: int
    opening: int = _UNLIMITED


def judge(usage: Usage, budget: int, before: int = 0) -> Judgement:
    """Whom to refuse, with `budget` bytes for all partitions (0: what maxmemory leaves) and `before` refused."""
    bounds = [(sum(usage.partitions), budget), (usage.server, int(usage.maxmemory * OF_MAXMEMORY))]
    bounds = [(used, limit) for used, limit in bounds if limit]
    if not bounds:
        return Judgement(0, _UNLIMITED)
    filled = max(used / limit for used, limit in bounds)
    opening = max(0, int(min(limit * OPENING - used for used, limit in bounds)) // 2)
    if filled >= (BACK if before == _ALL else 1):
        return Judgement(_ALL, 0, opening)
    refused, share = 0, min(limit for _, limit in bounds) // partitions.PARTITIONS
    for partition, used in enumerate(usage.partitions):
        back = BACK if before >> partition & 1 else 1
        if filled >= PRESSURE * back and used >= share * back:
            refused |= 1 << partition
    return Judgement(refused, min(limit - used for used, limit in bounds) // 2, opening)


def task_bytes(texts: Sequence[str]) -> int:
    """What these tasks take once they are live."""
    return sum(map(len, texts)) + TASK_BYTES * len(texts)


def fan_out_bytes(matched: bytes, count: int) -> int:
    """What an event with so many matches takes beyond `ENTRY_BYTES`: the matches that its mark holds, and the
    tasks that they become. `matched` is the encoded array, which names each destination as its task does."""
    if count <= 1:
        return len(matched)
    return len(matched) + (count - 1) * (len(matched) // count + _TASK_HEAD_BYTES + TASK_BYTES)


class Budget:
    """One a process that publishes; it admits everything until it is told of a usage."""

    def __init__(self, budget_bytes: int = 0) -> None:
        self._budget_bytes = budget_bytes
        self._refused = 0
        self._allowance = _UNLIMITED
        self._opening = _UNLIMITED

    def admits(self, partition: int, payload_bytes: int) -> bool:
        """Whether an event may be appended now; counts it."""
        self._allowance -= payload_bytes + ENTRY_BYTES
        return self._allowance > 0 and not self._refused >> partition & 1

    def opens(self, size: int) -> bool:
        """Whether tasks that take `size` bytes may be made live now; counts them. One call may pass the bound,
        so that an event goes through however many matches it has."""
        if self._opening <= 0:
            return False
        self._opening -= size
        return True

    @property
    def refused(self) -> Sequence[int]:
        """The partitions that are refused."""
        return [p for p in range(partitions.PARTITIONS) if self._refused >> p & 1]

    def judge(self, usage: Usage) -> None:
        """Goes by `usage` from now on; says so when that refuses others than before."""
        judged = judge(usage, self._budget_bytes, self._refused)
        if judged.refused and not self._refused:
            telemetry.emit(
                "budget_exceeded",
                "warning",
                partitions_refused=judged.refused.bit_count(),
                log_bytes=sum(usage.partitions),
                server_bytes=usage.server,
                maxmemory_bytes=usage.maxmemory,
            )
        if self._refused and not judged.refused:
            telemetry.emit("budget_kept", log_bytes=sum(usage.partitions), server_bytes=usage.server)
        self._refused, self._allowance, self._opening = judged.refused, judged.allowance, judged.opening
