"""What a delivery is: one event on its way to one destination, in numbered attempts.

Task ids, outcomes and the retry schedule; all pure. A task id names one attempt and is unique within its
partition: `attempt/ms-seq/destination@creation-version`.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class TaskId(NamedTuple):
    """`attempt` counts from 1; `event` is the entry id (`ms-seq`) of the event in `evt`; `created` is the
    tenant version that made the destination, so that a re-created namesake is another destination."""

    attempt: int
    event: str
    destination: str
    created: int

    def __str__(self) -> str:
        return f"{self.attempt}/{self.event}/{self.destination}@{self.created}"


def parse_task_id(text: str) -> TaskId:
    """The inverse of `str`. Destination ids may hold `/` and `@`. Raises ValueError."""
    attempt, event, rest = text.split("/", 2)
    destination, _, created = rest.rpartition("@")
    ms, _, seq = event.partition("-")
    if not (
        destination
        and attempt.isascii()
        and attempt.isdigit()
        and created.isascii()
        and created.isdigit()
        and ms.isascii()
        and ms.isdigit()
        and seq.isascii()
        and seq.isdigit()
    ):
        raise ValueError("not a task id")
    return TaskId(int(attempt), event, destination, int(created))


class Delivered(msgspec.Struct, frozen=True, tag="delivered"):
    """The destination took the event. `code` is a word or HTTP digits; `response` is JSON-able."""

    code: str
    response: dict[str, object] | None = None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The attempt failed. `retryable` is False where trying again cannot help."""

    code: str
    response: dict[str, object] | None = None
    retryable: bool = True


Outcome = Delivered | Failed


class RetryPolicy(msgspec.Struct, frozen=True):
    """When the next automatic attempt is made. A schedule replaces interval and limit, its last entry repeats
    (reached by manual attempts only, since its length is the limit)."""

    interval_ms: int = 30_000
    max_retries: int = 10
    schedule_ms: tuple[int, ...] = ()

    def delay_ms(self, attempt: int) -> int | None:
        """Milliseconds from the failure of `attempt` (from 1) to the next one; None: no further attempt."""
        limit = len(self.schedule_ms) or self.max_retries
        if attempt > limit:
            return None
        if self.schedule_ms:
            return self.schedule_ms[min(attempt, len(self.schedule_ms)) - 1]
        return min(self.interval_ms << (attempt - 1), MAX_DELAY_MS)


MAX_DELAY_MS = 9_999_999_000  # the published ceiling of a delay, 9,999,999 s
