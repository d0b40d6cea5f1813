"""The claim on one server's data: a lock file that the server inherits.

So it is held exactly as long as the server or a child of it lives, whatever became of the process that started
it. The file's content says whom to end if that was an orphan.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from pathlib import Path

from outpost.embedded import look
from outpost.errors import EmbeddedError

# What an orphan gets to end by itself before it is killed, and then to disappear.
ORPHAN_LIMIT_S = 10.0
POLL_S = 0.01


def take(path: Path, command_part: str) -> int:
    """Takes the lock file of a server and returns its descriptor, which the caller closes
    once the server has it.

    An orphan that holds it (its command line contains `command_part`, its parent is gone) is ended first.
    Raises EmbeddedError if a living process holds it.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _try_lock(lock):
            _end_orphan(lock, path, command_part)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end_orphan(lock: int, path: Path, command_part: str) -> None:
    """SIGTERM, and SIGKILL after half of the limit; the lock tells when it and its children are gone."""
    started = time.monotonic()
    sent: signal.Signals | None = None
    while not _try_lock(lock):
        waited = time.monotonic() - started
        pid, parent = _holder(lock)
        if look.parent_of(pid) == parent:
            raise EmbeddedError(f"{path.parent} is in use by process {parent}; stop it first")
        wanted = signal.SIGTERM if waited < ORPHAN_LIMIT_S / 2 else signal.SIGKILL
        if sent != wanted and command_part in look.command_line(pid):
            os.kill(pid, wanted)
            sent = wanted
        if waited > ORPHAN_LIMIT_S:
            raise EmbeddedError(f"{path} is held by another process (last known: {pid}); end it first")
        time.sleep(POLL_S)


def _holder(lock: int) -> tuple[int, int]:
    """Process id of the server and of its parent, as `die_with_parent` wrote them; zeros if it has not
    yet.
    """
    numbers = os.pread(lock, 64, 0).split()
    return (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 else (0, 0)
