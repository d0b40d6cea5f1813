"""From samples to the result: rates, latencies, lateness and CPU cost of the measured phase. Pure."""

from __future__ import annotations

import msgspec

from outpost.cli.bench import blackholes, processes, report, samples, verdict
from outpost.cli.bench.options import Options

GENERATOR, RECEIVER = "bench generator", "bench receiver"
OURS = frozenset({GENERATOR, RECEIVER})
NS_A_SECOND = 1e9
MEGABYTE = 1e6


class Measured(msgspec.Struct, frozen=True):
    """What the measured phase left behind; `logged_ns` is None if the log did not catch up."""

    options: Options
    url: str
    phase: samples.PhaseSamples
    evidence: verdict.Evidence
    before: dict[str, processes.Usage]
    after: dict[str, processes.Usage]
    logged_ns: int | None
    alone: blackholes.Alone | None = None


def result(measured: Measured) -> report.Result:
    """The whole result, with the sentences of the checks that failed."""
    options, phase, evidence = measured.options, measured.phase, measured.evidence
    events = sum(1 for _ in phase.accepted())
    problems = verdict.problems(evidence, allow_duplicates=options.allow_duplicates)
    ended = measured.before.keys() - measured.after.keys()
    problems += [f"process {name} ended during the bench" for name in sorted(ended)]
    costs = _costs(measured, events)
    of_target = [cost.cpu_us_per_event for cost in costs if cost.name not in OURS]
    return report.Result(
        run=evidence.run,
        url=measured.url,
        load=_shape(options),
        events=events,
        counts=verdict.counts(evidence),
        rates=_rates(measured, events),
        publish_to_receiver_ms=samples.Percentiles.of(evidence.arrivals.latencies_ns(phase)),
        publish_to_answer_ms=samples.Percentiles.of(phase.accept_ns()),
        lateness=_lateness(phase),
        target_cpu_us_per_event=round(sum(of_target), 1) if of_target else None,
        processes=costs,
        problems=problems,
        black_holes=_black_holes(measured),
    )


def _black_holes(measured: Measured) -> report.BlackHoles | None:
    alone, evidence = measured.alone, measured.evidence
    if alone is None:
        return None
    return blackholes.figures(
        measured.options, alone, measured.phase, evidence.arrivals, evidence.received, measured.after
    )


def _shape(options: Options) -> report.LoadShape:
    return report.LoadShape(
        mode="closed" if options.closed else "open",
        rate=None if options.closed else options.rate,
        seconds=options.seconds,
        warmup_s=options.warmup_s,
        tenants=options.tenants,
        fan_out=options.fan_out,
        connections=options.connections,
        payload_bytes=options.payload_bytes,
    )


def _rates(measured: Measured, events: int) -> report.Rates:
    phase, arrivals = measured.phase, measured.evidence.arrivals
    start = phase.answer.start_ns
    deliveries = sum(1 for place in phase.accepted() for at in arrivals.of(phase.first + place) if at)
    logged = None if measured.logged_ns is None else _per_second(events, measured.logged_ns - start)
    return report.Rates(
        published=_per_second(events, int(phase.publish_seconds() * NS_A_SECOND)),
        deliveries=_per_second(deliveries, arrivals.last_ns(phase) - start),
        end_to_end=logged,
    )


def _per_second(count: int, span_ns: int) -> float:
    return round(count / (span_ns / NS_A_SECOND), 1) if span_ns > 0 else 0.0


def _lateness(phase: samples.PhaseSamples) -> report.Lateness:
    behind = phase.lateness_ns()
    return report.Lateness(
        late_sends=sum(1 for one in behind if one > samples.LATE_NS),
        worst_ms=round(max(behind, default=0) / 1e6, 3),
        no_connection_free=0 if phase.closed else phase.answer.blocked,
    )


def _costs(measured: Measured, events: int) -> list[report.ProcessCost]:
    costs = []
    for name, before in measured.before.items():
        after = measured.after.get(name)
        if after is None:
            continue
        cpu_s = after.cpu_s - before.cpu_s
        costs.append(
            report.ProcessCost(
                name=name,
                pids=after.processes,
                cpu_us_per_event=round(cpu_s * 1e6 / max(1, events), 1),
                cpu_seconds=round(cpu_s, 2),
                memory_mb=round(after.memory_bytes / MEGABYTE, 1),
            )
        )
    return costs
