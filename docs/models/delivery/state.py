"""One partition of Redis and the processes around it, as values that can be compared and hashed."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

# What a score in `due` means. Time is not counted: a watchdog or a lease may end at any moment.
WAITS, HELD, LEASED = "waits", "held", "leased"
# The same, made while the clock of Redis was far ahead for a moment: this moment never comes by itself.
FAR_WAITS, FAR_LEASED = "waits far ahead", "leased far ahead"

Delivery = tuple[int, str, int]  # position of the event, destination, creation version


class Task(NamedTuple):
    """An attempt at a delivery. `created` is the tenant version that made the destination."""

    attempt: int
    position: int
    destination: str
    created: int

    @property
    def delivery(self) -> Delivery:
        return self[1:]

    def __str__(self) -> str:
        return f"{self.attempt}/{self.position}-0/{self.destination}@{self.created}"


class Record(NamedTuple):
    """An entry of `dlv`. Of an attempt, `next` is auto, manual or none, `asked` the manual attempts that follow,
    and `automatic` the automatic attempts made so far; of a request for a retry only `automatic` is used."""

    type: str
    task: Task
    manual: bool = False
    next: str = "none"
    asked: int = 0
    automatic: int = 0


class Redis:
    """One partition, thawed for the length of a script.

    `want` holds the letters that streams.md describes, `manual` how many manual attempts a delivery had,
    `mend` the mark of a repair: the event up to which the log is folded and a name of the loss, or 0;
    `evt_cut` and `cut` how many entries of `evt` and `dlv` were trimmed, `told_cut` what `trim` told of it,
    `store` how far the log tables are, `ver` and `ck` the tenant's version and the version that each generation
    shows."""

    FIELDS = (
        *("evt", "dlv", "group", "pending", "due", "want", "manual", "mend"),
        *("evt_cut", "cut", "told_cut", "store", "ver", "ck", "gen"),
    )

    def __init__(self, frozen: tuple[Any, ...]) -> None:
        (evt, dlv, self.group, pending, due, want, manual, self.mend) = frozen[:8]
        (self.evt_cut, self.cut, self.told_cut, self.store, self.ver, ck, self.gen) = frozen[8:]
        self.evt, self.dlv, self.ck = list(evt), list(dlv), list(ck)
        self.pending, self.due, self.want, self.manual = dict(pending), dict(due), dict(want), dict(manual)

    def freeze(self) -> tuple[Any, ...]:
        return (
            tuple(self.evt),
            tuple(self.dlv),
            self.group,
            frozenset(self.pending.items()),
            frozenset(self.due.items()),
            frozenset(self.want.items()),
            frozenset(self.manual.items()),
            self.mend,
            self.evt_cut,
            self.cut,
            self.told_cut,
            self.store,
            self.ver,
            tuple(self.ck),
            self.gen,
        )

    def leased(self, task: Task) -> bool:
        return self.due.get(task) in (LEASED, FAR_LEASED)

    def close(self, kind: str, task: Task) -> None:
        self.dlv.append(Record(kind, task))
        self.forget(task)
        self.manual.pop(task.delivery, None)

    def forget(self, task: Task) -> None:
        self.due.pop(task, None)
        self.want.pop(task, None)


EMPTY = ((), (), 0, (), (), (), (), 0, 0, 0, 0, (0, 0))


class Sending(NamedTuple):
    """An attempt that a process makes: whether its lease is still valid, whether it was begun as a manual one, and
    how many manual attempts the delivery had before."""

    task: Task
    valid: bool
    manual: bool
    before: int


class Proc(NamedTuple):
    """A delivery process: entries read but not opened, tasks in its lanes, what it sends, the generation it
    knows."""

    got: frozenset[int] = frozenset()
    hand: frozenset[Task] = frozenset()
    slot: Sending | None = None
    gen: int = 0


class Look(NamedTuple):
    """What an API process read from the log tables before it calls `request`."""

    what: str
    delivery: Delivery
    last: int
    closed: bool
    automatic: int
    seen: int


class World(NamedTuple):
    """`queue` is what a broker holds with its copies, `looks` API processes before `request`, `repair` a repairer
    between fold and `mend`, `asks` the requests that are still to come, `clock_ahead` the times the clock may
    jump."""

    redis: tuple[Any, ...]
    procs: tuple[Proc, ...]
    queue: frozenset[tuple[Task, int]] = frozenset()
    looks: tuple[Look, ...] = ()
    repair: tuple[Any, ...] | None = None
    asks: tuple[str, ...] = ()
    clock_ahead: int = 0


class Scenario(NamedTuple):
    """A small world. `changes` are what happens to the configuration, `start` how many of them before the first
    event, `asks` the requests (retry, cancel), `apis` how many API processes ask at once, `attempts` how many
    automatic attempts there are, `pieces` whether a repair comes in several."""

    queue: str = "lanes"
    events: int = 1
    changes: tuple[str, ...] = ("create d",)
    start: int = 1
    asks: tuple[str, ...] = ()
    apis: int = 1
    faults: bool = True
    group_lost: bool = False
    due_lost: bool = False
    pieces: bool = False
    trims: bool = False
    rebuilds: bool = False
    memory_full: bool = False
    clock_ahead: int = 0
    procs: int = 2
    attempts: int = 2

    def first(self) -> World:
        redis = Redis((*EMPTY, self.start, (self.start,), 0)).freeze()
        return World(redis, (Proc(),) * self.procs, asks=self.asks, clock_ahead=self.clock_ahead)


@cache
def config(changes: tuple[str, ...], version: int) -> dict[str, tuple[int, bool]]:
    """Destination -> (creation version, enabled) after so many changes."""
    model: dict[str, tuple[int, bool]] = {}
    for number, change in enumerate(changes[:version], 1):
        verb, name = change.split()
        if verb == "skip":  # an entry that did not decode was passed over: a version without a change
            continue
        created = number if verb == "create" else model.pop(name)[0]
        if verb != "delete":
            model[name] = (created, verb != "disable")
    return model
