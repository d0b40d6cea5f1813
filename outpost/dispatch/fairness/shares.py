"""Who makes room when no more may be open: a tenant with more than its share, before anybody else."""

from __future__ import annotations

from collections.abc import Iterable

Place = tuple[str, str]  # tenant, destination


class Shares:
    """How many places each tenant holds."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}
        self._total = 0

    def take(self, place: Place) -> None:
        """The tenant of `place` holds one more."""
        self._held[place[0]] = self._held.get(place[0], 0) + 1
        self._total += 1

    def give(self, place: Place) -> None:
        """The tenant of `place` holds one less."""
        left = self._held[place[0]] - 1
        self._total -= 1
        if left:
            self._held[place[0]] = left
        else:
            del self._held[place[0]]

    def surplus(self, places: Iterable[Place]) -> Place:
        """The first of `places`, all that are held, whose tenant holds as many as there are for each, or more. So
        a tenant makes room for others before they do for it, and tenants that hold the same go by the order."""
        return next(place for place in places if self._held[place[0]] * len(self._held) >= self._total)
