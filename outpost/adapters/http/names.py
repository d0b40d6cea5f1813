"""Names to judged addresses: looked up in threads of our own, once for all who ask, and kept for a while.

The system's resolver can block for tens of seconds, so it gets daemon threads, which neither starve other users
of the loop's executor nor hold up the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from outpost.adapters import egress

THREADS = 16  # look-ups at one time; a dead name server holds one for about ten seconds
KEEP_SECONDS = 30.0  # how long a verdict stands; the system's resolver does not tell the record's own lifetime
KEEP_FAILURE_SECONDS = 3.0  # so that a name that is repaired works soon
MAX_KEPT = 10_000

Lookup = Callable[[str], Sequence[str]]  # blocking; raises OSError or UnicodeError where there is no address


class Resolved(msgspec.Struct, frozen=True):
    """Every address of the name, all of them permitted."""

    addresses: tuple[str, ...]


class Unresolved(msgspec.Struct, frozen=True):
    """The name has no address, or nobody could say."""


Verdict = Resolved | Unresolved | egress.Refused
UNRESOLVED = Unresolved()


def system_lookup(name: str) -> list[str]:
    """The addresses that the system's resolver gives, in its order of preference."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(address[0]) for family, *_, address in found if family in (socket.AF_INET, socket.AF_INET6)]


class Names:
    """Belongs to one event loop."""

    def __init__(self, guard: egress.Guard, lookup: Lookup = system_lookup) -> None:
        self._guard = guard
        self._lookup = lookup
        self._loop = asyncio.get_running_loop()
        self._kept: OrderedDict[str, tuple[float, Verdict]] = OrderedDict()
        self._asked: dict[str, asyncio.Future[Verdict]] = {}
        self._jobs: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._threads = 0
        self._closed = False

    async def resolve(self, name: str) -> Verdict:
        """The verdict on `name`. Waits as long as the resolver does; the caller cancels at its deadline."""
        kept = self._kept.get(name)
        if kept is not None and time.monotonic() < kept[0]:
            return kept[1]
        if self._closed:
            return UNRESOLVED
        asked = self._asked.get(name)
        if asked is None:
            asked = self._asked[name] = self._loop.create_future()
            if self._threads < min(THREADS, len(self._asked)):
                self._threads += 1
                threading.Thread(target=self._work, name="outpost-dns", daemon=True).start()
            self._jobs.put(name)
        return await asyncio.shield(asked)  # one who gives up must not take the others with it

    def close(self) -> None:
        """Ends the threads that are idle; the others end with their look-up."""
        self._closed = True
        for _ in range(self._threads):
            self._jobs.put(None)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_result(UNRESOLVED)
        self._asked.clear()

    def _work(self) -> None:
        while (name := self._jobs.get()) is not None:
            verdict = self._judged(name)
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._learn, name, verdict)

    def _judged(self, name: str) -> Verdict:
        try:
            addresses = self._lookup(name)
        except (OSError, UnicodeError):
            return UNRESOLVED
        if not addresses:
            return UNRESOLVED
        permitted = self._guard.trusts(name) or self._guard.permits_all(addresses)
        return Resolved(tuple(addresses)) if permitted else egress.REFUSED

    def _learn(self, name: str, verdict: Verdict) -> None:
        seconds = KEEP_FAILURE_SECONDS if isinstance(verdict, Unresolved) else KEEP_SECONDS
        self._kept[name] = (time.monotonic() + seconds, verdict)
        self._kept.move_to_end(name)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        asked = self._asked.pop(name, None)
        if asked is not None and not asked.done():
            asked.set_result(verdict)
