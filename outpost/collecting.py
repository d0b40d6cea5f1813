"""What the cyclic collector looks at and when: collections that bytes drive, and what is never looked at.

Python collects after so many objects, however large they are, and this process asks for that rarely. What we write
leaves no cycles. Some libraries do when a connection ends, and such a cycle can hold a buffer or a payload.
Whoever ends one counts what it may have held.
"""

from __future__ import annotations

import gc

COLLECT_BYTES = 67_108_864  # that may be held by cycles before somebody looks
YOUNG = 1  # the generations up to this one are looked at: what lived longer is left to Python

_counted = 0


def leave_out_what_is_loaded() -> None:
    """Takes everything that is in memory now out of the collector's sight: modules, classes and descriptions that
    were loaded for good. A full collection looks at all the rest while the event loop stands still, 147 ms after
    the libraries of every destination type had been imported. What is in no cycle is freed all the same."""
    gc.freeze()


def count(size: int) -> None:
    """Counts `size` bytes that a cycle may hold, and collects once they are many; one addition as a rule."""
    global _counted
    _counted += size
    if _counted >= COLLECT_BYTES:
        _counted = 0
        gc.collect(YOUNG)
