"""`make bench-destinations`: the command as a whole for a type that takes one event a send and one that takes
many, and what it says where it cannot run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from outpost.cli import bench
from tests.benchmarks import __main__ as command
from tests.benchmarks import destinations, load, report, stage
from tests.harness import servers
from tests.harness.destinations import kafka

EVENTS = 60


def run(*words: str) -> int:
    return command.main(words)


def _adds_up(side: dict[str, Any]) -> None:
    assert [EVENTS, EVENTS, {}] == [side["sent"], side["delivered"], side["failed"]]
    assert side["arrived"] == side["warm_up"] + EVENTS
    assert side["per_second"] == pytest.approx(EVENTS / side["seconds"], rel=0.01)  # both are rounded
    assert 0 < side["cpu_us"]


def test_the_figures_of_single_and_batched_deliveries_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    if missing := kafka.World.missing():
        servers.leave_out(missing)
    path = tmp_path / "result.json"
    assert 0 == run("--type", "kafka", "--type", "webhook", "--events", str(EVENTS), "--json", str(path))
    result = json.loads(path.read_text())
    assert [[], {}] == [result["problems"], result["left_out"]]
    webhook, batched = result["types"]
    assert ["webhook", "kafka"] == [webhook["type"], batched["type"]]
    for row in result["types"]:
        _adds_up(row["ours"])
        _adds_up(row["single"])
        sends = row["batches"]
        assert sends["sends"] * sends["mean"] == pytest.approx(EVENTS, rel=0.05)
    assert [EVENTS, 1.0, 1] == list(webhook["batches"].values())
    assert 1 < batched["batches"]["mean"] <= batched["batches"]["most"] <= EVENTS
    shown = capsys.readouterr().out
    for word in ("webhook", "httpx", "kafka", "aiokafka", "every check held"):
        assert word in shown


def test_a_type_that_is_not_on_this_machine_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    row = report.Row(
        type="webhook",
        ours=side(),
        batches=report.batches([1]),
        library="httpx",
        callers=4,
        single=side(),
    )

    async def one(type_: str, *_: object) -> report.Row | str:
        return row if type_ == "webhook" else "apt-get install it"

    monkeypatch.setattr(destinations, "_one", one)
    assert 0 == run("--type", "kafka", "--type", "webhook", "--events", "1")
    assert "left out: kafka: apt-get install it\n" in capsys.readouterr().out
    assert bench.REFUSED_EXIT == run("--type", "kafka")
    expected = "make bench-destinations: no type can be measured on this machine: kafka: apt-get install it\n"
    assert expected == capsys.readouterr().err


def side(**changes: Any) -> report.Side:
    tally = load.Tally(sent=1, delivered=1, seconds=0.5, cpu_s=0.25)
    for name, value in changes.items():
        setattr(tally, name, value)
    return report.side(tally, load.Tally(delivered=2), arrived=3)


def test_the_figures_of_a_side_are_those_of_the_measured_time():
    found = side()
    assert [2.0, 250_000.0, 2] == [found.per_second, found.cpu_us, found.warm_up]


def test_what_failed_or_did_not_arrive_is_told():
    row = report.Row(
        type="kafka",
        ours=side(failed=load.Counter({"timeout": 3})),
        batches=report.batches([1]),
        library="aiokafka",
        callers=64,
        single=side(delivered=2),
    )
    assert [
        "kafka by Outpost: deliveries failed: timeout (3)",
        "kafka by aiokafka: 4 were delivered, and 3 are there",
    ] == report.problems(row)


def test_options_that_cannot_be_used_are_told_all_at_once(capsys: pytest.CaptureFixture[str]):
    assert bench.REFUSED_EXIT == run("--type", "smoke-signal", "--events", "0", "--seconds", "0")
    told = capsys.readouterr().err
    for sentence in ("--type smoke-signal: there is no such type", "--events must be", "--seconds must be"):
        assert sentence in told


def test_every_type_has_a_stand_in_and_a_library():
    from outpost import settings
    from outpost.adapters import registry

    types = {one.type for one in registry.build(settings.Settings()).types()}
    assert types == set(stage.STAGES) == set(destinations.sdk.LIBRARIES)
