"""Names to judged addresses: looked up once for all who ask, judged, and kept for a while.

Names go through the system's resolver (`getaddrinfo`), because operators expect of a name in a destination what
every other program on the machine makes of it: /etc/hosts, search domains, the order of nsswitch.conf with mDNS
(`.local`), systemd-resolved or a directory service, and the name servers of Docker and Kubernetes. A stub resolver
without threads (c-ares by aiodns, dnspython) knows only files and DNS, so it would answer some of these otherwise.
The price is a thread for each look-up that is under way, which `lookup_turns` shares out.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from outpost.adapters.egress import guard as egress
from outpost.adapters.egress import kept_names, lookup_turns

KEEP_SECONDS = 30.0  # how long a verdict stands; the system's resolver does not tell the record's own lifetime
KEEP_FAILURE_SECONDS = 3.0  # so that a name that is repaired, or no longer refused, works soon
MAX_KEEP_FAILURE_SECONDS = 30.0  # of a name that took long to fail
KEEP_FAILURE_FACTOR = 3  # times the time it took: it then holds a thread for a quarter of the time at most
SLOW_SECONDS = 1.0  # a look-up that takes longer counts as slow
LOOKUP_SECONDS = 10.0  # then those who wait are told that there is no address
DOUBT_SECONDS = 60.0  # how long a tenant's new names are doubted after one that was slow
IDLE_THREAD_SECONDS = 30.0  # how often threads that have nothing to do are ended
MAX_DOUBTED_TENANTS = 10_000

Lookup = Callable[[str], Sequence[str]]  # blocking; raises OSError or ValueError where there is no address


class Resolved(msgspec.Struct, frozen=True):
    """Every address of the name, all of them permitted."""

    addresses: tuple[str, ...]


class Unresolved(msgspec.Struct, frozen=True):
    """The name has no address, or nobody could say."""


Verdict = Resolved | Unresolved | egress.Refused
Job = lookup_turns.Job[Verdict]
UNRESOLVED = Unresolved()


def system_lookup(name: str) -> list[str]:
    """The addresses that the system's resolver gives, in its order of preference."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(address[0]) for family, *_, address in found if family in (socket.AF_INET, socket.AF_INET6)]


class Names:
    """One for a process. Belongs to the event loop of its first `resolve`."""

    def __init__(self, guard: egress.Guard, lookup: Lookup = system_lookup) -> None:
        self._guard = guard
        self._lookup = lookup
        self._loop: asyncio.AbstractEventLoop | None = None
        self._kept: kept_names.KeptNames[Verdict] = kept_names.KeptNames()
        self._asked: dict[str, Job] = {}
        self._turns: lookup_turns.Turns[Verdict] = lookup_turns.Turns()
        self._doubted: OrderedDict[str, float] = OrderedDict()  # tenant -> until when its new names are doubted
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = 0
        self._trimmer: asyncio.TimerHandle | None = None
        self._closed = False

    async def resolve(self, name: str, tenant: str) -> Verdict:
        """The verdict on `name`, which `tenant` asks for. The caller cancels at its own deadline; a look-up that
        runs is over for everybody after `LOOKUP_SECONDS`."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        kept = self._kept.get(name)
        if kept is not None and loop.time() < kept.until:
            return kept.verdict
        job = self._asked.get(name)
        if self._closed or (job is not None and job.overdue):
            return UNRESOLVED
        if job is None:
            job = lookup_turns.Job(name)
        if job.started is None and not self._turns.add(job, tenant, self._level(loop, kept, tenant)):
            return UNRESOLVED
        self._asked[name] = job
        waiter: asyncio.Future[Verdict] = loop.create_future()
        job.waiters.add(waiter)
        self._start(loop)
        try:
            return await waiter
        finally:
            job.waiters.discard(waiter)
            if not job.waiters and job.places:  # nobody waits for it, and it has not begun
                self._turns.remove(job)
                del self._asked[name]

    def close(self) -> None:
        """Ends the threads that are idle; the others end with their look-up. Those who wait get no address."""
        self._closed = True
        if self._trimmer is not None:
            self._trimmer.cancel()
        for _ in range(self._threads):
            self._jobs.put(None)
        for job in list(self._asked.values()):
            if job.places:
                self._turns.remove(job)
            self._answer(job, UNRESOLVED)
        self._asked.clear()

    def _level(
        self, loop: asyncio.AbstractEventLoop, kept: kept_names.Entry[Verdict] | None, tenant: str
    ) -> lookup_turns.Level:
        if kept is not None:
            return lookup_turns.Level.PROMPT if kept.prompt else lookup_turns.Level.DOUBTFUL
        doubted = self._doubted.get(tenant, 0.0) > loop.time()
        return lookup_turns.Level.DOUBTFUL if doubted else lookup_turns.Level.UNPROVEN

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts what may be started now."""
        while not self._closed and (job := self._turns.start()) is not None:
            job.started = loop.time()
            job.timer = loop.call_later(SLOW_SECONDS, self._slow, loop, job)
            if self._threads < self._turns.running:
                self._threads += 1
                threading.Thread(target=self._work, args=(loop,), name="outpost-dns", daemon=True).start()
            self._jobs.put(job)

    def _slow(self, loop: asyncio.AbstractEventLoop, job: Job) -> None:
        self._turns.slow(job)
        self._doubted[job.tenant] = loop.time() + DOUBT_SECONDS
        self._doubted.move_to_end(job.tenant)
        if len(self._doubted) > MAX_DOUBTED_TENANTS:
            self._doubted.popitem(last=False)
        job.timer = loop.call_later(LOOKUP_SECONDS - SLOW_SECONDS, self._late, loop, job)

    def _late(self, loop: asyncio.AbstractEventLoop, job: Job) -> None:
        """The thread stays with its look-up; should that end well after all, the next who asks has it."""
        job.timer = None
        job.overdue = True
        self._learn(loop, job, UNRESOLVED)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while (job := self._jobs.get()) is not None:
            verdict = self._judged(job.name)
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._ended, loop, job, verdict)

    def _judged(self, name: str) -> Verdict:
        try:
            addresses = self._lookup(name)
        except (OSError, ValueError):
            return UNRESOLVED
        if not addresses:
            return UNRESOLVED
        permitted = self._guard.trusts(name) or self._guard.permits_all(addresses)
        return Resolved(tuple(addresses)) if permitted else egress.REFUSED

    def _ended(self, loop: asyncio.AbstractEventLoop, job: Job, verdict: Verdict) -> None:
        self._turns.end(job)
        if job.timer is not None:
            job.timer.cancel()
        if not self._closed:
            del self._asked[job.name]
            self._learn(loop, job, verdict)
            self._start(loop)
            if self._trimmer is None:
                self._trimmer = loop.call_later(IDLE_THREAD_SECONDS, self._trim, loop)

    def _trim(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends the threads that have nothing to do, and comes again while others have."""
        for _ in range(self._threads - self._turns.running):
            self._jobs.put(None)
        self._threads = self._turns.running
        self._trimmer = loop.call_later(IDLE_THREAD_SECONDS, self._trim, loop) if self._threads else None

    def _learn(self, loop: asyncio.AbstractEventLoop, job: Job, verdict: Verdict) -> None:
        assert job.started is not None
        now = loop.time()
        took = now - job.started
        keep = KEEP_SECONDS
        if not isinstance(verdict, Resolved):
            keep = min(max(KEEP_FAILURE_SECONDS, KEEP_FAILURE_FACTOR * took), MAX_KEEP_FAILURE_SECONDS)
        entry: kept_names.Entry[Verdict] = kept_names.Entry(verdict, now + keep, took < SLOW_SECONDS, job.tenant)
        self._kept.put(job.name, entry)
        self._answer(job, verdict)

    def _answer(self, job: Job, verdict: Verdict) -> None:
        for waiter in job.waiters:
            if not waiter.done():
                waiter.set_result(verdict)
