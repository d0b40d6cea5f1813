"""What a process knows of itself, for /healthz and /readyz: which loops run, and what is in their way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from outpost.process import loops
from outpost.process.roles import base

# The published names of workers, which monitors look for, each with the loops that do its work here.
PUBLISHED_WORKERS = {
    "retrymq-consumer": ("scheduler",),
    "publishmq-consumer": ("publish-queue",),
    "deliverymq-consumer": ("dispatcher", "worker"),
    "logmq-consumer": ("log-projector",),
}


class Readiness:
    """Knows nothing until `observe` is called, as long as a process starts."""

    def __init__(self) -> None:
        self._loops = loops.Loops(())
        self._roles: Sequence[base.Role] = ()

    def observe(self, running: loops.Loops, roles: Sequence[base.Role]) -> None:
        """Speaks of these from now on."""
        self._loops, self._roles = running, roles

    def workers(self) -> Mapping[str, bool]:
        """Whether each background loop of this process runs, by its name, and by the published one of the worker
        whose work it does."""
        running = self._loops.running()
        published = {
            name: all(running[loop] for loop in doing)
            for name, doing in PUBLISHED_WORKERS.items()
            if all(loop in running for loop in doing)
        }
        return {**running, **published}

    def obstacles(self) -> Sequence[str]:
        """Why this process cannot do its work now: a store is away, or memory is used up."""
        found = [reason for role in self._roles for reason in role.obstacles()]
        return _distinct([*self._reasons(required=True), *found])

    def setbacks(self) -> Sequence[str]:
        """What works only in part: for some partitions, or without the log projection."""
        found = [reason for role in self._roles for reason in role.setbacks()]
        return _distinct([*self._reasons(required=False), *found])

    def _reasons(self, *, required: bool) -> list[str]:
        return [each.health.reason for each in self._loops.loops if each.health and each.required == required]


def _distinct(reasons: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, reasons)))
