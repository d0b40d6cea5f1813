"""One server process: start it tied to us, wait until it is ready, stop it with limits."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from outpost.embedded import die_with_parent
from outpost.errors import EmbeddedError

# A large append-only file or a crash recovery takes its time; a server that fails exits, which ends the wait
# at once.
START_LIMIT_S = 300.0
POLL_S = 0.01
# Linux allows 108 bytes for the path of a unix socket, macOS 104, both with the closing NUL.
SOCKET_PATH_MAX_BYTES = 103
# Linux gives outgoing connections ports from 32768 on by default, macOS from 49152 on.
FREE_PORTS = range(10_000, 32_768)
FREE_PORT_TRIES = 100

StopSteps = Sequence[tuple[signal.Signals, float]]


class Server:
    """A running server; `stop_steps` are the signals to end it, each with the seconds it gets."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path, stop_steps: StopSteps) -> None:
        self.name = name
        self.log = log
        self._popen = popen
        self._stop_steps = stop_steps
        self._stop_began: float | None = None

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._popen.pid

    def running(self) -> bool:
        """Whether the process lives."""
        return self._popen.poll() is None

    def await_ready(self, ready: Callable[[], bool], limit_s: float = START_LIMIT_S) -> None:
        """Polls `ready` until it holds.

        Raises EmbeddedError if the server exits or `limit_s` passes, and ends it then.
        """
        deadline = time.monotonic() + limit_s
        try:
            while not ready():
                self._check_starting(deadline)
                time.sleep(POLL_S)
        except BaseException:  # Ctrl-C too
            self.stop()
            raise

    def _check_starting(self, deadline: float) -> None:
        if not self.running():
            raise EmbeddedError(f"{self.name} did not start: {last_line(self.log)} (see {self.log})")
        if time.monotonic() > deadline:
            raise EmbeddedError(f"{self.name} was not ready in time (see {self.log})")

    def begin_stop(self) -> None:
        """Sends the first signal, once, without waiting, so that several servers can end at the same time."""
        if self._stop_began is None:
            self._stop_began = time.monotonic()
            if self.running():
                self._popen.send_signal(self._stop_steps[0][0])

    def stop(self) -> None:
        """Ends the server: each signal with its limit, then SIGKILL. Harmless when it has ended.

        The first limit counts from `begin_stop`.
        """
        self.begin_stop()
        assert self._stop_began is not None
        (_, first_limit_s), *more = self._stop_steps
        if self._ended_within(max(0.0, self._stop_began + first_limit_s - time.monotonic())):
            return
        for number, limit_s in more:
            self._popen.send_signal(number)
            if self._ended_within(limit_s):
                return
        self.kill()

    def _ended_within(self, limit_s: float) -> bool:
        try:
            self._popen.wait(limit_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL to the server's process group, and waits for its end."""
        if self.running():
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()


def spawn(
    name: str,
    command: Sequence[str | Path],
    *,
    lock: int,
    log: Path,
    cwd: Path,
    stop_steps: StopSteps,
    death_signal: signal.Signals,
    identity: str = die_with_parent.SAME,
) -> Server:
    """Starts `command` in a session of its own, tied to this process; `log` gets its output, `lock` its
    claim.

    Raises EmbeddedError outside the main thread: the kernel's "parent" is the thread that forked, and a
    server must not die with a thread of a pool.
    """
    if threading.current_thread() is not threading.main_thread():
        raise EmbeddedError(f"{name} must be started from the main thread")
    with log.open("wb") as output:
        popen = subprocess.Popen(  # noqa: S603  (a command of ours, no shell)
            tied(command, lock=lock, death_signal=death_signal, identity=identity),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=server_environment(),
            pass_fds=[lock],
            start_new_session=True,
        )
    return Server(name, popen, log, stop_steps)


def tied(
    command: Sequence[str | Path], *, lock: int, death_signal: signal.Signals, identity: str
) -> list[str | Path]:
    """The command line that runs `command` through `die_with_parent`."""
    script = Path(die_with_parent.__file__)
    numbers = str(os.getpid()), str(int(death_signal))
    return [sys.executable, "-I", "-S", script, *numbers, identity, str(lock), *command]


def server_environment() -> dict[str, str]:
    """Ours without what would change a server's behaviour behind our back."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def last_line(log: Path) -> str:
    """The last thing a server said; the servers are set up so that no payload or password is ever in it."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def free_port() -> int:
    """Returns a loopback TCP port on which a server can listen.

    It is chosen by chance below the ports that systems give to outgoing connections, so that no connection takes
    it before the server listens, nor while the server is away for a moment. Raises EmbeddedError if none is found.
    """
    for _ in range(FREE_PORT_TRIES):
        port = secrets.choice(FREE_PORTS)  # two processes may have seeded `random` alike
        if port_is_free(port):
            return port
    raise EmbeddedError(f"no free port was found from {FREE_PORTS.start} to {FREE_PORTS.stop - 1}")


def port_is_free(port: int) -> bool:
    """Whether a server could listen on the loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
