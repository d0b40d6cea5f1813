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
    """The attempt failed. `retryable` is False where trying again cannot help; `gone`: the destination says that
    it is for good, and is to be disabled. `retry_after_ms`: when it wants the next attempt, from now."""

    code: str
    response: dict[str, object] | None = None
    retryable: bool = True
    gone: bool = False
    retry_after_ms: int | None = None


Outcome = Delivered | Failed


class RetryPolicy(msgspec.Struct, frozen=True):
    """When the next automatic attempt is made. A schedule replaces interval and limit; its length is the limit.

    `jitter` (0 to 1) spreads a delay by that part of it, either way. What a destination asks for takes the place
    of a delay, up to `retry_after_max_ms` (0: it is not listened to), and never makes attempts more or fewer.
    """

    interval_ms: int = 30_000
    max_retries: int = 10
    schedule_ms: tuple[int, ...] = ()
    jitter: float = 0.0
    retry_after_max_ms: int = 3_600_000

    def delay_ms(self, attempt: int, asked_ms: int | None = None, chance: float = 0.5) -> int | None:
        """Milliseconds from a failure to the next automatic attempt, after `attempt` automatic ones; None: no
        further attempt. Before the first automatic attempt the delay is that after the first.

        `asked_ms` is what the destination asked for, `chance` a random number from 0 to 1 for the jitter, which
        makes what was asked for later but never earlier.
        """
        limit = len(self.schedule_ms) or self.max_retries
        if attempt > limit:
            return None
        if asked_ms is not None and self.retry_after_max_ms:
            asked_ms = min(max(asked_ms, MIN_RETRY_AFTER_MS), self.retry_after_max_ms)
            return round(asked_ms * (1 + self.jitter * chance))
        if self.schedule_ms:
            delay_ms = self.schedule_ms[max(attempt, 1) - 1]
        else:
            delay_ms = min(self.interval_ms << (max(attempt, 1) - 1), MAX_DELAY_MS)
        return min(round(delay_ms * (1 + self.jitter * (2 * chance - 1))), MAX_DELAY_MS)

    @property
    def longest_ms(self) -> int:
        """The longest delay that `delay_ms` can return."""
        limit = len(self.schedule_ms) or self.max_retries
        delays = [self.delay_ms(attempt, chance=1.0) or 0 for attempt in range(1, limit + 1)]
        return max(*delays, round(self.retry_after_max_ms * (1 + self.jitter)), 0)


MAX_DELAY_MS = 9_999_999_000  # the published ceiling of a delay, 9,999,999 s
MIN_RETRY_AFTER_MS = 1_000  # the shortest delay that a schedule may have: a destination cannot ask for a busy loop
