"""Whether the log lists what was accepted. `wait_for_probes` asks for a few ids only, cheaply and often, to
time the moment when the log has caught up; `read` pages everything once and counts by distinct id.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from time import monotonic

from outpost import errors
from outpost.cli.bench import target as bench_target
from outpost.cli.bench import wire

PROBE_EVENTS = 32
POLL_S = 0.1
SUCCESS = "success"


class Listed:
    """What the log lists of the run: event numbers, delivered (event, destination) pairs, and what is odd."""

    def __init__(self, run: str, tenants: int, fan_out: int) -> None:
        self._event = re.compile(re.escape(wire.event_prefix(run)) + rf"(\d{{{wire.DIGITS}}})")
        self._destination = re.compile(re.escape(wire.destination_prefix(run)) + r"(\d+)")
        self._tenants = tenants
        self._fan_out = fan_out
        self.events: set[int] = set()
        self.deliveries: set[int] = set()
        self._attempts: set[tuple[int, int]] = set()
        self.doubled_events = self.doubled_attempts = self.failed_attempts = self.foreign = 0

    def add_event(self, row: bench_target.Event) -> None:
        """Count a row of GET /events."""
        found = self._event.fullmatch(row.id)
        if found is None:
            self.foreign += 1
            return
        number = int(found[1])
        self.doubled_events += number in self.events
        self.events.add(number)

    def add_attempt(self, row: bench_target.Attempt) -> None:
        """Count a row of GET /attempts: retries are attempts of their own, the same number twice is a double."""
        event, destination = self._event.fullmatch(row.event_id), self._destination.fullmatch(row.destination_id)
        if event is None or destination is None:
            self.foreign += 1
            return
        number = int(event[1])
        tenant, place = divmod(int(destination[1]), self._fan_out)
        if number % self._tenants != tenant:
            self.foreign += 1
            return
        key = wire.key_of(number, place, self._fan_out)
        attempt = (key, row.attempt_number)
        self.doubled_attempts += attempt in self._attempts
        self._attempts.add(attempt)
        if row.status == SUCCESS:
            self.deliveries.add(key)
        else:
            self.failed_attempts += 1


class Log:
    """The log of one run on the target."""

    def __init__(self, target: bench_target.Target, run: str, tenants: int, fan_out: int) -> None:
        self._target = target
        self._run = run
        self._tenants = tenants
        self._fan_out = fan_out

    async def wait_for_probes(self, numbers: Sequence[int], limit_s: float) -> bool:
        """Wait until the last accepted events and a spread of the others are listed with all their deliveries."""
        probes = pick(numbers, max(1, min(PROBE_EVENTS, bench_target.PAGE_LIMIT // (2 * self._fan_out))))
        deadline = monotonic() + limit_s
        while not await self._try(probes):
            if monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def _try(self, probes: list[int]) -> bool:
        try:
            return await self._listed(probes)
        except errors.StartRefused:  # the log may be away for a moment; the full reading has the last word
            return False

    async def _listed(self, probes: list[int]) -> bool:
        """One page of each list holds all that is asked for, unless most deliveries were retried."""
        ids = [wire.event_id(self._run, number) for number in probes]
        tenants = sorted({wire.tenant_id(self._run, number % self._tenants) for number in probes})
        scope: bench_target.Query = [("limit", bench_target.PAGE_LIMIT), *(("tenant_id", one) for one in tenants)]
        listed = Listed(self._run, self._tenants, self._fan_out)
        attempts = await self._target.attempts([*scope, *(("event_id", one) for one in ids)])
        for attempt in attempts.models:
            listed.add_attempt(attempt)
        wanted = {wire.key_of(one, place, self._fan_out) for one in probes for place in range(self._fan_out)}
        if not listed.deliveries.issuperset(wanted):
            return False
        events = await self._target.events([*scope, *(("id", one) for one in ids)])
        for event in events.models:
            listed.add_event(event)
        return listed.events.issuperset(probes)

    async def read(self) -> Listed:
        """Everything the log lists of the run's tenants."""
        listed = Listed(self._run, self._tenants, self._fan_out)
        for index in range(self._tenants):
            await self._read_tenant(wire.tenant_id(self._run, index), listed)
        return listed

    async def _read_tenant(self, tenant: str, listed: Listed) -> None:
        scope: bench_target.Query = [("tenant_id", tenant), ("limit", bench_target.PAGE_LIMIT)]
        following: bench_target.Query = []
        while True:
            events = await self._target.events(scope + following)
            for event in events.models:
                listed.add_event(event)
            if events.pagination.next is None:
                break
            following = [("next", events.pagination.next)]
        following = []
        while True:
            attempts = await self._target.attempts(scope + following)
            for attempt in attempts.models:
                listed.add_attempt(attempt)
            if attempts.pagination.next is None:
                break
            following = [("next", attempts.pagination.next)]


def pick(numbers: Sequence[int], most: int) -> list[int]:
    """At most `most` of `numbers`: the last ones, and as many spread evenly over the others."""
    if len(numbers) <= most:
        return list(numbers)
    half = (most + 1) // 2
    rest, last = numbers[: len(numbers) - half], numbers[-half:]
    spread = most - half
    return [rest[i * len(rest) // spread] for i in range(spread)] + list(last)
