"""Collections that bytes drive, for what libraries leave in reference cycles.

Python collects after so many objects, however large they are, and this process asks for that rarely. What we write
leaves no cycles. Some libraries do when a connection ends, and such a cycle can hold a buffer or a payload.
Whoever ends one counts what it may have held.
"""

from __future__ import annotations

import gc

COLLECT_BYTES = 67_108_864  # that may be held by cycles before somebody looks
YOUNG = 1  # the generations up to this one are looked at: what lived longer is left to Python

_counted = 0


def count(size: int) -> None:
    """Counts `size` bytes that a cycle may hold, and collects once they are many; one addition as a rule."""
    global _counted
    _counted += size
    if _counted >= COLLECT_BYTES:
        _counted = 0
        gc.collect(YOUNG)
