"""Which look-up runs next: a pure queue that shares the resolver's threads between tenants.

A look-up that blocks cannot be stopped, so what a slow one may hold is decided before it starts. There are three
levels. Names that were answered promptly last time may use every thread. Names that nobody has looked up before
leave some threads for those. Names that were slow last time, and new names of a tenant that had a slow one lately,
leave most of the threads for the two other levels. Each level has some threads that no other level keeps from it.
Within a level the tenants take turns, and each of them runs no more than its share at once.
"""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from typing import Generic, TypeVar

V = TypeVar("V")

THREADS = 128  # a slow one costs some 50 kB and no CPU
UNPROVEN_THREADS = 112  # of them for look-ups that are not known to be prompt
DOUBTFUL_THREADS = 32  # of them for look-ups that are expected to be slow
GUARANTEED_THREADS = 8  # of each level: the next free thread is its own while it runs less
TENANT_THREADS = 8  # of one tenant at once
DOUBTFUL_TENANT_THREADS = 2  # of one tenant at once, where they are expected to be slow
MAX_TENANT_WAITING = 1_000  # look-ups of one tenant that wait for a thread


class Level(enum.IntEnum):
    """How long a look-up is expected to hold its thread; the lower, the sooner it is over."""

    PROMPT = 0
    UNPROVEN = 1
    DOUBTFUL = 2


_THREADS = {Level.PROMPT: THREADS, Level.UNPROVEN: UNPROVEN_THREADS, Level.DOUBTFUL: DOUBTFUL_THREADS}
_TENANT_THREADS = {
    Level.PROMPT: TENANT_THREADS,
    Level.UNPROVEN: TENANT_THREADS,
    Level.DOUBTFUL: DOUBTFUL_TENANT_THREADS,
}


class Job(Generic[V]):
    """One look-up of `name`, for everybody who waits for it. `level` and `tenant` are those under which it runs;
    `places` are the tenants under which it waits, with its level there."""

    __slots__ = ("level", "name", "overdue", "places", "started", "tenant", "timer", "waiters")

    def __init__(self, name: str) -> None:
        self.name = name
        self.tenant = ""
        self.level = Level.UNPROVEN
        self.places: dict[str, Level] = {}
        self.started: float | None = None  # the loop's clock
        self.overdue = False
        self.timer: asyncio.TimerHandle | None = None
        self.waiters: set[asyncio.Future[V]] = set()


class Turns(Generic[V]):
    """Look-ups that wait for a thread, and the count of those that run."""

    def __init__(self) -> None:
        self._waiting: dict[Level, dict[str, dict[Job[V], None]]] = {level: {} for level in Level}
        self._waiting_of: Counter[str] = Counter()
        self._running: Counter[Level] = Counter()
        self._running_of: Counter[str] = Counter()

    @property
    def running(self) -> int:
        """The look-ups that hold a thread."""
        return self._running.total()

    def add(self, job: Job[V], tenant: str, level: Level) -> bool:
        """Puts `job` behind the others of `tenant`; False if that tenant has too many waiting."""
        if tenant in job.places:
            return True
        if self._waiting_of[tenant] >= MAX_TENANT_WAITING:
            return False
        job.places[tenant] = level
        self._waiting_of[tenant] += 1
        self._waiting[level].setdefault(tenant, {})[job] = None
        return True

    def remove(self, job: Job[V]) -> None:
        """Takes out a look-up that waits."""
        for tenant, level in job.places.items():
            waiting = self._waiting[level][tenant]
            del waiting[job]
            if not waiting:
                del self._waiting[level][tenant]
            _decrement(self._waiting_of, tenant)
        job.places.clear()

    def start(self) -> Job[V] | None:
        """The look-up that a free thread is to run, counted as running; None if there is none that may."""
        allowed = self._allowed()
        if not allowed:
            return None
        short = (each for each in allowed if self._running[each[0]] < GUARANTEED_THREADS)
        level, tenant = next(short, allowed[0])
        job = next(iter(self._waiting[level][tenant]))
        self.remove(job)
        if tenant in self._waiting[level]:  # its turn comes last now
            self._waiting[level][tenant] = self._waiting[level].pop(tenant)
        job.level, job.tenant = level, tenant
        self._running[level] += 1
        self._running_of[tenant] += 1
        return job

    def end(self, job: Job[V]) -> None:
        """A look-up that ran has given its thread back."""
        self._running[job.level] -= 1
        _decrement(self._running_of, job.tenant)

    def slow(self, job: Job[V]) -> None:
        """`job`, which runs, is slow: it counts as such, and so do the new names of its tenant that wait."""
        self._running[job.level] -= 1
        job.level = Level.DOUBTFUL
        self._running[job.level] += 1
        moved = self._waiting[Level.UNPROVEN].pop(job.tenant, {})
        for each in moved:
            each.places[job.tenant] = Level.DOUBTFUL
        if moved:
            self._waiting[Level.DOUBTFUL].setdefault(job.tenant, {}).update(moved)

    def _allowed(self) -> list[tuple[Level, str]]:
        """The levels that may start a look-up now, the most prompt first, each with the tenant that is next."""
        allowed = []
        running = 0
        for level in reversed(Level):  # those of a level and of the slower ones share its limit
            running += self._running[level]
            if running < _THREADS[level] and (tenant := self._next_tenant(level)) is not None:
                allowed.append((level, tenant))
        return allowed[::-1]

    def _next_tenant(self, level: Level) -> str | None:
        """No more tenants are passed over than can have their share running."""
        most = _TENANT_THREADS[level]
        return next((tenant for tenant in self._waiting[level] if self._running_of[tenant] < most), None)


def _decrement(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
