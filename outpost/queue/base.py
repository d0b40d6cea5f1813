"""The seam between the dispatcher and the workers: a queue that may lose, double and delay what it carries.

Nothing depends on it for safety: a task is live as long as it stands in `due`, and comes back when its watchdog
ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec

from outpost import telemetry
from outpost.domain import delivery, events


class Task(msgspec.Struct, frozen=True, gc=False):
    """One attempt to be made. `text` is the task id as Redis knows it, `event` the event itself; not `loaded`:
    without its data and metadata, which are to be read again."""

    partition: int
    text: str
    id: delivery.TaskId
    event: events.Event
    loaded: bool = True

    @property
    def lane(self) -> tuple[str, str, int]:
        """Whose turn it takes: the destination, with what tells it from a namesake."""
        return self.event.tenant, self.id.destination, self.id.created

    @property
    def payload_bytes(self) -> int:
        """How much of memory the event's data and metadata take, about; 0 where they were left out."""
        event = self.event
        if not event.metadata:
            return len(event.data)
        return len(event.data) + sum(len(key) + len(value) for key, value in event.metadata.items())

    def unloaded(self) -> Task:
        """The same without data and metadata."""
        event = msgspec.structs.replace(self.event, data=b"", metadata={})
        return msgspec.structs.replace(self, event=event, loaded=False)


class Receiver(Protocol):
    """The far end: the lanes of a process."""

    def receive(self, tasks: Sequence[Task]) -> None:
        """Takes tasks that are to be delivered; never blocks, never refuses."""

    @property
    def full(self) -> bool:
        """Whether nothing more is to be read from the log for now."""

    def hungry(self, enough: int) -> bool:
        """Whether fewer than `enough` of what waits may be sent at once."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a queue says of itself, for an operator. Times are Unix ms, None where there was none.

    `through`: where first attempts go now, `broker` or `process`. `away`: the broker was never reached, or not for
    half a minute. `counts` are messages since the start, by what
    became of them; `lag_ms` is the age of the last chunk that arrived."""

    broker: str
    names: dict[str, str] = {}
    through: str = "process"
    reached_since_ms: int | None = None
    away: bool = False
    last_error: str = ""
    last_error_ms: int | None = None
    lag_ms: int | None = None
    counts: dict[str, int] = {}


class Queue(Protocol):
    """Carries first attempts from dispatchers to the lanes of a process."""

    health: telemetry.Health

    async def prepare(self) -> list[str]:
        """At the start: every problem that is certain, a sentence each. A broker that does not answer is none."""

    async def publish(self, tasks: Sequence[Task]) -> None:
        """Takes tasks for good; returns once more may come. Raises nothing of a broker."""

    @property
    def hungry(self) -> bool:
        """Whether the dispatcher is to read on."""

    async def run(self, stop: asyncio.Event) -> None:
        """Connects, receives and connects again; ends only at `stop`, and then what it still has is in the
        lanes."""

    def state(self) -> State:
        """What it says of itself."""
