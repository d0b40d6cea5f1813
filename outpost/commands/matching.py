"""Which destinations an event goes to: those that are enabled, take its topic, and whose filter it fits.

Topics and filters are tenants' own, and so is the work of matching them. A publish does up to `LOOP_STEPS` of it
on the event loop. One that needs more is matched on a thread, in slices with pauses between them, one publish at a
time and tenants in turn, so the loop is never held up for longer than a slice. Beyond `filter_operators.MAX_STEPS`
a publish is refused: without a result its event would be neither a match nor none. A tenant that needed the thread
is matched there at once until its events need less, or it changes.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from collections.abc import AsyncIterator, Iterable

import msgspec

from outpost import errors, json_grammar
from outpost.domain import events, filters
from outpost.domain import filter_operators as ops
from outpost.domain import tenant as tenants
from outpost.domain import topics as topic_rules

LOOP_STEPS = 4_000  # of one publish on the event loop, 5 ms at worst; a common filter takes ten
SLICE_STEPS = 1_000  # on the thread before it pauses; the loop waits that long for the interpreter's lock
PAUSE_S = 0.002  # between slices: the thread has at most about a third of the interpreter
DEADLINE_S = 5.0  # for waiting and matching on the thread
MAX_WAITING = 256  # publishes that wait for the thread, each with its body
MAX_TENANT_WAITING = 16
MAX_COSTLY_TENANTS = 1_000  # that are remembered as needing the thread
FEW_TOPICS = 4  # so few in a destination are not counted,
FEW_DESTINATIONS = 100  # unless its tenant has more than these

Matches = tuple[events.Matched, ...]


class Publish(msgspec.Struct, frozen=True, gc=False):
    """A checked request. `time` is RFC 3339 UTC with milliseconds, `data` a JSON object as received."""

    tenant: str
    id: str
    topic: str
    time: str
    data: bytes
    destination: str | None = None
    eligible: bool = True
    metadata: dict[str, str] = {}


def match(state: tenants.TenantState, request: Publish, run: ops.Run, *, wildcards: bool = True) -> Matches:
    """The destinations of `state` that the event goes to. Takes its steps from `run`, which is this event's alone.
    `wildcards`: whether patterns of topics count. Raises filter_operators.Undecided."""
    matched = []
    many = len(state.destinations) > FEW_DESTINATIONS
    for destination in _among(state, request):
        if not destination.enabled:
            continue
        if many or len(destination.topics) > FEW_TOPICS:
            run.spend(topic_rules.cost(destination.topics))
        if not topic_rules.matches(destination.topics, request.topic, wildcards=wildcards):
            continue
        if destination.filter:
            if run.root is None:
                run.root = _document(request)
            if not filters.matches(destination.filter, run):
                continue
        matched.append(events.Matched(destination.id, destination.created))
    return tuple(matched)


class Matcher:
    """Matches the publishes of this process. `wildcards`: whether patterns of topics count."""

    def __init__(self, *, wildcards: bool = True) -> None:
        self._wildcards = wildcards
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "matching")
        self._costly: dict[str, int] = {}  # tenant -> the version of it that needed the thread
        self._turns: dict[str, asyncio.Lock] = {}  # of the tenants that wait; one publish of each is queued
        self._waiting: dict[str, int] = {}

    def at_once(self, state: tenants.TenantState, request: Publish) -> Matches | None:
        """The matches, or None if it takes the thread to find them."""
        return self._on_loop(state, request, ops.Run(steps=LOOP_STEPS))

    async def match(self, state: tenants.TenantState, request: Publish) -> Matches:
        """The matches. Raises errors.Invalid if the filters cost more than a publish may, and errors.Busy if the
        thread has too much to do."""
        run = ops.Run(steps=LOOP_STEPS)
        found = self._on_loop(state, request, run)
        return await self._on_thread(state, request, run.root) if found is None else found

    def _on_loop(self, state: tenants.TenantState, request: Publish, run: ops.Run) -> Matches | None:
        if self._costly and self._costly.get(request.tenant) == state.version:
            return None
        try:
            return match(state, request, run, wildcards=self._wildcards)
        except ops.Undecided:
            if len(self._costly) >= MAX_COSTLY_TENANTS:
                self._costly.clear()
            self._costly[request.tenant] = state.version
            return None

    async def _on_thread(self, state: tenants.TenantState, request: Publish, root: object) -> Matches:
        deadline = time.monotonic() + DEADLINE_S
        run = _PacedRun(root, deadline)
        async with self._turn(request.tenant):
            try:
                loop = asyncio.get_running_loop()
                found = await loop.run_in_executor(
                    self._thread, _match_paced, state, request, run, self._wildcards
                )
            except _TooLate:
                raise errors.Busy("matching") from None
            except ops.Undecided:
                text = f"the filters of the tenant need more than {ops.MAX_STEPS} steps over this event"
                raise errors.Invalid([errors.Problem("data", "filters", text=text)]) from None
        if ops.MAX_STEPS - run.steps <= LOOP_STEPS:
            self._costly.pop(request.tenant, None)
        return found

    @contextlib.asynccontextmanager
    async def _turn(self, tenant: str) -> AsyncIterator[None]:
        """The turn of a tenant, whose publishes are matched one after the other. Raises errors.Busy."""
        waiting = self._waiting
        if sum(waiting.values()) >= MAX_WAITING or waiting.get(tenant, 0) >= MAX_TENANT_WAITING:
            raise errors.Busy("matching")
        waiting[tenant] = waiting.get(tenant, 0) + 1
        lock = self._turns.setdefault(tenant, asyncio.Lock())
        try:
            try:
                async with asyncio.timeout(DEADLINE_S):
                    await lock.acquire()
            except TimeoutError:
                raise errors.Busy("matching") from None
            try:
                yield
            finally:
                lock.release()
        finally:
            waiting[tenant] -= 1
            if not waiting[tenant]:
                del waiting[tenant], self._turns[tenant]


class _TooLate(Exception):
    """The deadline of a publish has passed."""


class _PacedRun(ops.Run):
    """A run on a thread, which gives the interpreter away after every slice."""

    __slots__ = ("_deadline", "_pause_at")

    def __init__(self, root: object, deadline: float) -> None:
        super().__init__(root)
        self._deadline = deadline
        self._pause_at = self.steps - SLICE_STEPS

    def spend(self, steps: int = 1) -> None:
        """As `Run`. Raises _TooLate as well."""
        self.steps -= steps
        if self.steps < self._pause_at:
            self.pause()

    def pause(self) -> None:
        """Lets the event loop run. Raises Undecided and _TooLate."""
        if self.steps < 0:
            raise ops.Undecided
        if time.monotonic() > self._deadline:
            raise _TooLate
        time.sleep(PAUSE_S)
        self._pause_at = self.steps - SLICE_STEPS


def _match_paced(state: tenants.TenantState, request: Publish, run: _PacedRun, wildcards: bool) -> Matches:
    run.pause()
    return match(state, request, run, wildcards=wildcards)


def _among(state: tenants.TenantState, request: Publish) -> Iterable[tenants.Destination]:
    """The destinations that the request leaves to choose from."""
    if request.destination is None:
        return state.destinations.values()
    named = state.destinations.get(request.destination)
    return () if named is None else (named,)


def _document(request: Publish) -> dict[str, object]:
    seconds = f"{request.time[:19]}Z"  # filters see the time without its fraction
    data = json_grammar.decode(request.data)
    return filters.document(request.id, request.topic, seconds, request.metadata, data)
