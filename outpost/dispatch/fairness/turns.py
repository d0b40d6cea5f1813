"""Whose turn it is: round robin between tenants, and for each tenant between its destinations; between those whose
next attempt is a first one and those whose next is a retry, by turns."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator

from outpost.dispatch.fairness import lane as lane_rules


class Turns:
    """Ready lanes in turn. A lane stands here at most once."""

    def __init__(self) -> None:
        self._tenants: dict[str, deque[lane_rules.Lane]] = {}
        self._parked: dict[str, deque[lane_rules.Lane]] = {}  # without a turn for now, or a lane

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def add(self, lane: lane_rules.Lane) -> None:
        """Puts a lane behind its tenant's others, and a new tenant behind all others."""
        name = lane.key[0]
        if self._parked and name in self._parked:
            self._parked[name].append(lane)
        else:
            self._tenants.setdefault(name, deque()).append(lane)

    def lanes(self) -> Iterator[lane_rules.Lane]:
        """Those that have a turn."""
        return itertools.chain.from_iterable(self._tenants.values())

    def next(self) -> lane_rules.Lane:
        """Takes the next lane of the next tenant, whose turn then comes last. Raises StopIteration if empty."""
        tenant = next(iter(self._tenants))
        turn = self._tenants.pop(tenant)
        lane = turn.popleft()
        if turn:
            self._tenants[tenant] = turn
        return lane

    def remove(self, lane: lane_rules.Lane) -> None:
        """Takes out a lane that stands here."""
        name = lane.key[0]
        if name in self._parked:
            self._parked[name].remove(lane)
            return
        turn = self._tenants[name]
        turn.remove(lane)
        if not turn:
            del self._tenants[name]

    def set_parked(self, tenant: str, parked: bool) -> None:
        """A parked tenant has no turn. Its lanes keep their order and come back behind all other tenants."""
        if parked and tenant not in self._parked:
            self._parked[tenant] = self._tenants.pop(tenant, deque())
        elif not parked and (turn := self._parked.pop(tenant, None)):
            self._tenants[tenant] = turn


class Alternating:
    """First attempts and retries in turn, so that neither waits for more than one of the other."""

    def __init__(self) -> None:
        self.first, self.again = Turns(), Turns()
        self._again_next = False

    def __bool__(self) -> bool:
        return bool(self.first) or bool(self.again)

    def lanes(self) -> Iterator[lane_rules.Lane]:
        """Those of both that have a turn."""
        return itertools.chain(self.first.lanes(), self.again.lanes())

    def next(self) -> lane_rules.Lane:
        """Takes the next lane. Raises StopIteration if empty."""
        chosen = self.again if self.again and (self._again_next or not self.first) else self.first
        self._again_next = chosen is self.first
        return chosen.next()

    def set_parked(self, tenant: str, parked: bool) -> None:
        """See `Turns.set_parked`."""
        self.first.set_parked(tenant, parked)
        self.again.set_parked(tenant, parked)
