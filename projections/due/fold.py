"""Which tasks live, as the log has it: a pure fold of `evt` and then `dlv` of one partition.

`evt` has to be folded before `dlv`, each in its own order; how the two were interleaved does not matter then.
Only live deliveries are kept, so a long log costs the memory of what is still to be done.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from outpost.domain import delivery, events

Place = tuple[str, str, int]  # of a delivery: entry id of its event, destination, version that made it


class Live(msgspec.Struct, frozen=True):
    """What is known of a live task: `want` is an `r` for every manual attempt that was asked for, `c` if it is to
    be cancelled, or empty; `due_ms` the Unix ms of its next attempt (0: at once); `manual` how many attempts of
    its delivery were manual."""

    want: str = ""
    due_ms: int = 0
    manual: int = 0


class Fold:
    """The state after the entries so far. `upto` (milliseconds, sequence) is the last event that counts: attempts
    of later ones are left out, because the group reads those."""

    def __init__(self, upto: tuple[int, int] | None = None) -> None:
        self._upto = upto
        self._live: dict[Place, tuple[int, Live]] = {}

    def event(self, entry_id: str, event: events.Event) -> None:
        """An accepted event asks for the first attempt at each matched destination."""
        for match in event.matched:
            self._live[entry_id, match.destination, match.created] = (1, Live())

    def entry(self, ms: int, entry: events.DeliveryEntry) -> None:
        """An entry of `dlv` that was appended at `ms` closes its delivery or says what comes next."""
        task, place = entry.task, entry.task[1:]
        if self._upto is not None and _key(task) > self._upto:
            return
        match entry.type, entry.detail:
            case (_, events.AttemptDetail(next="none")):
                self._live.pop(place, None)
            case (_, events.AttemptDetail() as detail):
                want = "r" * detail.asked if detail.next == "manual" else ""
                live = Live(want, ms + (detail.retry_in_ms or 0), _manual(task.attempt, detail.automatic))
                self._live[place] = (task.attempt + 1, live)
            case ("retry.requested", _):
                _, present = self._live.get(place, (0, Live()))
                manual = _manual(task.attempt - 1, entry.automatic)
                self._live[place] = (task.attempt, Live(present.want.replace("c", "") + "r", 0, manual))
            case ("cancel.requested", _):
                _, present = self._live.get(place, (0, Live()))
                self._live[place] = (task.attempt, Live("c", 0, present.manual))
            case _:
                self._live.pop(place, None)

    def places(self) -> list[Place]:
        """The deliveries that live, the oldest one first."""
        return list(self._live)

    def tasks(self, among: Iterable[Place] | None = None) -> dict[str, Live]:
        """Task id -> what is known of it, of those deliveries of `among` (all of them) that live."""
        found = ((place, self._live.get(place)) for place in (self._live if among is None else among))
        return {str(delivery.TaskId(known[0], *place)): known[1] for place, known in found if known is not None}


def _manual(attempts: int, automatic: int | None) -> int:
    return 0 if automatic is None else attempts - automatic


def _key(task: delivery.TaskId) -> tuple[int, int]:
    ms, _, seq = task.event.partition("-")
    return int(ms), int(seq)
