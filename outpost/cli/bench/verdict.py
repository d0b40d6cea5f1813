"""Compares what was sent, accepted, delivered and logged by distinct id. Pure: samples in, counts and
sentences out; no sentence means that every check held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from outpost.cli.bench import logcheck, samples, wire

SHOWN_IDS = 3


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Over the whole run, warm-up included. A delivery is a pair of event and destination."""

    scheduled: int
    sent: int
    accepted: int
    refused: int
    failed: int
    resent: int
    expected_deliveries: int
    delivered: int
    doubled: int
    misrouted: int
    foreign: int
    logged_events: int
    logged_deliveries: int
    failed_attempts: int


class Outcomes:
    """The numbers of the events by what the target answered."""

    def __init__(self, phases: Sequence[samples.PhaseSamples]) -> None:
        self.phases = phases
        self.statuses: Counter[int] = Counter()
        self.accepted: list[int] = []
        self.refused: list[int] = []
        for phase in phases:
            self.statuses += phase.statuses()
            self.accepted += [phase.first + place for place in phase.accepted()]
            self.refused += [
                phase.first + place for place, status in enumerate(phase.status) if status in samples.REFUSALS
            ]
        self.sent = sum(phase.answer.issued for phase in phases)
        self.scheduled = sum(phase.answer.scheduled for phase in phases)


class Evidence(msgspec.Struct, frozen=True):
    """All that the verdict needs."""

    run: str
    outcomes: Outcomes
    arrivals: samples.Arrivals
    received: wire.Received
    listed: logcheck.Listed


def counts(evidence: Evidence) -> Counts:
    """The figures that are compared."""
    outcomes, received, listed = evidence.outcomes, evidence.received, evidence.listed
    accepted, refused = len(outcomes.accepted), len(outcomes.refused)
    return Counts(
        scheduled=outcomes.scheduled,
        sent=outcomes.sent,
        accepted=accepted,
        refused=refused,
        failed=outcomes.sent - accepted - refused,
        resent=sum(phase.answer.resent for phase in outcomes.phases),
        expected_deliveries=accepted * evidence.arrivals.fan_out,
        delivered=received.distinct,
        doubled=received.doubled,
        misrouted=received.misrouted,
        foreign=received.foreign + listed.foreign,
        logged_events=len(listed.events),
        logged_deliveries=len(listed.deliveries),
        failed_attempts=listed.failed_attempts,
    )


def problems(evidence: Evidence, *, allow_duplicates: bool) -> list[str]:
    """One sentence for each check that failed."""
    return [
        *_publishing(evidence.outcomes),
        *_missing(evidence),
        *_surplus(evidence, allow_duplicates=allow_duplicates),
    ]


def _publishing(outcomes: Outcomes) -> list[str]:
    found = []
    if unsent := outcomes.scheduled - outcomes.sent:
        found.append(f"{unsent} of {outcomes.scheduled} scheduled events could not be sent in time")
    if not outcomes.accepted:
        found.append("no event was accepted")
    names = {wire.UNANSWERED: "were not answered in time", wire.LOST: "lost their connection twice"}
    for status, number in sorted(outcomes.statuses.items()):
        if status != samples.ACCEPTED and status not in samples.REFUSALS:
            found.append(f"{number} publishes {names.get(status, f'were answered {status}')}")
    return found


def _missing(evidence: Evidence) -> list[str]:
    arrivals, listed, run = evidence.arrivals, evidence.listed, evidence.run
    undelivered, unlogged, unrecorded = [], [], []
    for number in evidence.outcomes.accepted:
        keys = [wire.key_of(number, place, arrivals.fan_out) for place in range(arrivals.fan_out)]
        if not all(arrivals.of(number)):
            undelivered.append(number)
        if number not in listed.events:
            unlogged.append(number)
        if not listed.deliveries.issuperset(keys):
            unrecorded.append(number)
    hint = ""
    if undelivered and not evidence.received.distinct:
        hint = "; does the server allow deliveries to the receiver's address (DESTINATIONS_ALLOWED_CIDRS)?"
    return [
        *_sentence(run, undelivered, f"accepted events did not reach every destination{hint}"),
        *_sentence(run, unlogged, "accepted events are not listed by GET /events"),
        *_sentence(run, unrecorded, "accepted events lack a successful attempt in GET /attempts"),
    ]


def _surplus(evidence: Evidence, *, allow_duplicates: bool) -> list[str]:
    received, listed, run = evidence.received, evidence.listed, evidence.run
    ghosts = [
        number
        for number in evidence.outcomes.refused
        if any(evidence.arrivals.of(number)) or number in listed.events
    ]
    found = _sentence(run, ghosts, "refused events were delivered or logged all the same")
    if received.doubled and not allow_duplicates:
        shown = ", ".join(wire.event_id(run, number) for number in received.doubled_ids[:SHOWN_IDS])
        found.append(f"{received.doubled} deliveries came more than once: {shown}")
    for number, what in (
        (received.misrouted, "deliveries reached a destination of another tenant"),
        (received.foreign, "requests to the receiver carried no event id of this run"),
        (received.malformed, "requests to the receiver were not HTTP"),
        (listed.foreign, "listed events or attempts are not of this run or of another tenant"),
        (listed.doubled_events, "events are listed more than once"),
        (listed.doubled_attempts, "attempts are listed more than once"),
    ):
        if number:
            found.append(f"{number} {what}")
    return found


def _sentence(run: str, numbers: list[int], what: str) -> list[str]:
    if not numbers:
        return []
    shown = ", ".join(wire.event_id(run, number) for number in numbers[:SHOWN_IDS])
    return [f"{len(numbers)} {what} (first: {shown})"]
