"""The delivery protocol, run by the real scripts beside a model of what each may answer and leave behind.

A step changes both; then `due`, `want` and `dlv` have to be the same in both, and the fold of the log has to be
what is live. Processes are crashed, messages lost and doubled, the group destroyed by steps of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from outpost import errors
from outpost.domain import delivery, events
from outpost.log import batching, read
from outpost.log import partition as partitions
from outpost.log.delivery import repair, requests, tasks
from outpost.log.redis import client
from projections.due import repair as driver
from tests.contract import log_rules, worlds

P = worlds.P
WATCHDOG_MS, LEASE_MS, RETRY_MS = 30_000, 10_000, 5_000
PROCESSES = 2
DESTINATIONS = ("d", "e")
MOST_EVENTS, MOST_CHANGES, MOST_LOSSES = 6, 5, 2  # of one life, so that much happens to each event

USUAL = ("read", "open", "begin", "begin", "record", "record", "double", "claim")

Step = Callable[[], Awaitable[None]]


class Process:
    """What a process holds in memory: entries read, tasks at hand, attempts under way with their leases."""

    def __init__(self) -> None:
        self.read: list[tuple[str, tuple[str, ...]]] = []
        self.hand: set[str] = set()
        self.sending: dict[str, float] = {}


class World:
    """A tenant with two destinations, its events, and the processes that deliver them."""

    def __init__(self, log: client.Log, clock: worlds.Clock) -> None:
        self.log, self.clock, self.keys = log, clock, log.keys.partitions[P]
        self.due: dict[str, float] = {}
        self.want: dict[str, str] = {}
        self.dlv: list[tuple[str, str, bool, str]] = []  # type, task, manual, next
        self.events: dict[str, tuple[int, tuple[str, ...]]] = {}  # entry id -> version, tasks
        self.unopened: set[str] = set()
        self.whole = True
        self.version = self.shown_version = 2
        self.config = {"d": (1, True), "e": (2, True)}  # destination -> created, enabled
        self.shown = dict(self.config)
        self.processes = [Process() for _ in range(PROCESSES)]
        self.asked = self.losses = 0
        self.late: tuple[str, str, list[repair.Missing]] | None = None

    async def start(self) -> None:
        await self.log.command("FLUSHALL")
        seconds, micros = await self.log.command("TIME")
        await self.clock.set(int(seconds) * 1000 + int(micros) // 1000)
        await worlds.regroup(self.log)
        await self.project()

    def options(self) -> list[tuple[str, list[Step]]]:
        """The steps that would do something now, by kind; the usual kinds twice."""
        found: dict[str, list[Step]] = {
            "publish": [lambda mask=mask: self.publish(mask) for mask in (1, 2, 3)],
            "change": [lambda name=name: self.change(name) for name in DESTINATIONS],
            "wait": [lambda ms=ms: self.wait(ms) for ms in (1, RETRY_MS, LEASE_MS, LEASE_MS + 1, WATCHDOG_MS)],
            "project": [self.project] * (self.shown_version < self.version),
            "ask": [
                lambda w=w, place=task[1:], known=known: self.ask(w, place, known)
                for _, firsts in self.events.values()
                for task in firsts
                for known in {0, len(self.dlv) // 2, len(self.dlv)}
                for w in ("retry", "cancel")
            ],
            "lose group": [self.lose_group] * (self.losses < MOST_LOSSES and bool(self.events)),
            "fold for later": [self.fold_for_later] * (not self.whole),
            "mend late": [self.mend_late] * bool(self.late),
            "repair": [self.repair] * (not self.whole),
        }
        if len(self.events) >= MOST_EVENTS:
            del found["publish"]
        if self.version >= MOST_CHANGES:
            del found["change"]
        for who, process in enumerate(self.processes):
            for kind, steps in self._options_of(who, process).items():
                found.setdefault(kind, []).extend(steps)
        usual = [kind for kind in USUAL if found.get(kind)]
        return [(kind, steps) for kind, steps in found.items() if steps] + [(kind, found[kind]) for kind in usual]

    def _options_of(self, who: int, process: Process) -> dict[str, list[Step]]:
        holds, sends = len(process.hand), len(process.sending)
        outcomes = ((True, False), (False, True), (False, False))
        return {
            "read": [lambda: self.read(who, 2)] * bool(self.unopened),
            "read and lose the reply": [lambda: self.read(who, 2, lost=True)] * bool(self.unopened),
            "sweep": [lambda: self.sweep(who)] * bool(self.unopened),
            "open": [lambda: self.open(who)] * bool(process.read),
            "begin": [lambda n=n: self.begin(who, n) for n in range(holds)],
            "record": [
                lambda n=n, ok=ok, retry=retry: self.record(who, n, ok=ok, retry=retry)
                for n in range(sends)
                for ok, retry in outcomes
            ],
            "claim": [lambda: self.claim(who)] * any(score <= self.clock.now for score in self.due.values()),
            "hold": [lambda ms=ms: self.hold(who, ms) for ms in (0, WATCHDOG_MS)] * bool(holds),
            "double": [lambda: self.double(who)] * any(p.hand | p.sending.keys() for p in self.processes),
            "kill": [lambda: self.kill(who)] * bool(holds or sends or process.read),
        }

    # -- the platform, its operator, and time

    async def publish(self, mask: int) -> None:
        """An event for the destinations of `mask` that are enabled."""
        names = [n for bit, n in enumerate(DESTINATIONS) if mask >> bit & 1 and self.config.get(n, (0, False))[1]]
        matched = [events.Matched(name, self.config[name][0]) for name in names]
        entry_id = await worlds.publish(self.log, f"e{len(self.events)}", *matched)
        self.events[entry_id] = (self.version, tuple(f"1/{entry_id}/{m}" for m in matched))
        self.unopened.add(entry_id)

    async def change(self, name: str) -> None:
        """Disables, deletes, makes again: the next state of a destination, not yet in the read model."""
        self.version += 1
        match self.config.get(name):
            case None:
                self.config[name] = (self.version, True)
            case (created, True):
                self.config[name] = (created, False)
            case _:
                del self.config[name]

    async def project(self) -> None:
        self.shown, self.shown_version = dict(self.config), self.version
        shown = [worlds.destination(n, created=c, version=c, enabled=on) for n, (c, on) in self.shown.items()]
        await worlds.show(self.log, *shown, version=self.version)

    async def wait(self, ms: int) -> None:
        await self.clock.advance(ms)

    async def ask(self, what: Literal["retry", "cancel"], place: str, known: int) -> None:
        """A manual retry or a cancellation, by an API whose log store has seen `known` entries of `dlv`."""
        ids = ["0-0", *(item.position.entry_id for item in await read.between(self.log, "dlv", P))]
        task = delivery.parse_task_id(f"0{place}")
        last, closed = self._standing(place, known)
        asked = requests.Delivery(worlds.TENANT, "e", *task[1:], last=last, closed=closed, seen=ids[known])
        self.asked += 1
        answer = await requests.request(self.log, what, asked, f"admin/r{self.asked}")
        assert self._ask(what, place) == type(answer).__name__

    def _ask(self, what: str, place: str) -> str:
        last, closed = self._standing(place, len(self.dlv))
        task = f"{last + 1}{place}"
        if task not in self.due and (what == "cancel" or not closed):
            return "Closed" if closed else "Unopened"
        leased = task in self.due and self._leased(task)
        if what == "cancel" and not leased:
            self._close("delivery.cancelled", task)
            return "Cancelled"
        want = self.want.get(task, "").replace("c", "")
        self.want[task] = want + "r" if what == "retry" else want.replace("r", "") + "c"
        self.dlv.append(("retry.requested" if what == "retry" else "cancel.requested", task, False, ""))
        if not leased:
            self.due[task] = self.clock.now
        return "Requested"

    def _standing(self, place: str, known: int) -> tuple[int, bool]:
        """The last attempt and whether it is closed, by the first `known` entries."""
        last, closed = 0, False
        for kind, task, _, following in self.dlv[:known]:
            attempt, _, rest = task.partition("/")
            if f"/{rest}" == place:
                closed = kind.startswith("delivery.") or following == "none"
                last = int(attempt) if kind.startswith("attempt.") else last
        return last, closed

    # -- a delivery process

    async def read(self, who: int, count: int, *, lost: bool = False) -> None:
        try:
            found = await read.as_group(self.log, f"d{who}", count, block_ms=0, among=[P])
        except errors.GroupMissing:
            assert not self.whole
            return
        self._take(who, [] if lost else found)

    async def sweep(self, who: int) -> None:
        """Every pending entry, whoever read it, itself included."""
        try:
            _, found = await read.claim_idle(self.log, P, f"d{who}", 0, 100)
        except errors.GroupMissing:
            assert not self.whole
            return
        self._take(who, found)

    def _take(self, who: int, found: list[read.Read]) -> None:
        ids = [item.position.entry_id for item in found]
        self.processes[who].read += [(entry_id, self.events[entry_id][1]) for entry_id in ids]

    async def open(self, who: int) -> None:
        process, pending = self.processes[who], await self._pending()
        openings = [tasks.Opening(*each) for each in process.read]
        process.read = []
        answers = (await tasks.open_entries(self.log, {P: openings}, WATCHDOG_MS))[P]
        for opening, ours in zip(openings, answers, strict=True):
            assert ours == (opening.entry_id in pending)
            if ours:
                pending.discard(opening.entry_id)
                self.unopened.discard(opening.entry_id)
                self.due |= dict.fromkeys(opening.tasks, float(self.clock.now + WATCHDOG_MS))
                process.hand |= {*opening.tasks}

    async def begin(self, who: int, number: int) -> None:
        process = self.processes[who]
        if not process.hand:
            return
        task = sorted(process.hand)[number % len(process.hand)]
        version = self.events[task.split("/")[1]][0]
        wanted = worlds.beginning(task, matched_version=version)
        [answer] = (await tasks.begin(self.log, {P: [wanted]}, {P: 1}, LEASE_MS, "w"))[P]
        expected = self._begin(task, version)
        told = answer.reason if isinstance(answer, tasks.Dropped) else type(answer).__name__
        assert expected == told
        if isinstance(answer, tasks.TryAgain):
            return
        process.hand.discard(task)
        if isinstance(answer, tasks.Begun):
            assert answer.manual == ("m" in self.want.get(task, ""))
            valid = [p for p in self.processes if p.sending.get(task, 0) > self.clock.now]
            assert not valid, "D9: two processes send one attempt, and no lease ended"
            process.sending[task] = self.due[task]

    def _begin(self, task: str, version: int) -> str:
        """What the script has to answer, and what it leaves behind."""
        _, _, name, created = delivery.parse_task_id(task)
        if task not in self.due:
            return "gone"
        if self._leased(task):
            return "leased"
        if self.shown_version < version:
            return "TryAgain"
        if "c" in self.want.get(task, ""):
            self._close("delivery.cancelled", task)
            return "cancelled"
        if self.shown.get(name) != (created, True):
            self._close("delivery.skipped", task)
            return "skipped"
        if task in self.want and "m" not in self.want[task]:
            self.want[task] = "m" + self.want[task][1:]
        self.due[task] = self.clock.now + LEASE_MS + 0.5
        return "Begun"

    async def record(self, who: int, number: int, *, ok: bool, retry: bool) -> None:
        process = self.processes[who]
        if not process.sending:
            return
        task = sorted(process.sending)[number % len(process.sending)]
        del process.sending[task]
        position = await worlds.record(self.log, task, succeeded=ok, retry_in_ms=RETRY_MS if retry else None)
        assert (position is not None) == (task in self.due)
        if position is None:
            return
        want = self.want.get(task, "")
        more = "r" * want.count("r")
        following = "manual" if more else "auto" if not ok and retry and "c" not in want else "none"
        self._close("attempt.succeeded" if ok else "attempt.failed", task, "m" in want, following)
        if following != "none":
            attempt, _, place = task.partition("/")
            later = f"{int(attempt) + 1}/{place}"
            self.due[later] = self.clock.now + (RETRY_MS if following == "auto" else 0)
            self.want |= {later: "r" * want.count("r")} if following == "manual" else {}

    def _close(self, kind: str, task: str, manual: bool = False, following: str = "") -> None:
        self.dlv.append((kind, task, manual, following))
        self.due.pop(task, None)
        self.want.pop(task, None)

    async def hold(self, who: int, delay_ms: int) -> None:
        process = self.processes[who]
        lost = await tasks.hold(self.log, {P: sorted(process.hand)}, delay_ms)
        mine = {task for task in process.hand if task in self.due and self.due[task] % 1 == 0}
        assert {(P, task) for task in process.hand - mine} == lost
        self.due |= dict.fromkeys(mine, float(self.clock.now + delay_ms))
        process.hand = mine if delay_ms else set()

    async def claim(self, who: int) -> None:
        claimed = (await tasks.claim_due(self.log, WATCHDOG_MS, 100, [P]))[P]
        expected = {task for task, score in self.due.items() if score <= self.clock.now}
        assert expected == {*claimed.tasks}
        self.due |= dict.fromkeys(expected, float(self.clock.now + WATCHDOG_MS))
        self.processes[who].hand |= expected

    async def kill(self, who: int) -> None:
        self.processes[who] = Process()

    async def double(self, who: int) -> None:
        """The queue hands to one process what any other has, or sends."""
        self.processes[who].hand |= {task for p in self.processes for task in p.hand | p.sending.keys()}

    # -- losing the group, and repairing

    async def lose_group(self) -> None:
        await self.log.command("XGROUP", "DESTROY", self.keys.evt, partitions.GROUP)
        self.whole = False
        self.losses += 1

    async def fold_for_later(self) -> None:
        """A repairer that makes the group again and folds, and comes to `mend` in a later step."""
        mark = (await repair.regroup(self.log, [P])).get(P)
        if mark is not None:
            reading = batching.Reading(1_000)
            fold = await driver._fold(self.log, P, repair.head_of(mark), reading)
            seen = await driver._follow(self.log, P, fold, "0-0", reading)
            missing = [
                repair.Missing(task, live.want, live.due_ms, live.manual) for task, live in fold.tasks().items()
            ]
            self.late = mark, seen, missing

    async def mend_late(self) -> None:
        if self.late is not None:
            mark, seen, missing = self.late
            self.late = None
            if await repair.mend(self.log, P, mark, seen, missing, last=True) not in (None, "more"):
                await self._mended()

    async def repair(self) -> None:
        await driver.mend_if_needed(self.log)
        await self._mended()

    async def _mended(self) -> None:
        """What was added is what the log says lives and was not in `due`; nothing else was touched."""
        self.whole = bool(await self.log.wait("XINFO", "GROUPS", self.keys.evt))
        real = await worlds.due(self.log)
        added = {task: score for task, score in real.items() if task not in self.due}
        assert all(score >= self.clock.now for score in added.values())
        self.unopened = {i for i in self.unopened if not {*self.events[i][1]} <= real.keys()}
        live = log_rules.live(await worlds.entries(self.log, "evt"), [*self.events], await self._entries())
        self.want |= {task: live[task].want for task in added if task in live and live[task].want}
        self.due |= added

    # -- what has to hold

    async def check(self) -> None:
        """The scripts did what the model did, D2, D4, and D3 in every state."""
        assert self.due == await worlds.due(self.log)
        assert self.want == await worlds.wants(self.log)
        entries = await self._entries()
        assert self.dlv == [_plain(entry) for entry in entries]
        log_rules.check_records(entries)
        live = log_rules.live(await worlds.entries(self.log, "evt"), [*self.events], entries)
        waiting = {task for entry_id in self.unopened for task in self.events[entry_id][1]}
        assert self.due.keys() <= live.keys(), "D3: in due without cause"
        if self.whole:
            assert live.keys() == self.due.keys() | waiting, "D3: fold of the log = due + un-acknowledged"
            assert not self.due.keys() & waiting
        manual = {f"/{task.partition('/')[2]}": str(wish.manual) for task, wish in live.items() if wish.manual}
        assert manual == await worlds.manuals(self.log), "manual attempts are not what the log says"
        for task, wish in live.items():
            if task in self.due:
                present = self.want.get(task, "")  # the log does not say which of the requests was begun
                assert wish.want[-1:] == present.replace("m", "r")[-1:]
                assert len(wish.want) - present.replace("m", "").count(wish.want[-1:] or "-") in (
                    0,
                    "m" in present,
                )

    async def finish(self) -> None:
        """Without a further fault everything is delivered or closed, and nothing stays pending: D1, D7."""
        await self.project()
        await self.repair()
        for _ in range(100):
            await self.read(0, 100)
            await self.sweep(0)
            await self.open(0)
            await self.wait(WATCHDOG_MS + LEASE_MS + 1)
            await self.claim(0)
            while self.processes[0].hand:
                await self.begin(0, 0)
            while self.processes[0].sending:
                await self.record(0, 0, ok=True, retry=False)
            await self.check()
            if not self.due and not await self._pending() and not await self._unread():
                return
        raise AssertionError("never delivered, recorded and acknowledged")

    def _leased(self, task: str) -> bool:
        return self.due[task] % 1 == 0.5 and self.due[task] > self.clock.now

    async def _entries(self) -> list[events.DeliveryEntry]:
        found = await worlds.entries(self.log, "dlv")
        return [entry for entry in found if isinstance(entry, events.DeliveryEntry)]

    async def _pending(self) -> set[str]:
        try:
            reply = await self.log.wait("XPENDING", self.keys.evt, partitions.GROUP, "-", "+", 1_000)
        except errors.GroupMissing:
            return set()
        return {entry_id.decode() for entry_id, *_ in reply}

    async def _unread(self) -> set[str]:
        [group] = await self.log.wait("XINFO", "GROUPS", self.keys.evt)
        last = dict(zip(group[::2], group[1::2], strict=True))[b"last-delivered-id"].decode()
        return {item.position.entry_id for item in await read.between(self.log, "evt", P, f"({last}")}


def _plain(entry: events.DeliveryEntry) -> tuple[str, str, bool, str]:
    detail = entry.detail
    return entry.type, str(entry.task), bool(detail and detail.manual), detail.next if detail else ""
