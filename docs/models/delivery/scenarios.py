"""The worlds that are searched, and for each guard of the protocol a world that shows what it is for."""

from __future__ import annotations

from docs.models.delivery import log_rules, processes
from docs.models.delivery.state import Scenario
from docs.models.search import Result, explore

SKIPPED = ("create d", "disable d", "enable d")

# Small enough to be searched by every run of the unit tests, about 20 s of CPU together.
SHORT = {
    "lanes": Scenario(),
    "broker": Scenario("broker"),
    "two destinations": Scenario(changes=("create d", "create e"), start=2, attempts=1),
    "calm lanes": Scenario(events=2, faults=False),  # no fault, and no watchdog ever ends:
    "calm broker": Scenario("broker", events=2, faults=False),  # nothing may wait for one
    "re-created": Scenario(changes=("create d", "delete d", "create d"), procs=1),
    "skipped version": Scenario(changes=("create d", "skip d"), faults=False, procs=1, attempts=1),
    "disabled": Scenario(changes=("create d", "disable d")),
    "two manual retries": Scenario(asks=("retry", "retry"), attempts=1, procs=1),
    "manual retry beside automatic ones": Scenario(asks=("retry",), procs=1),
    "two manual retries, calm": Scenario(asks=("retry", "retry"), faults=False, procs=1),
    "group lost, two processes": Scenario(group_lost=True, attempts=1),
    "group lost, retry": Scenario(group_lost=True, asks=("retry",), procs=1, attempts=1),
    "due lost, retry": Scenario(group_lost=True, due_lost=True, asks=("retry",), faults=False, procs=1),
    "due lost twice, in pieces": Scenario(
        group_lost=True, due_lost=True, pieces=True, faults=False, procs=1, attempts=1
    ),
    "trim": Scenario(trims=True, procs=1),
    "old looks": Scenario(asks=("retry", "retry"), apis=2, trims=True, faults=False, procs=1, attempts=1),
    "memory full": Scenario(events=2, memory_full=True, faults=False, procs=1, attempts=1),
    "clock ahead": Scenario(clock_ahead=1, procs=1),
}
LONG = {
    "lanes, two events": Scenario(events=2, attempts=1),
    "disable, enable, delete": Scenario(changes=("create d", "disable d", "enable d", "delete d")),
    "re-created, two processes": Scenario(changes=("create d", "delete d", "create d")),
    "config rebuilt": Scenario(changes=("create d", "disable d"), rebuilds=True),
    "manual retry": Scenario(asks=("retry",)),
    "three manual retries": Scenario(asks=("retry", "retry", "retry"), attempts=1, procs=1),
    "two manual retries, three attempts": Scenario(asks=("retry", "retry"), attempts=3, procs=1),
    "retry and cancel": Scenario(asks=("cancel", "retry"), attempts=1, procs=1),
    "retry and cancel, two attempts": Scenario(asks=("cancel", "retry"), procs=1),
    "retry, broker": Scenario("broker", asks=("retry",), attempts=1),
    "cancel, broker": Scenario("broker", asks=("cancel",)),
    "retry of a skipped": Scenario(changes=SKIPPED, asks=("retry",), attempts=1),
    "group lost": Scenario(events=2, group_lost=True, procs=1),
    "group lost, two attempts, retry": Scenario(group_lost=True, asks=("retry",), procs=1),
    "group lost, trim": Scenario(events=2, group_lost=True, trims=True, procs=1, attempts=1),
    "trim, two processes": Scenario(trims=True),
    "old looks, faults": Scenario(asks=("retry", "retry"), apis=2, trims=True, procs=1, attempts=1),
    "memory full, two processes": Scenario(events=2, memory_full=True, attempts=1),
    "clock ahead, two processes": Scenario(clock_ahead=1),
    "clock ahead, retry": Scenario(clock_ahead=1, asks=("retry",), procs=1, attempts=1),
}
SCENARIOS = SHORT | LONG

# Guard -> the scenario that breaks without it.
GUARDS = {
    "record-without-due-check": "lanes",
    "open-without-ack-gate": "lanes",
    "begin-without-lease-check": "lanes",
    "hold-without-xx": "lanes",
    "hold-over-a-lease": "lanes",
    "sweep-only-the-dead": "lanes",
    "future-score-is-lease": "calm lanes",
    "hand-over-before-open": "calm broker",
    "begin-without-creation-version": "re-created",
    "begin-behind-the-version": "disabled",
    "skipped-entry-moves-the-version": "skipped version",
    "begin-in-callers-generation": "config rebuilt",
    "request-before-open": "manual retry beside automatic ones",
    "request-ignores-lease": "manual retry",
    "record-ignores-request": "manual retry beside automatic ones",
    "manual-uses-up-none": "two manual retries, calm",
    "record-goes-by-what-was-begun": "manual retry",
    "request-without-fence": "two manual retries",
    "asked-is-one": "three manual retries",
    "cancel-in-flight-at-once": "retry and cancel",
    "request-older-than-the-cut": "old looks",
    "trim-past-pending": "trim",
    "trim-dlv-first": "group lost, trim",
    "group-after-fold": "group lost",
    "mend-without-fence": "group lost",
    "mend-of-another-loss": "due lost twice, in pieces",
    "mend-tells-manual": "due lost, retry",
    "open-refused-before-it-acknowledges": "memory full",
    "open-fails-with-what-is-acknowledged-live": "memory full, two processes",
    "claim-beyond-the-longest-delay": "clock ahead",
}


def search(name: str, max_states: int = 3_000_000) -> Result:
    """Searches one scenario."""
    c = SCENARIOS[name]
    shared: dict[object, object] = {}
    log_rules.fold.cache_clear()
    log_rules.check_records.cache_clear()
    return explore(
        c.first(),
        lambda w: processes.Steps(w, c).all(),
        lambda w: log_rules.check(w, c.attempts),
        max_states,
        lambda w: w._replace(redis=shared.setdefault(w.redis, w.redis)),
    )
