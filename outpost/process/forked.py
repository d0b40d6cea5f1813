"""A child of this process that does one piece of work and ends: forked, tied to its parent, never coming back.

It has a session of its own, so that the terminal's Ctrl-C reaches only the parent, and dies with the parent where
the kernel can do that. By a pipe it says that it is up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

import structlog

from outpost import errors
from outpost.embedded import die_with_parent

# Held back while forking: one that the parent hears must not run a handler of the parent in the child.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

Say = Callable[[str], None]
Work = Callable[[Say], int]  # what the child does; its exit code


def fork(number: int, work: Work, not_its: Sequence[int]) -> tuple[int, int]:
    """Starts `work` in a child that names itself worker `number` in its lines and closes the files `not_its`; its
    process id, and the pipe in which stands what it says. Only from the main thread, with no other thread about.
    Raises OSError."""
    parent = os.getpid()
    news, told = os.pipe()
    sys.stdout.flush()  # or the child would print it once more
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        pid = os.fork()
        if not pid:
            _become(number, work, told, (*not_its, news), parent)
    except OSError:
        os.close(news)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(told)
    return pid, news


def _become(number: int, work: Work, told: int, not_its: Sequence[int], parent: int) -> NoReturn:
    """Never returns: what the callers would clean up is the parent's."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.setsid()
        for file in not_its:
            os.close(file)
        if die_with_parent.tie(parent, signal.SIGKILL):
            structlog.contextvars.bind_contextvars(worker=number)
            code = work(lambda text: _say(told, text))
    except errors.OutpostError as exc:
        sys.stderr.write(f"outpost: {exc}\n")
    except BaseException:  # noqa: BLE001 -- nobody else could say it
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _say(pipe: int, text: str) -> None:
    os.write(pipe, text.encode())
