"""Tasks for tests of the lanes, and how such a test tells them apart."""

from __future__ import annotations

from outpost.domain import delivery, events
from outpost.queue import base

P = 3


def task(tenant: str, destination: str, number: int, *, size: int = 10, created: int = 1) -> base.Task:
    """The first attempt of event `number` at a destination, with `size` bytes of payload."""
    id_ = delivery.TaskId(1, f"{number}-0", destination, created)
    event = events.Event(tenant, f"e{number}", 1, "t", "", True, {}, (), "admin/r", b"x" * size)
    return base.Task(P, str(id_), id_, event)


def again(first: base.Task, attempt: int = 2) -> base.Task:
    """The retry of a first attempt."""
    id_ = first.id._replace(attempt=attempt)
    return base.Task(first.partition, str(id_), id_, first.event)


def names(tasks: list[base.Task]) -> list[str]:
    """Tenant, destination and number of each."""
    return [f"{t.event.tenant}:{t.id.destination}:{t.id.event[:-2]}" for t in tasks]
