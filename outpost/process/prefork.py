"""Several processes for one `serve`: a parent that forks them, replaces those that die, ends them in good order.

Each child is a whole `serve` on the same port. The parent has no event loop and no thread, so that it may fork at
any time. The first child starts alone: what keeps it from starting is said once, and ends everything.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator

from outpost import pacing, telemetry
from outpost.process import forked
from outpost.process.http_server import ports

STEADY_S = 30.0  # a process that ran so long did not end because of how it started
MOST_FAILURES = 5  # in a row; then whoever started us has to see it
STOP_S = 12.0  # a child ends by itself within 10 s
TWICE = 130  # exit code when asked to stop a second time
LONGEST_URL = 512  # bytes; a pipe takes that in one piece

Announce = Callable[[str], None]
Serve = Callable[[socket.socket, Announce], int]  # what a child does until it is to stop; its exit code


def run(port: ports.SharedPort, count: int, serve: Serve, announce: Announce | None = None) -> int:
    """Runs `count` processes until SIGINT or SIGTERM; the exit code, 0 if all ended well. `announce` is called
    with the base URL once all are up. A second signal ends everything at once. Must run in the main thread."""
    parent = _Parent(port, count, serve, announce)
    try:
        with _heard_signals() as signals:
            return parent.run(signals)
    finally:
        parent.end()


class _Child:
    """A place among the processes, and who fills it now."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0  # none
        self.url = ""  # where it answers, once it is up
        self.began = 0.0
        self.start_at: float | None = None
        self.news = -1  # the pipe by which it says that it is up
        self.failures = 0
        self.pause = pacing.Pause()

    def hear(self) -> None:
        """Reads what it said; nothing when it has ended."""
        told = os.read(self.news, LONGEST_URL)
        self.url = told.decode() or self.url
        if not told:
            self.close()

    def close(self) -> None:
        """Closes our end of the pipe. Harmless when repeated."""
        if self.news >= 0:
            os.close(self.news)
            self.news = -1

    def failed(self) -> None:
        """Counts an end that nobody asked for."""
        if self.url and time.monotonic() - self.began >= STEADY_S:
            self.failures = 0
            self.pause.reset()
        self.failures += 1
        self.url = ""


class _Parent:
    def __init__(self, port: ports.SharedPort, count: int, serve: Serve, announce: Announce | None) -> None:
        self._port = port
        self._serve = serve
        self._announce = announce
        self._children = [_Child(number) for number in range(1, count + 1)]
        self._first_is_up = False
        self._stop_by: float | None = None  # set once the stop has begun
        self._code = 0

    def run(self, signals: socket.socket) -> int:
        """See the module's `run`. `signals` has a byte for each signal that came."""
        self._children[0].start_at = 0.0
        while True:
            for child in self._children:
                if child.start_at is not None and child.start_at <= time.monotonic():
                    self._start(child, signals)
            if self._stop_by is not None and not any(child.pid for child in self._children):
                return self._code
            self._listen(signals)
            self._bury()
            if self._stop_by is not None and time.monotonic() > self._stop_by:
                self._signal(signal.SIGKILL)
                self._stop_by += STOP_S

    def end(self) -> None:
        """Kills what is left after an error of ours."""
        self._signal(signal.SIGKILL)
        for child in self._children:
            if child.pid:
                os.waitpid(child.pid, 0)
            child.close()

    def _start(self, child: _Child, signals: socket.socket) -> None:
        child.start_at = None
        child.began = time.monotonic()
        not_its = [signals.fileno(), *(each.news for each in self._children if each.news >= 0)]
        with contextlib.closing(self._port.socket()) as listening:
            try:
                child.pid, child.news = forked.fork(
                    child.number, lambda say: self._be_a_child(listening, say), not_its
                )
            except OSError as exc:
                self._replace(child, f"not forked, {exc.strerror}")

    def _be_a_child(self, listening: socket.socket, say: Announce) -> int:
        self._port.close()
        return self._serve(listening, say)

    def _listen(self, signals: socket.socket) -> None:
        """Until a signal comes, a child says something, or there is something to do."""
        news = {child.news: child for child in self._children if child.news >= 0}
        times = [at for at in (self._stop_by, *(child.start_at for child in self._children)) if at is not None]
        limit = max(0.0, min(times) - time.monotonic()) if times else None
        readable, _, _ = select.select([signals.fileno(), *news], [], [], limit)
        if signals.fileno() in readable:
            for number in signals.recv(1024):
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._asked_to_stop()
        for pipe, child in news.items():
            if pipe in readable:
                child.hear()
        self._greet()

    def _greet(self) -> None:
        """The others follow once the first is up; when all are, whoever started us hears of it, once."""
        if not self._first_is_up and self._children[0].url and self._stop_by is None:
            self._first_is_up = True
            for child in self._children[1:]:
                child.start_at = 0.0
        if self._announce is not None and all(child.url for child in self._children):
            announce, self._announce = self._announce, None
            announce(self._children[0].url)

    def _asked_to_stop(self) -> None:
        if self._stop_by is not None:
            self._signal(signal.SIGKILL)
            os._exit(TWICE)  # embedded stores die with us
        self._stop()

    def _stop(self) -> None:
        self._stop_by = time.monotonic() + STOP_S
        for child in self._children:
            child.start_at = None
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        for child in self._children:
            if child.pid:
                os.kill(child.pid, number)

    def _bury(self) -> None:
        """Asks for each child by its id: embedded stores are children, too, and not ours to bury."""
        for child in self._children:
            pid, status = os.waitpid(child.pid, os.WNOHANG) if child.pid else (0, 0)
            if not pid:
                continue
            child.pid = 0
            child.close()
            code = os.waitstatus_to_exitcode(status)
            if self._stop_by is None:
                self._replace(child, f"signal {-code}" if code < 0 else f"exit code {code}")
            elif code:
                self._code = 1

    def _replace(self, child: _Child, reason: str) -> None:
        child.failed()
        said = {"of": child.number, "failures": child.failures, "reason": reason}
        if not self._first_is_up or child.failures >= MOST_FAILURES:
            telemetry.emit("workers_gave_up", "error", **said)
            self._code = 1
            self._stop()
            return
        pause_s = child.pause.next_s()
        child.start_at = time.monotonic() + pause_s
        telemetry.emit("worker_ended", "error", **said, again_in_ms=round(pause_s * 1000))


@contextlib.contextmanager
def _heard_signals() -> Iterator[socket.socket]:
    """A socket that has a byte for each signal that comes; nothing else happens then."""
    heard, written = socket.socketpair()
    written.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in forked.SIGNALS}
    old = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    try:
        yield heard
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        heard.close()
        written.close()
