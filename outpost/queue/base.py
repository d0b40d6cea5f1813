"""The seam between the dispatcher and the workers: a queue that may lose, double and delay what it carries.

Nothing depends on it for safety: a task is live as long as it stands in `due`, and comes back when its watchdog
ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

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


class Queue(Protocol):
    """Carries tasks from dispatchers and schedulers to workers."""

    async def publish(self, tasks: Sequence[Task]) -> None:
        """Hands tasks over. Raises errors.StoreUnavailable if the queue is away: the watchdog brings them back."""
