"""The result of `make bench-destinations`: the struct that is its JSON form, and the table for people."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from outpost.cli.bench import report
from tests.benchmarks import load


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One side of one type, in the measured time. `arrived` is what the stand-in holds of it and of the warm-up,
    which has `warm_up` events; CPU time is that of the sending process."""

    sent: int
    delivered: int
    failed: dict[str, int]
    warm_up: int
    arrived: int
    seconds: float
    per_second: float
    cpu_us: float


class Batches(msgspec.Struct, frozen=True, kw_only=True):
    """How many events a send of ours carried."""

    sends: int
    mean: float
    most: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One type. `library` made the single calls beside ours, `callers` at once."""

    type: str
    ours: Side
    batches: Batches
    library: str
    callers: int
    single: Side


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All of it: at most `at_once` deliveries of ours were under way. `left_out` says of a type what is not on
    this machine. `problems` is empty if all arrived."""

    events: int
    seconds: float
    payload_bytes: int
    at_once: int
    types: list[Row]
    left_out: dict[str, str]
    problems: list[str]


def side(tally: load.Tally, warm: load.Tally, arrived: int) -> Side:
    """The figures of one side."""
    return Side(
        sent=tally.sent,
        delivered=tally.delivered,
        failed=dict(tally.failed + warm.failed),
        warm_up=warm.delivered,
        arrived=arrived,
        seconds=round(tally.seconds, 6),
        per_second=round(tally.delivered / tally.seconds, 1),
        cpu_us=round(tally.cpu_s / max(1, tally.delivered) * 1e6, 1),
    )


def batches(sizes: Sequence[int]) -> Batches:
    """The figures of the sends that carried so many events each."""
    return Batches(sends=len(sizes), mean=round(sum(sizes) / max(1, len(sizes)), 1), most=max(sizes, default=0))


def problems(row: Row) -> list[str]:
    """A sentence for each side in which something failed or did not arrive."""
    found = []
    for name, one in (("Outpost", row.ours), (row.library, row.single)):
        if one.failed:
            told = ", ".join(f"{code} ({count:,})" for code, count in one.failed.items())
            found.append(f"{row.type} by {name}: deliveries failed: {told}")
        if one.arrived != one.delivered + one.warm_up:
            expected = one.delivered + one.warm_up
            found.append(f"{row.type} by {name}: {expected:,} were delivered, and {one.arrived:,} are there")
    return found


def show(result: Result, json_path: str | None) -> None:
    """Write the JSON where it was asked for, and the table to stdout unless the JSON went there."""
    if report.write_json(result, json_path):
        return
    console = Console(highlight=False)
    console.print(_table(result))
    for type_, sentence in result.left_out.items():
        console.print(f"left out: {type_}: {sentence}", markup=False, soft_wrap=True)
    for row in result.types:
        if row.ours.sent < result.events or row.single.sent < row.ours.sent:
            sent = f"{row.ours.sent:,} deliveries and {row.single.sent:,} calls"
            console.print(f"{row.type}: the time was over after {sent}")
    for problem in result.problems:
        console.print(f"FAILED: {problem}", style="bold red", markup=False, soft_wrap=True)
    if result.types and not result.problems:
        console.print("every check held: all that was delivered has arrived, once", style="green")


def _table(result: Result) -> Table:
    title = f"{result.events:,} deliveries of {result.payload_bytes} B by Outpost, and by the bare library alone"
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for name in ("at once", "per second", "CPU us", "batch mean", "most"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result.types:
        ours, single = row.ours, row.single
        batch = (f"{row.batches.mean:.1f}", str(row.batches.most))
        table.add_row(row.type, str(result.at_once), *_figures(ours), *batch, style="bold")
        table.add_row(f"  {row.library}", str(row.callers), *_figures(single))
        ratios = (_ratio(ours.per_second, single.per_second), _ratio(ours.cpu_us, single.cpu_us))
        table.add_row("  ours / library", "", *ratios, end_section=True)
    return table


def _figures(one: Side) -> tuple[str, str]:
    return f"{one.per_second:,.0f}", f"{one.cpu_us:,.0f}"


def _ratio(ours: float, single: float) -> str:
    return f"{ours / single:.2f}" if single else ""
