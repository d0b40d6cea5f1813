"""The result of a bench: the struct that is its JSON form, and the table for people."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from outpost.cli.bench import samples, verdict

STDOUT = "-"


class LoadShape(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for. `rate` is None in closed loop."""

    mode: str
    rate: float | None
    seconds: float
    warmup_s: float
    tenants: int
    fan_out: int
    connections: int
    payload_bytes: int


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """A second, of the measured phase. `end_to_end` counts events until the log listed all of them."""

    published: float
    deliveries: float
    end_to_end: float | None


class Lateness(msgspec.Struct, frozen=True, kw_only=True):
    """The generator against its own schedule. `late_sends` were more than 5 ms behind; `no_connection_free`
    were due while every connection waited for an answer."""

    late_sends: int
    worst_ms: float
    no_connection_free: int


class ProcessCost(msgspec.Struct, frozen=True, kw_only=True):
    """One named process with its descendants, over the measured phase until the log had caught up."""

    name: str
    pids: int
    cpu_us_per_event: float
    cpu_seconds: float
    memory_mb: float


class BlackHoles(msgspec.Struct, frozen=True, kw_only=True):
    """What destinations that never answer did to the load beside them. `alone_ms` is publish to receiver without
    them, `p99_ratio` that with them to it; `most_sockets` were open to them at once, of `sockets` in all;
    `memory_mb` of each process of the target, before and after."""

    destinations: int
    events_each: int
    alone_ms: samples.Percentiles
    p99_ratio: float | None
    most_sockets: int
    sockets: int
    memory_mb: dict[str, tuple[float, float]]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `problems` is empty if every check held."""

    run: str
    url: str
    load: LoadShape
    events: int
    counts: verdict.Counts
    rates: Rates
    publish_to_receiver_ms: samples.Percentiles
    publish_to_answer_ms: samples.Percentiles
    lateness: Lateness
    target_cpu_us_per_event: float | None
    processes: list[ProcessCost]
    problems: list[str]
    black_holes: BlackHoles | None = None


def progress(sentence: str) -> None:
    """Tell the user what goes on, on stderr."""
    print(f"outpost bench: {sentence}", file=sys.stderr, flush=True)


def show(result: Result, json_path: str | None) -> None:
    """Write the JSON where it was asked for, and the table to stdout unless the JSON went there."""
    if write_json(result, json_path):
        return
    console = Console(highlight=False)
    for table in (_figures(result), _checks(result.counts), _latency(result), _processes(result)):
        console.print(table)
    if result.black_holes is not None:
        console.print(_black_holes(result.black_holes))
    for problem in result.problems:
        console.print(f"FAILED: {problem}", style="bold red", markup=False, soft_wrap=True)
    if not result.problems:
        console.print("every check held: sent = accepted + refused, accepted = delivered = logged", style="green")


def write_json(result: msgspec.Struct, json_path: str | None) -> bool:
    """Write it where it was asked for; whether that was stdout, where nothing else is to stand then."""
    text = msgspec.json.format(msgspec.json.encode(result), indent=2)
    if json_path == STDOUT:
        sys.stdout.write(text.decode() + "\n")
        sys.stdout.flush()
    elif json_path is not None:
        Path(json_path).write_bytes(text + b"\n")
    return json_path == STDOUT


def _figures(result: Result) -> Table:
    load = result.load
    asked = "closed loop" if load.rate is None else f"{load.rate:g} events/s"
    title = (
        f"{asked} for {load.seconds:g} s, {load.tenants} tenant(s), fan-out {load.fan_out}, "
        f"{load.connections} connections, {load.payload_bytes} B"
    )
    table = Table(title=title, title_justify="left", show_header=False)
    end_to_end = result.rates.end_to_end
    table.add_row("published (accepted)", f"{result.rates.published:,.0f} events/s")
    table.add_row("delivered", f"{result.rates.deliveries:,.0f} deliveries/s")
    table.add_row(
        "published -> delivered -> logged", "incomplete" if end_to_end is None else f"{end_to_end:,.0f} events/s"
    )
    late = result.lateness
    if load.rate is not None:
        table.add_row("late sends (> 5 ms)", f"{late.late_sends:,}, worst {late.worst_ms:.1f} ms")
        table.add_row("due while no connection was free", f"{late.no_connection_free:,}")
    return table


def _checks(counts: verdict.Counts) -> Table:
    table = Table(title="distinct ids, warm-up included", title_justify="left")
    table.add_column("")
    table.add_column("events", justify="right")
    table.add_column("deliveries", justify="right")
    table.add_row("sent", f"{counts.sent:,}", "")
    table.add_row("accepted", f"{counts.accepted:,}", f"{counts.expected_deliveries:,}")
    table.add_row("delivered", "", f"{counts.delivered:,}")
    table.add_row("logged", f"{counts.logged_events:,}", f"{counts.logged_deliveries:,}")
    table.add_row("refused (429, 503)", f"{counts.refused:,}", "")
    table.add_row("failed publishes", f"{counts.failed:,}", "")
    table.add_row("doubled deliveries", "", f"{counts.doubled:,}")
    table.add_row("failed attempts", "", f"{counts.failed_attempts:,}")
    return table


def _latency(result: Result) -> Table:
    table = Table(title="latency from the due time, ms", title_justify="left")
    table.add_column("")
    for name in ("p50", "p90", "p99", "p99.9", "max"):
        table.add_column(name, justify="right")
    rows = [
        ("publish -> receiver", result.publish_to_receiver_ms),
        ("publish -> answer", result.publish_to_answer_ms),
    ]
    if result.black_holes is not None:
        rows.append(("publish -> receiver, no black holes", result.black_holes.alone_ms))
    for name, found in rows:
        values = (found.p50, found.p90, found.p99, found.p999, found.max)
        table.add_row(name, *(f"{value:.2f}" for value in values))
    return table


def _processes(result: Result) -> Table:
    table = Table(title=f"processes, over {result.events:,} events", title_justify="left")
    table.add_column("")
    for name in ("pids", "CPU us/event", "CPU s", "memory MB"):
        table.add_column(name, justify="right")
    for one in result.processes:
        figures = (f"{one.cpu_us_per_event:.1f}", f"{one.cpu_seconds:.2f}", f"{one.memory_mb:.0f}")
        table.add_row(one.name, str(one.pids), *figures)
    if result.target_cpu_us_per_event is not None:
        table.add_row("the target in all", "", f"{result.target_cpu_us_per_event:.1f}", "", "")
    return table


def _black_holes(found: BlackHoles) -> Table:
    title = f"{found.destinations:,} black holes, {found.events_each} event(s) each"
    table = Table(title=title, title_justify="left", show_header=False)
    ratio = "nothing was measured" if found.p99_ratio is None else f"{found.p99_ratio:g}"
    table.add_row("p99 beside them / alone", ratio)
    table.add_row("sockets to them at once, in all", f"{found.most_sockets:,}, {found.sockets:,}")
    for name, (before, after) in found.memory_mb.items():
        table.add_row(f"memory of {name}, before and after", f"{before:.0f} MB, {after:.0f} MB")
    return table
