"""Frees what the traceback of an error holds: frames, and in their variables requests, events, the error.

Libraries keep an error in a variable of a frame that its traceback names. That is a reference cycle, and what
hangs on it stays in memory until the collector runs.
"""

from __future__ import annotations

import traceback


def clear(exc: BaseException | None) -> None:
    """Empties the frames of `exc` and of the errors that it came from, and takes their tracebacks away. Only for
    an error that nobody else has caught: a coroutine whose frame is emptied does not run on."""
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        traceback.clear_frames(exc.__traceback__)  # those that are running now are left as they are
        exc.__traceback__ = None
        exc = exc.__cause__ or exc.__context__
