"""Processes of ours without the half second of CPU time that imports take: forked from one that has imported all.

`python -m tests.harness.prepared` is that one, the template. It has one thread and reads orders from stdin: `Fork`
is answered with a process id, `Wait` with the exit code of one that has ended. What it forks runs `crash_entry` as
if it had been started by itself: with its own environment, folder, output and end. Others need only `start`.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class Fork(msgspec.Struct, frozen=True, tag="fork"):
    """`words` are those of `crash_entry`; stdout and stderr go into the file `output`, which is there."""

    words: list[str]
    environment: dict[str, str]
    folder: str
    output: str


class Wait(msgspec.Struct, frozen=True, tag="wait"):
    """The process has ended, and is forgotten with this."""

    pid: int


class Process:
    """One that was forked; has what is used here of `subprocess.Popen`."""

    def __init__(self, template: _Template, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._template = template
        self._end = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None and select.select([self._end], [], [], 0)[0]:
            os.close(self._end)
            self.returncode = self._template.ask(Wait(self.pid))
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


class _Template:
    """The other end of the template's stdin and stdout."""

    def __init__(self) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.prepared"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        )
        atexit.register(self._close)

    def ask(self, order: Fork | Wait) -> int:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(msgspec.json.encode(order) + b"\n")
        self._popen.stdin.flush()
        return int(self._popen.stdout.readline())

    def _close(self) -> None:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.close()
        self._popen.stdout.close()
        self._popen.wait()


_template: _Template | None = None


def start(words: Sequence[str], environment: Mapping[str, str], folder: Path, output: Path) -> Process:
    """Runs `crash_entry` with these words; it is killed when this process ends."""
    global _template
    template = _template = _template or _Template()
    return Process(template, template.ask(Fork(list(words), dict(environment), str(folder), str(output))))


def main() -> int:
    """Obeys until stdin is closed; in what it has forked, returns the exit code of that."""
    from outpost.cli import serve  # noqa: F401 -- all that a server imports
    from tests.harness import crash_entry

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's; whoever forked decides what becomes of others
    decoder = msgspec.json.Decoder(Fork | Wait)
    orders, template = os.fdopen(os.dup(0), "rb"), os.getpid()
    answers = os.dup(1)
    for line in orders:
        order = decoder.decode(line)
        if isinstance(order, Wait):
            answer = os.waitstatus_to_exitcode(os.waitpid(order.pid, 0)[1])
        else:
            assert 1 == threading.active_count()
            answer = os.fork()
            if not answer:
                orders.close()
                os.close(answers)
                _become(order, template)
                return crash_entry.main(order.words)
        os.write(answers, b"%d\n" % answer)
    return 0


def _become(order: Fork, template: int) -> None:
    """What a start by itself would have given to this process."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != template:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[1:] = order.words
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(order.output, os.O_WRONLY)
    for file, number in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(file, number)
    os.close(nothing)
    os.close(output)
    os.chdir(order.folder)
    os.environ.clear()
    os.environ.update(order.environment)


if __name__ == "__main__":
    sys.exit(main())
