"""The command line of the bench: defaults, every problem at once, help that says what is measured."""

import argparse
import importlib.util

import pytest

from outpost import errors
from outpost.cli import bench
from outpost.cli.bench import options


def parsed(*words):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return options.from_args(parser.parse_args(words))


def test_without_arguments_it_is_the_default_load_on_a_server_of_its_own(monkeypatch):
    monkeypatch.delenv(options.KEY_VARIABLE, raising=False)
    assert options.Options() == parsed()


def test_every_option_arrives():
    expected = options.Options(
        url="http://h:1/api/v1",
        key="k",
        rate=5,
        seconds=2,
        warmup_s=0,
        drain_s=3,
        closed=True,
        tenants=4,
        fan_out=6,
        connections=7,
        payload_bytes=900,
        topic="t",
        receiver_host="10.0.0.1",
        pids=(options.Named("a", 1), options.Named("b", 2)),
        json_path="-",
        keep=True,
        allow_duplicates=True,
        black_hole_events=8,
    )
    words = """
        --url http://h:1/api/v1/ --key k --rate 5 --seconds 2 --warmup 0 --drain 3 --max --tenants 4
        --fan-out 6 --connections 7 --payload-bytes 900 --topic t --receiver-host 10.0.0.1
        --pid a=1 --pid b=2 --json - --keep --allow-duplicates
        --black-hole-events 8
    """
    assert expected == parsed(*words.split())


def test_the_key_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv(options.KEY_VARIABLE, "from-environment")
    assert "from-environment" == parsed("--url", "http://h/api/v1").key


def test_every_problem_is_reported_at_once():
    words = "--url h:1 --rate 0 --seconds -1 --tenants 0 --connections 0 --payload-bytes 3 --pid 7 --drain -1"
    with pytest.raises(errors.ConfigurationError) as caught:
        parsed(*words.split())
    assert [
        "--pid must be NAME=PID, not '7'",
        "--url must be an http or https URL, not 'h:1'",
        "--rate must be greater than 0",
        "--seconds must be greater than 0",
        "--warmup and --drain must not be negative",
        "--tenants must be at least 1",
        "--connections must be at least 1",
        "--payload-bytes must be at least 320",
    ] == caught.value.problems


def test_black_holes_are_beside_a_load_at_a_rate():
    assert 30 == parsed("--black-holes", "30", "--rate", "50").black_holes
    with pytest.raises(errors.ConfigurationError) as caught:
        parsed("--black-holes", "1", "--black-hole-events", "0", "--max")
    assert [
        "--black-holes must not be negative, and --black-hole-events at least 1",
        "--black-holes is about latency at a rate: it excludes --max",
    ] == caught.value.problems


def test_what_is_not_installed_is_said(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    assert bench.REFUSED_EXIT == bench.run(parser.parse_args([]))
    told = "outpost bench needs a library that is not installed: pip install 'outpost-events[bench]'"
    assert f"outpost bench: {told}\n" == capsys.readouterr().err


def test_url_and_spawn_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        parsed("--url", "http://h/api/v1", "--spawn")
    assert "not allowed with" in capsys.readouterr().err


def test_the_help_explains_both_loops_and_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        parsed("--help")
    shown = capsys.readouterr().out
    for words in ("open loop", "closed loop", "The exit code is 0", "published -> delivered -> logged"):
        assert words in shown
