"""The brokers that the demo starts: ready when `start` returns, private, and gone without a trace afterwards."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiormq
import pytest

from outpost import settings as settings_
from outpost.adapters import base, registry
from outpost.embedded import process
from outpost.embedded.brokers import rabbitmq
from outpost.errors import EmbeddedError
from tests.harness import servers
from tests.harness.polling import eventually

ROOT = Path(__file__).parents[2]
TOPIC = "order.created"
LIMIT_S = 60.0  # only what fails waits so long
PARENT = """
import pathlib, signal, sys
from outpost.embedded.brokers import rabbitmq
started = rabbitmq.start(pathlib.Path(sys.argv[1]))
print(started.port, flush=True)
signal.pause()
"""


@pytest.fixture
def path() -> Iterator[Path]:
    if not rabbitmq.present():
        servers.leave_out(rabbitmq.INSTALL)
    found = servers.new_folder()
    yield found
    shutil.rmtree(found, ignore_errors=True)


def left(path: Path) -> list[str]:
    """The command lines of the processes that work in `path` or were told of it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or entry.name == str(os.getpid()):
            continue
        try:
            told = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            if os.fsencode(path) in told or (entry / "cwd").readlink().is_relative_to(path):
                found.append((entry / "cmdline").read_text(errors="replace").replace("\0", " "))
        except OSError:
            continue
    return found


async def publish(broker: rabbitmq.RabbitMQ) -> str:
    """Sends one event, as a destination does, to a queue that is named as its topic; the code of the outcome."""
    url = f"amqp://{broker.username}:{broker.password}@{broker.host}:{broker.port}/"
    async with aiormq.connect(url) as connection:
        await (await connection.channel()).queue_declare(TOPIC, durable=True)
    types = registry.build(settings_.Settings(destinations_allowed_cidrs=("127.0.0.0/8",)))
    adapter = types.get("rabbitmq")
    assert adapter is not None
    credentials = {"username": broker.username, "password": broker.password}
    config = {"server_url": f"{broker.host}:{broker.port}", "exchange": "", "tls": "false"}
    publisher = await adapter.connect(base.OpenDestination("t", "d", "rabbitmq", config, credentials, {}))
    event = base.Delivery("e", TOPIC, "2026-01-02T03:04:05Z", {}, b"{}", 1)
    [outcome] = await publisher.send([event], asyncio.get_running_loop().time() + LIMIT_S)
    await publisher.close()
    await types.close()
    return outcome.code


async def test_a_rabbitmq_takes_an_event_and_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RABBITMQ_NODE_PORT", "1")  # neither is for this broker
    monkeypatch.setenv("ERL_FLAGS", "-boot nowhere")
    broker = rabbitmq.start(path)
    try:
        assert "OK" == await publish(broker)
        assert broker.password not in " ".join(left(path))
        with pytest.raises(EmbeddedError, match="is in use by process"):
            rabbitmq.start(path)
    finally:
        broker.stop()
    assert [] == left(path)
    assert process.port_is_free(broker.port)
    assert broker.password == rabbitmq._password(path)  # what the data knows is there for the next start


async def test_a_rabbitmq_ends_with_the_process_that_started_it_however_that_ends(path: Path):
    command = [sys.executable, "-c", PARENT, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    await eventually(lambda: left(path) == [], LIMIT_S)
    assert process.port_is_free(port)


async def test_a_rabbitmq_that_does_not_start_says_so_and_leaves_nothing_behind(path: Path):
    with pytest.raises(EmbeddedError, match=r"RabbitMQ did not start: .*rabbitmq\.log"):
        rabbitmq.start(path, settings={"no.such.setting": "1"})
    await eventually(lambda: left(path) == [], LIMIT_S)


def test_where_there_is_no_rabbitmq_the_user_is_told_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rabbitmq, "SCRIPT", tmp_path / "nowhere")
    with pytest.raises(EmbeddedError, match="apt-get install rabbitmq-server"):
        rabbitmq.start(tmp_path)
