"""Destinations that accept connections and never answer, beside the load: their set-up, what is published to them,
and what the healthy destination felt of it. The port itself is `hole`'s, in the receiver process.
"""

from __future__ import annotations

import msgspec

from outpost.cli.bench import processes, report, samples, wire
from outpost.cli.bench import target as bench_target
from outpost.cli.bench.options import Options

A_TENANT = 20  # destinations of one tenant: the default of MAX_DESTINATIONS_PER_TENANT
MEGABYTE = 1e6


class Alone(msgspec.Struct, frozen=True):
    """The healthy destination's load before there was a black hole, and the memory by then."""

    phase: samples.PhaseSamples
    before: dict[str, processes.Usage]


def tenants(options: Options) -> int:
    """How many tenants the black holes need."""
    return -(-options.black_holes // A_TENANT)


async def dig(target: bench_target.Target, run: str, options: Options, url: str) -> None:
    """Create them, under the base URL `url`."""
    owners = [wire.hole_tenant_id(run, n) for n in range(tenants(options))]
    await target.create_tenants(owners)
    await target.create_webhooks(
        (owners[n // A_TENANT], f"{wire.hole_tenant_id(run, 0)}-d{n}", url + wire.hook_path(n))
        for n in range(options.black_holes)
    )


async def feed(target: bench_target.Target, run: str, options: Options, topic: str) -> None:
    """Publish to each as many events as were asked for; every event goes to all of its tenant's."""
    owners = [wire.hole_tenant_id(run, n) for n in range(tenants(options))]
    await target.publish(
        {"tenant_id": owner, "id": f"{owner}-e{n}", "topic": topic, "data": {"number": n}}
        for n in range(options.black_hole_events)
        for owner in owners
    )


async def fill(target: bench_target.Target, run: str, options: Options) -> None:
    """Delete them."""
    await target.delete_tenants(wire.hole_tenant_id(run, n) for n in range(tenants(options)))


def figures(
    options: Options,
    alone: Alone,
    beside: samples.PhaseSamples,
    arrivals: samples.Arrivals,
    received: wire.Received,
    after: dict[str, processes.Usage],
) -> report.BlackHoles:
    """The healthy destination's latency alone and the ratio, the sockets and the memory."""
    lone = samples.Percentiles.of(arrivals.latencies_ns(alone.phase))
    p99 = samples.Percentiles.of(arrivals.latencies_ns(beside)).p99
    return report.BlackHoles(
        destinations=options.black_holes,
        events_each=options.black_hole_events,
        alone_ms=lone,
        p99_ratio=round(p99 / lone.p99, 2) if lone.p99 else None,
        most_sockets=received.hole_most,
        sockets=received.hole_connections,
        memory_mb={name: (_mb(alone.before[name]), _mb(after[name])) for name in alone.before if name in after},
    )


def _mb(usage: processes.Usage) -> float:
    return round(usage.memory_bytes / MEGABYTE, 1)
