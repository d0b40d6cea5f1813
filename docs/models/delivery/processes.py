"""Everything that calls the scripts: API, projectors, trimmer, repairer, broker, dispatchers, workers, schedulers.

Between any two steps a process may be killed, which loses what it holds, as often as it likes. A broker may lose,
double and delay any message. Sending changes nothing in Redis, so `record` follows `begin` directly. A step is
(label, is it a fault, next world).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from docs.models.delivery import scripts
from docs.models.delivery.log_rules import after, fold
from docs.models.delivery.state import (
    FAR_LEASED,
    FAR_WAITS,
    HELD,
    LEASED,
    WAITS,
    Delivery,
    Look,
    Proc,
    Redis,
    Scenario,
    Sending,
    Task,
    World,
    config,
)
from docs.models.search import Broken, Step, intact

MAX_COPIES = 2  # of one message in the broker


class Steps:
    """The steps that are possible in one world."""

    def __init__(self, w: World, c: Scenario) -> None:
        self.w, self.c = w, c
        self.now = Redis(w.redis)
        self.handled = {t for p in w.procs for t in p.hand} | {t for t, _ in w.queue}
        self.sending = {p.slot.task for p in w.procs if p.slot and p.slot.valid}

    def all(self) -> Iterator[Step]:
        yield from self.api()
        yield from self.config_and_log()
        yield from self.requests()
        if self.c.group_lost:
            yield from self.repair()
        if self.c.faults:
            yield from self.broker()
        for i, p in enumerate(self.w.procs):
            yield from self.dispatcher(i, p)
            yield from self.begins(i, p)
            yield from self.records(i, p)
            yield from self.scheduler(i, p)
            if self.c.faults and (p.got or p.hand or p.slot):
                yield from self.killed(i)

    # -- building the next world

    def to(self, label: str, r: Redis | None = None, *, fault: bool = False, **change: Any) -> Step:
        if r and r.mend and not change.get("repair", self.w.repair):
            r = Redis(r.freeze())
            r.mend = (r.mend[0], 1)  # nobody holds a mark, so that one name is as good as another
        return label, fault, self.w._replace(redis=r.freeze() if r else self.w.redis, **change)

    def of(self, i: int, label: str, r: Redis | None = None, *, fault: bool = False, **change: Any) -> Step:
        """As `to`, where the fields of a process change too."""
        mine = {name: change.pop(name) for name in Proc._fields if name in change}
        procs = change.pop("procs", self.w.procs)
        changed = procs[i]._replace(**mine)
        return self.to(label, r, fault=fault, procs=(*procs[:i], changed, *procs[i + 1 :]), **change)

    def run(self, script: Callable[..., Any], *args: Any, **options: Any) -> tuple[Redis, Any]:
        r = Redis(self.w.redis)
        return r, script(r, *args, **options)

    def set(self, **fields: Any) -> Redis:
        r = Redis(self.w.redis)
        r.__dict__.update(fields)
        return r

    def expired(self, delivery: Delivery) -> tuple[Proc, ...]:
        """The processes, of which whoever sends this delivery has no valid lease from now on."""
        return tuple(
            p._replace(slot=p.slot._replace(valid=False)) if p.slot and p.slot.task.delivery == delivery else p
            for p in self.w.procs
        )

    # -- publishing, configuration, log tables, trimmer

    def api(self) -> Iterator[Step]:
        now, c = self.now, self.c
        shown = now.ck[now.gen]
        matched = tuple((d, made) for d, (made, on) in config(c.changes, shown).items() if on)
        for event in range(1, min(c.events, len(now.evt) + 1) + 1):
            r, answer = self.run(scripts.append, event, shown, matched)
            yield self.to(f"api: append event {event} -> {answer}", r)
        if now.ver < len(c.changes):  # acknowledged from here on, whether or not the read model could be moved
            yield self.to(f"api: {c.changes[now.ver]} is in cfg and acknowledged", self.set(ver=now.ver + 1))

    def config_and_log(self) -> Iterator[Step]:
        now, c = self.now, self.c
        head = now.ver
        while not intact("skipped-entry-moves-the-version") and self.c.changes[head - 1].startswith("skip"):
            head -= 1
        for g, ck in enumerate(now.ck):
            if ck < head and g >= now.gen:
                moved = [*now.ck[:g], head, *now.ck[g + 1 :]]
                yield self.to(f"catch_up: generation {g} shows version {head}", self.set(ck=moved))
        if c.rebuilds and len(now.ck) == 1:
            yield self.to("rebuild: generation 1 is built", self.set(ck=now.ck * 2))
        if len(now.ck) == 2 and now.gen == 0 and now.ck[1] >= now.ck[0]:
            yield self.to("rebuild: switch to generation 1", self.set(gen=1))
        if c.trims or c.asks:
            head = (len(now.evt), len(now.dlv))
            yield self.to("log projector: the log tables are at the head", self.set(store=head))
        if c.trims:
            r, _ = self.run(scripts.trim)
            yield self.to(f"trimmer: evt to {r.evt_cut}, {r.cut} entries of dlv", r)

    def requests(self) -> Iterator[Step]:
        now, w = self.now, self.w
        for what in sorted(set(w.asks)) if len(w.looks) < self.c.apis else ():
            rest = list(w.asks)
            rest.remove(what)
            for delivery in [(p, *d) for p, (_, m, _) in enumerate(now.evt[: now.store[0]], 1) for d in m]:
                look = self.look(what, delivery)
                label = f"api: {what} {delivery}: the log tables say last {look.last}, closed {look.closed}"
                yield self.to(label, looks=tuple(sorted((*w.looks, look))), asks=tuple(rest))
        for at, look in enumerate(w.looks):
            left = w.looks[:at] + w.looks[at + 1 :]
            for expired in (False, True):
                r, answer = self.run(scripts.request, look, expired=expired)
                procs = self.expired(look.delivery) if expired else w.procs
                asks = tuple(sorted((*w.asks, look.what))) if answer == "outdated" else w.asks
                label = f"api: request {look.what}{' (lease ended)' * expired} -> {answer}"
                yield self.to(label, r, fault=expired, looks=left, procs=procs, asks=asks)

    def look(self, what: str, delivery: Delivery) -> Look:
        last, closed, automatic = 0, False, 0
        for entry in self.now.dlv[: self.now.store[1]]:
            if entry.task.delivery == delivery:
                last, closed, automatic = after(last, automatic, entry)
        return Look(what, delivery, last, closed, automatic, self.now.store[1])

    # -- the group is lost, and `due` is completed from the log

    def repair(self) -> Iterator[Step]:
        now, w = self.now, self.w
        if now.group is not None:
            yield self.to("operator: the group is lost", self.set(group=None, pending={}, mend=0), fault=True)
        if self.c.due_lost and (w.repair is None or self.c.pieces) and not any(p.slot for p in w.procs):
            r = self.set(group=None, pending={}, mend=0, due={}, want={}, manual={})
            yield self.to("operator: everything but the log is lost", r, fault=True)
        if intact("group-after-fold") or now.group is not None:
            another = self.c.pieces and w.repair and w.repair[0] == (len(now.evt), 1)
            yield self.to(
                "regroup", self.run(scripts.regroup, 2 if another else 1)[0], fault=now.group is not None
            )
        if w.repair is None and (now.mend or (now.group is None and not intact("group-after-fold"))):
            mark = now.mend or (len(now.evt), 1)
            tasks = fold(tuple(now.evt[: mark[0]]), tuple(now.dlv[now.cut :]), now.evt_cut)
            yield self.to(f"repairer: folds up to {mark[0]}", repair=(mark, tasks, len(now.dlv)))
        if w.repair:
            r, _ = self.run(scripts.mend, *w.repair)
            if r.dlv != now.dlv or any(r.due[t] != score for t, score in now.due.items()):
                raise Broken("P7", "a rebuild has written a record or touched a live task", "repairer: mend")
            yield self.to("repairer: mend", r, repair=None)
            yield self.to("repairer: mend, which comes again later", r, fault=True)
            if self.c.pieces and w.repair[1]:
                r, _ = self.run(scripts.mend, *w.repair, last=False)
                yield self.to("repairer: mend, all but the last piece", r, repair=(w.repair[0], (), w.repair[2]))
            yield self.to("repairer: is killed", fault=True, repair=None)

    def broker(self) -> Iterator[Step]:
        for task, copies in self.w.queue:
            rest = self.w.queue - {(task, copies)}
            fewer = rest | ({(task, copies - 1)} if copies > 1 else set())
            yield self.to(f"broker: loses {task}", fault=True, queue=fewer)
            yield self.to(f"broker: doubles {task}", fault=True, queue=rest | {(task, MAX_COPIES)})

    # -- a delivery process

    def dispatcher(self, i: int, p: Proc) -> Iterator[Step]:
        now, c = self.now, self.c
        if now.group is not None and now.group < len(now.evt):
            at = now.group + 1
            new = {at} if at > now.evt_cut else set()  # a trimmed entry is not read
            r = self.set(group=at, pending=now.pending | dict.fromkeys(new, i))
            yield self.of(i, f"d{i}: reads {at}", r, got=p.got | new)
            if c.faults:
                yield self.to(f"d{i}: reads {at}, the reply is lost", r, fault=True)
        for position in now.pending if (c.faults or c.memory_full) and intact("sweep-only-the-dead") else ():
            new = {position} if position > now.evt_cut else set()
            pending = {k: v for k, v in now.pending.items() if k != position} | dict.fromkeys(new, i)
            held = any({position, -position} & q.got for q in self.w.procs)
            r = self.set(pending=pending)
            yield self.of(i, f"d{i}: XAUTOCLAIM {position}", r, fault=held, got=p.got | new)
        if p.got and max(p.got) > 0 and not intact("hand-over-before-open"):
            tasks = {Task(1, q, *d) for q in p.got if q > 0 for d in now.evt[q - 1][1]}
            got = frozenset(-abs(q) for q in p.got)
            yield self.of(i, f"d{i}: hands over before open", got=got, hand=p.hand | tasks)
        elif p.got:
            yield from self.opens(i, p)
        for task in p.hand if c.queue == "broker" else ():
            copies = dict(self.w.queue).get(task, 0)
            queue = self.w.queue - {(task, copies)} | {(task, min(copies + 1, MAX_COPIES))}
            yield self.of(i, f"p{i}: publishes {task}", hand=p.hand - {task}, queue=queue)

    def opens(self, i: int, p: Proc) -> Iterator[Step]:
        positions = sorted(map(abs, p.got))
        r, opened = self.run(scripts.open_, positions)
        hand = p.hand | set(opened) if intact("hand-over-before-open") else p.hand
        yield self.of(i, f"d{i}: open -> hands over {[*map(str, opened)]}", r, got=frozenset(), hand=hand)
        if self.c.memory_full:
            r, _ = self.run(scripts.open_, positions, memory_full=True)
            yield self.of(i, f"d{i}: open -> refused, no memory", r, fault=True, got=frozenset())
        if self.c.memory_full and self.c.faults:  # the watchdog of what was made live has to end
            r, _ = self.run(scripts.open_, positions, fails=True)
            yield self.of(i, f"d{i}: open -> fails behind the first", r, fault=True, got=frozenset())

    def begins(self, i: int, p: Proc) -> Iterator[Step]:
        tasks = p.hand if self.c.queue == "lanes" else [t for t, _ in self.w.queue]
        for task in tasks if not p.slot else ():
            can_expire = self.now.due.get(task) == LEASED or not intact("future-score-is-lease")
            for expired in (False, True) if can_expire else (False,):
                for ahead in (False, True) if self.w.clock_ahead else (False,):
                    yield self.begin(i, p, task, expired=expired, ahead=ahead)

    def begin(self, i: int, p: Proc, task: Task, *, expired: bool, ahead: bool) -> Step:
        now, w, c = self.now, self.w, self.c
        r, answer = self.run(scripts.begin, task, c.changes, p.gen, expired=expired, ahead=ahead)
        begun = isinstance(answer, tuple)
        label = f"w{i}: begin {task}{' (lease ended)' * expired}{' (clock ahead)' * ahead} -> "
        label += "begun" if begun else answer
        if begun:
            self.check_begun(task, label)
        again = answer in ("generation", "behind")
        hand = p.hand if answer == "behind" else p.hand - {task}
        slot = Sending(task, True, *answer) if begun else None
        mine = p._replace(hand=hand, slot=slot, gen=now.gen if answer == "generation" else p.gen)
        copies = dict(w.queue).get(task, 0)
        left = copies - (not again) if copies else 0
        queue = w.queue - {(task, copies)} | ({(task, left)} if left else set())
        procs = self.expired(task.delivery) if expired else w.procs
        used = ahead and begun
        return (
            label,
            ahead or (expired and (task in self.sending or not now.leased(task))),
            w._replace(
                redis=r.freeze(),
                queue=queue,
                procs=(*procs[:i], mine, *procs[i + 1 :]),
                clock_ahead=w.clock_ahead - used,
            ),
        )

    def check_begun(self, task: Task, label: str) -> None:
        shown = config(self.c.changes, self.now.ck[self.now.gen]).get(task.destination, (0, False))
        if shown[0] not in (0, task.created):
            raise Broken("D8", f"{task} goes to {task.destination}@{shown[0]}", label)
        _, enabled = config(self.c.changes, self.now.ver).get(task.destination, (0, False))
        if not enabled:
            raise Broken("D5", f"{task} begins after its disable or delete was acknowledged", label)

    def records(self, i: int, p: Proc) -> Iterator[Step]:
        if not p.slot:
            return
        task, made = p.slot.task, p.slot.task.attempt - p.slot.before
        if not intact("manual-uses-up-none"):
            made = task.attempt
        automatic, manual = made < self.c.attempts, made - intact("manual-uses-up-none") < self.c.attempts
        if not intact("record-goes-by-what-was-begun"):
            automatic = manual if p.slot.manual else automatic
        for ok in (True, False):
            for ahead in (False, True) if self.w.clock_ahead else (False,):
                retry = {"retry": automatic, "retry_if_manual": manual}
                r, answer = self.run(scripts.record, task, succeeded=ok, ahead=ahead, **retry)
                label = f"w{i}: sends and records {task} {'ok' if ok else 'failed'}{' (clock ahead)' * ahead}"
                # Another may have closed the delivery, but only after the lease had ended.
                ends = "attempt." if p.slot.valid else ("attempt.", "delivery.")
                closed = any(e.task == task and e.type.startswith(ends) for e in self.now.dlv)
                if answer == "duplicate" and not closed:
                    raise Broken("D6", f"{task} was sent, its record is refused, and there is none", label)
                left = self.w.clock_ahead - ahead
                yield self.of(i, f"{label} -> {answer}", r, fault=ahead, slot=None, clock_ahead=left)

    def scheduler(self, i: int, p: Proc) -> Iterator[Step]:
        if self.c.queue == "lanes" and p.hand:
            r, keep = self.run(scripts.hold, p.hand, HELD)
            yield self.of(i, f"p{i}: hold {[*map(str, sorted(p.hand))]}", r, hand=keep)
            r, _ = self.run(scripts.hold, p.hand, WAITS)
            yield self.of(i, f"p{i}: drain {[*map(str, sorted(p.hand))]}", r, hand=frozenset())
        for task, score in self.now.due.items():
            if not self.c.faults and score not in (WAITS, FAR_WAITS, FAR_LEASED):
                continue
            r, taken = self.run(scripts.claim_due, task)
            early = task in (self.handled if score == HELD else self.sending if score == LEASED else ())
            procs = self.expired(task.delivery) if score == LEASED else self.w.procs
            hand = procs[i].hand | {task} if taken else procs[i].hand
            label = f"s{i}: claim_due {task} ({score}{', before its time' * early})"
            yield self.of(i, label, r, fault=early, procs=procs, hand=hand)

    def killed(self, i: int) -> Iterator[Step]:
        got: frozenset[int] = frozenset()
        if not intact("sweep-only-the-dead"):
            got = frozenset(q for q, owner in self.now.pending.items() if owner == i)
        gone = {"got": got, "hand": frozenset(), "slot": None, "gen": self.now.gen}
        yield self.of(i, f"p{i}: SIGKILL", fault=True, **gone)
