"""One bench from start to end: target, processes, set-up, warm-up, load, drain, checks, figures. Everything
started here is stopped here, in the reverse order.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from asyncio import sleep
from collections.abc import Callable
from pathlib import Path
from time import monotonic, monotonic_ns

import msgspec

from outpost import errors
from outpost.cli.bench import blackholes, figures, logcheck, pipe, processes, report, samples, spawn, verdict, wire
from outpost.cli.bench import target as bench_target
from outpost.cli.bench.options import Named, Options

RUN_ID_BYTES = 4
COMMAND_LIMIT_S = 30.0  # to write or answer what is at hand
COUNT_POLL_S = 0.02
RECHECK_S = 0.5
NS_A_SECOND = 1e9


class Bench:
    """A bench that is set up: the two processes, the target and its log."""

    def __init__(
        self,
        options: Options,
        plan: wire.Plan,
        workers: tuple[pipe.Worker, pipe.Worker],
        target: bench_target.Target,
        folder: Path,
        hole_url: str = "",
    ) -> None:
        self.options = options
        self.target = target
        self.hole_url = hole_url
        self.plan = plan
        self.generator, self.receiver = workers
        self.log = logcheck.Log(target, plan.run, plan.tenants, plan.fan_out)
        self.folder = folder
        self.phases: list[samples.PhaseSamples] = []

    async def load(self, seconds: float) -> samples.PhaseSamples:
        """One stretch of load, until its answers are in."""
        options = self.options
        first = self.phases[-1].first + self.phases[-1].answer.issued if self.phases else 0
        phase = wire.Phase(
            first=first,
            count=max(1, round(options.rate * seconds)),
            interval_ns=NS_A_SECOND / options.rate,
            seconds=seconds,
            closed=options.closed,
            limit_s=options.drain_s,
            path=str(self.folder / f"sent-{len(self.phases)}"),
        )
        answer = await self.generator.ask(phase, seconds + options.drain_s + COMMAND_LIMIT_S)
        found = samples.PhaseSamples(phase, msgspec.json.decode(answer, type=wire.Sent))
        self.phases.append(found)
        return found

    async def drain(self, deadline: float) -> int | None:
        """Wait for the deliveries, then for the log. Returns when it had caught up, in ns; None if it had not by
        `deadline`."""
        outcomes = verdict.Outcomes(self.phases)
        expected = len(outcomes.accepted) * self.plan.fan_out
        while (await self.collect()).distinct < expected:
            if monotonic() > deadline:
                return None
            await sleep(COUNT_POLL_S)
        latest = [self.phases[-1].first + place for place in self.phases[-1].accepted()]
        if await self.log.wait_for_probes(latest, deadline - monotonic()):
            return monotonic_ns()
        return None

    async def collect(self, path: str = "") -> wire.Received:
        """The receiver's counts, and its arrival times in the file `path` if one is given."""
        answer = await self.receiver.ask(wire.Collect(path), COMMAND_LIMIT_S)
        return msgspec.json.decode(answer, type=wire.Received)

    async def evidence(self, deadline: float) -> tuple[verdict.Evidence, bool]:
        """Page the log until nothing is missing or `deadline`; whether the first reading was enough. The receiver
        is read last, so that a delivery that comes twice has had the time to."""
        outcomes = verdict.Outcomes(self.phases)
        readings = 1
        listed = await self.log.read()
        while not self._whole(outcomes, listed) and monotonic() < deadline:
            await sleep(RECHECK_S)
            listed = await self.log.read()
            readings += 1
        path = self.folder / "arrivals"
        received = await self.collect(str(path))
        arrivals = samples.Arrivals(path, self.plan.fan_out)
        return verdict.Evidence(self.plan.run, outcomes, arrivals, received, listed), readings == 1

    def _whole(self, outcomes: verdict.Outcomes, listed: logcheck.Listed) -> bool:
        deliveries = len(outcomes.accepted) * self.plan.fan_out
        return listed.events.issuperset(outcomes.accepted) and len(listed.deliveries) >= deliveries


async def run(options: Options, tell: Callable[[str], None]) -> report.Result:
    """The whole bench. Raises `StartRefused` if the target or a process of ours does not play along."""
    async with contextlib.AsyncExitStack() as stack:
        url, key, pids = options.url, options.key, options.pids
        if url is None:
            tell("starting a throw-away server")
            server = await stack.enter_async_context(spawn.spawned(options.queue))
            url, key, pids = server.url, server.key, (*server.pids, *options.pids)
        _refuse_absent(pids)
        plan = wire.Plan(
            run=secrets.token_hex(RUN_ID_BYTES),
            url=url,
            key=key,
            host=options.receiver_host,
            tenants=options.tenants,
            fan_out=options.fan_out,
            connections=options.connections,
            payload_bytes=options.payload_bytes,
        )
        target = await stack.enter_async_context(bench_target.Target(url, key, plan.run))
        plan = msgspec.structs.replace(plan, topic=options.topic or await target.topic())
        return await _with_workers(options, plan, target, pids, tell, stack)


def _refuse_absent(pids: tuple[Named, ...]) -> None:
    everyone = processes.table()
    gone = [f"--pid {one.name}={one.pid}: there is no such process" for one in pids if one.pid not in everyone]
    if gone:
        raise errors.ConfigurationError(gone)


async def _with_workers(
    options: Options,
    plan: wire.Plan,
    target: bench_target.Target,
    pids: tuple[Named, ...],
    tell: Callable[[str], None],
    stack: contextlib.AsyncExitStack,
) -> report.Result:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outpost-bench-samples-")))
    receiver, line = await pipe.Worker.start("outpost.cli.bench.receiver", plan)
    stack.push_async_callback(receiver.stop)
    ready = msgspec.json.decode(line, type=wire.Ready)
    if not options.keep:
        stack.push_async_callback(_remove, target, options, plan.run, tell)
    tell(f"creating {options.tenants} tenant(s) with {options.fan_out} destination(s) each")
    base = f"http://{_authority(options.receiver_host)}"
    await target.set_up(options.tenants, options.fan_out, f"{base}:{ready.port}")
    generator, _ = await pipe.Worker.start("outpost.cli.bench.generator", plan)
    stack.push_async_callback(generator.stop)
    bench = Bench(options, plan, (generator, receiver), target, folder, f"{base}:{ready.hole_port}")
    named = (*pids, Named(figures.GENERATOR, generator.pid), Named(figures.RECEIVER, receiver.pid))
    return await _measure(bench, named, tell)


def _authority(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _measure(bench: Bench, named: tuple[Named, ...], tell: Callable[[str], None]) -> report.Result:
    options = bench.options
    if options.warmup_s:
        tell(f"warming up for {options.warmup_s:g} s")
        await bench.load(options.warmup_s)
        if await bench.drain(monotonic() + options.drain_s) is None:
            tell("the warm-up was not delivered and logged in time; the load comes on top of it")
    alone = await _dig_black_holes(bench, named, tell) if options.black_holes else None
    tell(f"loading for {options.seconds:g} s")
    before = processes.usage(named)
    measured = await bench.load(options.seconds)
    deadline = monotonic() + options.drain_s
    logged_ns = await bench.drain(deadline)
    after = processes.usage(named)
    tell("reading the whole log")
    evidence, at_once = await bench.evidence(deadline)
    if not at_once and logged_ns is not None:
        logged_ns = monotonic_ns()  # the probes were listed before all the others
    return figures.result(
        figures.Measured(options, bench.plan.url, measured, evidence, before, after, logged_ns, alone)
    )


async def _dig_black_holes(
    bench: Bench, named: tuple[Named, ...], tell: Callable[[str], None]
) -> blackholes.Alone:
    """The load alone, then the black holes with their events."""
    options, run = bench.options, bench.plan.run
    tell(f"loading for {options.seconds:g} s, without black holes")
    phase = await bench.load(options.seconds)
    await bench.drain(monotonic() + options.drain_s)
    usage = {name: one for name, one in processes.usage(named).items() if name not in figures.OURS}
    tell(f"creating {options.black_holes:,} black holes with {options.black_hole_events} event(s) each")
    await blackholes.dig(bench.target, run, options, bench.hole_url)
    await blackholes.feed(bench.target, run, options, bench.plan.topic)
    return blackholes.Alone(phase, usage)


async def _remove(target: bench_target.Target, options: Options, run: str, tell: Callable[[str], None]) -> None:
    try:
        await target.remove(options.tenants)
        await blackholes.fill(target, run, options)
    except errors.StartRefused as error:
        tell(f"the tenants of the run were not all deleted: {error}")
