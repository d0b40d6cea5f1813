"""What was put aside because its destination did not answer, so that it comes back at the first answer.

Such a task waits in `due` for up to `lane.MAX_DELAY_MS`, since a destination that is silent is mostly silent for
long. One that only hung for some seconds must not be late by minutes for that. Only names are kept; what is beyond
the bounds comes back when its delay ends.
"""

from __future__ import annotations

from collections import defaultdict

from outpost.dispatch.fairness import lane as lane_rules

MOST_NAMES = 50_000  # in one process: 10 MB
TENANT_SHARE = 2  # one tenant may have one in so many of what the others leave

Name = tuple[int, str]  # partition and task


class Aside:
    """The names of one process, by lane."""

    def __init__(self) -> None:
        self._names: dict[lane_rules.Key, dict[Name, None]] = {}
        self._tenants: dict[str, int] = defaultdict(int)
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def add(self, key: lane_rules.Key, name: Name) -> None:
        """This task of the lane `key` was put aside."""
        names = self._names.get(key)
        if names is not None and name in names:
            return
        held = self._tenants[key[0]]
        if (held + 1) * TENANT_SHARE > MOST_NAMES - (self._total - held):
            if not held:
                del self._tenants[key[0]]
            return
        if names is None:
            names = self._names[key] = {}
        names[name] = None
        self._count(key, 1)

    def back(self, key: lane_rules.Key, name: Name) -> None:
        """This task has come back by itself."""
        names = self._names.get(key)
        if names is not None and name in names:
            del names[name]
            if not names:
                del self._names[key]
            self._count(key, -1)

    def take(self, key: lane_rules.Key) -> list[Name]:
        """All of the lane `key`, which are forgotten."""
        names = self._names.pop(key, None)
        if names is None:
            return []
        self._count(key, -len(names))
        return list(names)

    def _count(self, key: lane_rules.Key, change: int) -> None:
        self._total += change
        self._tenants[key[0]] += change
        if not self._tenants[key[0]]:
            del self._tenants[key[0]]
