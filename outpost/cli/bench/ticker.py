"""A periodic timer finer than the event loop's milliseconds: a Linux timerfd that the loop watches. A
schedule of 1,000 events a second would otherwise be up to a millisecond late by itself, which is what is to
be measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import time
from collections.abc import Callable, Iterator

TFD_TIMER_ABSTIME = 1
NS = 1_000_000_000


class _TimeSpec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


@contextlib.contextmanager
def ticking(call: Callable[[], None], start_ns: int, interval_ns: int) -> Iterator[None]:
    """Call `call` on the running loop at `start_ns` (CLOCK_MONOTONIC) and every `interval_ns` after it. Ticks
    that come while the loop is busy are merged into one. Raises `OSError` where the kernel has no timerfd."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    try:
        spec = _TimerSpec(_TimeSpec(*divmod(interval_ns, NS)), _TimeSpec(*divmod(start_ns, NS)))
        if libc.timerfd_settime(fd, TFD_TIMER_ABSTIME, ctypes.byref(spec), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

        def fired() -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(fd, 8)
            call()

        loop = asyncio.get_running_loop()
        loop.add_reader(fd, fired)
        try:
            yield
        finally:
            loop.remove_reader(fd)
    finally:
        os.close(fd)
