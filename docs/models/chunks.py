"""The delivery queue over a broker (docs/queues.md) on top of the model of deliveries.

What a dispatcher opens does not go into its lanes but becomes one chunk of all tasks of that `open`, which is
published, or kept where the broker is away. What a scheduler claims goes into its own lanes. A chunk is one
message with at most two copies, and it is lost, doubled and delayed at will. It is acknowledged when its tasks
are in lanes. Besides, at any moment and with no guard against it, it is acknowledged too early (its reader
dies, or takes it for stale: it is gone, unread), too late or never (it stays although its tasks are in lanes),
its confirm is lost (it is in the broker and in the lanes of its sender), or `outpost queue drain` takes it.

So whatever the broker and the acknowledgements do costs latency only. In the calm scenarios no watchdog ever
ends, and nothing may wait for one (N4), not even while the broker is away. Not modelled: time, hunger, sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from docs.models.delivery import log_rules, processes, scripts
from docs.models.delivery.processes import MAX_COPIES
from docs.models.delivery.state import WAITS, Proc, Redis, Scenario, Task
from docs.models.delivery.state import World as Deliveries
from docs.models.search import Broken, Result, Step, explore, intact

Chunk = frozenset[Task]


class World(NamedTuple):
    """`out`: of each process, chunks that are opened and not published yet; `chunks`: those in the broker, with
    their copies."""

    base: Deliveries
    out: tuple[frozenset[Chunk], ...]
    chunks: frozenset[tuple[Chunk, int]] = frozenset()


class Setting(NamedTuple):
    """`away`: the broker never answers; `mute`: it takes everything, and nobody ever receives."""

    of: Scenario
    away: bool = False
    mute: bool = False


_TWO = Scenario("lanes", changes=("create d", "create e"), start=2, attempts=1)

SHORT = {
    "chunks, calm": Setting(Scenario(events=2, faults=False)),
    "chunks of two, calm": Setting(_TWO._replace(faults=False)),
    "chunks, calm, broker away": Setting(Scenario(events=2, faults=False), away=True),
    "chunks, one task": Setting(Scenario(attempts=1)),
    "chunks, two events": Setting(Scenario(events=2, attempts=1, procs=1)),
    "chunks of two": Setting(_TWO._replace(procs=1)),
    "chunks, cancel": Setting(Scenario(procs=1, attempts=1, asks=("cancel",))),
    "chunks, manual retry": Setting(Scenario(procs=1, attempts=1, asks=("retry",))),
    "chunks, away for good": Setting(Scenario(), away=True),
    "chunks, nobody receives": Setting(Scenario(), mute=True),
    "chunks, re-created": Setting(Scenario(procs=1, attempts=1, changes=("create d", "delete d", "create d"))),
    "chunks, group lost": Setting(Scenario(procs=1, attempts=1, group_lost=True)),
}
LONG = {
    "chunks, one task, retried": Setting(Scenario()),
    "chunks of two, two processes": Setting(_TWO),
}
SCENARIOS = SHORT | LONG
GUARDS = {"own-lanes-while-the-broker-is-away": "chunks, calm, broker away"}


class _Steps:
    """The steps that are possible in one world."""

    def __init__(self, w: World, s: Setting) -> None:
        self.w, self.s = w, s
        self.counts = dict(w.chunks)

    def all(self) -> Iterator[Step]:
        yield from self.deliveries()
        for i in range(len(self.w.base.procs)):
            for chunk in self.w.out[i]:
                yield from self.published(i, chunk)
            for chunk in () if self.s.mute else self.counts:
                yield from self.received(i, chunk)
        if self.s.of.faults:
            for chunk in self.counts:
                yield from self.harmed(chunk)

    def deliveries(self) -> Iterator[Step]:
        """What happens without a broker; what is opened leaves the lanes for a chunk."""
        for label, fault, new in processes.Steps(self.w.base, self.s.of).all():
            out = self.w.out
            for i, (before, after) in enumerate(zip(self.w.base.procs, new.procs, strict=True)):
                if label == f"p{i}: SIGKILL":
                    out = (*out[:i], frozenset(), *out[i + 1 :])
                elif label.startswith((f"d{i}: open", f"d{i}: hands over")) and after.hand != before.hand:
                    out = (*out[:i], out[i] | {after.hand - before.hand}, *out[i + 1 :])
                    kept = after._replace(hand=before.hand)
                    new = new._replace(procs=(*new.procs[:i], kept, *new.procs[i + 1 :]))
            yield label, fault, World(new, out, self.w.chunks)

    def published(self, i: int, chunk: Chunk) -> Iterator[Step]:
        w, s, name = self.w, self.s, _named(chunk)
        out = (*w.out[:i], w.out[i] - {chunk}, *w.out[i + 1 :])
        if not s.away:
            yield f"p{i}: publishes {name}", False, World(w.base, out, self.copies(chunk, 1))
        if s.of.faults and not s.away:
            lost = World(self.in_lanes(i, chunk), out, self.copies(chunk, 1))
            yield f"p{i}: publishes {name}, the confirm is lost", True, lost
        if (s.of.faults or s.away) and intact("own-lanes-while-the-broker-is-away"):
            here = World(self.in_lanes(i, chunk), out, w.chunks)
            yield f"p{i}: the broker is away, {name} into the lanes", not s.away, here

    def received(self, i: int, chunk: Chunk) -> Iterator[Step]:
        w, lanes = self.w, self.in_lanes(i, chunk)
        settled = World(lanes, w.out, self.copies(chunk, -1))
        yield f"p{i}: receives and acknowledges {_named(chunk)}", False, settled
        if self.s.of.faults:
            yield f"p{i}: receives {_named(chunk)}, no acknowledgement", True, World(lanes, w.out, w.chunks)

    def harmed(self, chunk: Chunk) -> Iterator[Step]:
        w, name = self.w, _named(chunk)
        gone = World(w.base, w.out, self.copies(chunk, -1))
        yield f"broker: {name} lost, or acknowledged unread", True, gone
        yield f"broker: doubles {name}", True, World(w.base, w.out, self.copies(chunk, MAX_COPIES))
        r = Redis(w.base.redis)
        before = set(r.due)
        scripts.hold(r, chunk, WAITS)
        if set(r.due) - before and intact("hold-without-xx"):
            raise Broken("N2", f"draining {name} made a task", "queue drain")
        drained = World(w.base._replace(redis=r.freeze()), w.out, self.copies(chunk, -1))
        yield f"queue drain: {name}", True, drained

    def in_lanes(self, i: int, chunk: Chunk) -> Deliveries:
        procs = self.w.base.procs
        mine = procs[i]._replace(hand=procs[i].hand | chunk)
        return self.w.base._replace(procs=(*procs[:i], mine, *procs[i + 1 :]))

    def copies(self, chunk: Chunk, change: int) -> frozenset[tuple[Chunk, int]]:
        left = min(self.counts.get(chunk, 0) + change, MAX_COPIES)
        rest = {other: count for other, count in self.counts.items() if other != chunk}
        return frozenset((rest | ({chunk: left} if left else {})).items())


def _named(chunk: Chunk) -> list[str]:
    return [str(task) for task in sorted(chunk)]


def search(name: str, max_states: int = 3_000_000) -> Result:
    """Searches one scenario."""
    s = SCENARIOS[name]
    shared: dict[object, object] = {}
    log_rules.fold.cache_clear()
    log_rules.check_records.cache_clear()
    base = s.of.first()
    assert base.procs == (Proc(),) * s.of.procs
    return explore(
        World(base, (frozenset(),) * s.of.procs),
        lambda w: _Steps(w, s).all(),
        lambda w: log_rules.check(w.base, s.of.attempts),
        max_states,
        lambda w: w._replace(base=shared.setdefault(w.base, w.base)),
    )
