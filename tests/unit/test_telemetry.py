"""Log lines: one table of names, and no payload or secret whatever a caller passes."""

from __future__ import annotations

import ast
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from outpost import telemetry
from outpost.settings import Settings

ROOT = Path(__file__).parents[2]
LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical"}


@pytest.fixture(autouse=True)
def configured_anew() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, counters = root.handlers, root.level, telemetry.counters.copy()
    telemetry._samples.clear()
    telemetry.counters.clear()
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    telemetry._samples.clear()
    telemetry.counters.clear()
    telemetry.counters.update(counters)


@pytest.fixture
def lines(capsys):
    """Configures with JSON; calling it gives the lines written since the last call."""
    telemetry.configure("info", json=True)
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_has_time_level_and_event_in_front(lines):
    telemetry.emit("service_started", roles=["api"], port=3333)
    (line,) = lines()
    assert list(line) == ["timestamp", "level", "event", "roles", "port"]
    assert (line["level"], line["event"], line["port"]) == ("info", "service_started", 3333)


def test_lines_below_the_level_are_left_out(lines):
    telemetry.emit("service_started", "debug")
    telemetry.emit("service_stopped", "warning")
    assert [line["level"] for line in lines()] == ["warning"]


@pytest.mark.parametrize(
    "key",
    [
        *("payload", "data", "body", "secret", "token", "password", "credentials", "authorization"),
        *("response_body", "api_token", "PASSWORD", "x-authorization", "event_data", "tokens"),
    ],
)
def test_a_key_that_names_a_payload_or_a_secret_is_masked(lines, key):
    telemetry.emit("service_started", **{key: "hunter2"}, deep=[{"more": {key: "hunter2"}}])
    (line,) = lines()
    assert "hunter2" not in json.dumps(line)
    assert line[key] == "[redacted]"


def test_a_key_that_only_measures_a_payload_is_kept(lines):
    telemetry.emit("service_started", body_bytes=7, data_dir="/x", database="d", candidates=1)
    (line,) = lines()
    assert (line["body_bytes"], line["data_dir"], line["database"], line["candidates"]) == (7, "/x", "d", 1)


def test_bytes_objects_and_what_lies_too_deep_do_not_show(lines):
    deep: object = "hunter2"
    for _ in range(10):
        deep = [deep]
    telemetry.emit("service_started", raw=b"hunter2", deep=deep, all=Settings(api_key="hunter2"))
    (line,) = lines()
    assert "hunter2" not in json.dumps(line)
    assert (line["raw"], line["all"]) == ("<bytes>", "<Settings>")


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_shows_no_local_variables(capsys, as_json):
    telemetry.configure("info", json=as_json)
    try:
        local = "hunter" + "2"
        raise KeyError(len(local))
    except KeyError:
        telemetry.emit("service_stopped", "error", exc_info=True)
    written = capsys.readouterr().err
    assert "KeyError" in written
    assert "hunter2" not in written


def test_the_standard_logging_of_libraries_becomes_a_line_without_what_was_put_into_it(lines):
    logging.getLogger("some.library").warning("cannot send %s\nbecause", "hunter2", exc_info=ValueError("hunter2"))
    logging.getLogger("some.library").info("connected")
    (line,) = lines()
    assert "hunter2" not in json.dumps(line)
    assert (line["event"], line["logger"], line["text"]) == ("library_warning", "some.library", "cannot send %s")
    assert (line["level"], line["error_type"]) == ("warning", "ValueError")


def test_of_a_hot_event_the_first_lines_of_a_second_are_written_and_the_rest_counted(lines, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(telemetry.time, "monotonic", lambda: now[0])
    for _ in range(7):
        telemetry.emit_sampled("log_projected", per_second=2)
        telemetry.emit_sampled("service_started", per_second=9)
    now[0] = 101.0
    for _ in range(2):
        telemetry.emit_sampled("log_projected", per_second=2)
    projected = [line.get("suppressed") for line in lines() if line["event"] == "log_projected"]
    assert projected == [None, None, 5, None]
    assert telemetry.counters["suppressed.log_projected"] == 5
    assert telemetry.counters["suppressed.service_started"] == 0


def test_a_line_that_is_no_plain_json_does_not_raise(lines):
    telemetry.emit("service_started", path="\udcff", number=2**70)
    (line,) = lines()
    assert (line["path"], line["number"]) == ("\udcff", 2**70)


def test_counters_add_up():
    telemetry.count("attempts", 3)
    telemetry.count("attempts")
    assert telemetry.counters["attempts"] == 4


def literals(node: ast.AST, function: ast.AST) -> set[str]:
    """The texts that an expression can be; a name is what the function assigns to it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    if isinstance(node, ast.IfExp):
        return literals(node.body, function) | literals(node.orelse, function)
    if isinstance(node, ast.Name):
        assigned = (part for part in ast.walk(function) if isinstance(part, ast.Assign))
        named = (part.value for part in assigned if any(ast.unparse(target) == node.id for target in part.targets))
        return {text for value in named for text in literals(value, function)}
    return set()


def emitted(source: Path) -> Iterator[tuple[str, set[str]]]:
    """Where an event is emitted, and which it can be."""
    tree = ast.parse(source.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for function in functions:
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            owner, _, method = called.rpartition(".")
            is_emit = called in {"emit", "emit_sampled", "telemetry.emit", "telemetry.emit_sampled"}
            is_log = owner in {"log", "telemetry.log", "logger"} and method in LOG_METHODS
            if node.args and (is_emit or is_log):
                yield f"{source.relative_to(ROOT)}:{node.lineno}", literals(node.args[0], function)


def test_the_table_of_events_is_what_the_code_emits():
    sources = [path for folder in ("outpost", "projections") for path in sorted((ROOT / folder).rglob("*.py"))]
    own = ROOT / "outpost" / "telemetry.py"
    calls = [call for path in sources if path != own for call in emitted(path)]
    assert [place for place, names in calls if not names] == [], "an event's name is not written out"
    used = set[str]().union(*(names for _, names in calls), *(names for _, names in emitted(own)))
    assert used - set(telemetry.EVENTS) == set(), "add these to telemetry.EVENTS"
    assert set(telemetry.EVENTS) - used == set(), "nothing emits these"
    assert all(name.islower() and name.isidentifier() for name in telemetry.EVENTS)
