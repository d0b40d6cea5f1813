"""What an operation leaves to the cyclic garbage collector: objects that counting references does not free.

Such objects, and the payloads they hold, stay in memory until the collector runs, which under load is rarely. The
collector is off while the operation runs and then keeps what it finds (`gc.DEBUG_SAVEALL`), so that a test can say
what was left behind and how many bytes it held.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable

WARM_UP_ROUNDS = 3  # imports, caches and first uses make cycles once
SETTLE_TURNS = 20  # turns of the event loop in which callbacks and closed sockets let go of what they hold


class Left:
    """What the collector found. `types` counts the objects by the name of their type; `payload_bytes` is the size
    of the bytes, bytearrays and texts that hang on them."""

    def __init__(self, found: list[object]) -> None:
        self.types = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in found)
        self.payload_bytes = _payload_bytes(found)

    def __repr__(self) -> str:
        return f"Left({dict(self.types.most_common())}, payload_bytes={self.payload_bytes})"


async def left_behind(
    operation: Callable[[], Awaitable[object]], rounds: int = 5, warm_up: int = WARM_UP_ROUNDS
) -> Left:
    """Runs `operation` `warm_up` times, then `rounds` times with the collector off, and returns what those rounds
    left to it. The operation must end what it starts, apart from what the test means to keep open."""
    for _ in range(warm_up):
        await operation()
    await _settle()
    gc.collect()
    assert not gc.garbage
    was_enabled, flags = gc.isenabled(), gc.get_debug()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(rounds):
            await operation()
        await _settle()
        gc.collect()
        return Left(list(gc.garbage))
    finally:
        gc.set_debug(flags)
        gc.garbage.clear()
        if was_enabled:
            gc.enable()
        gc.collect()


async def _settle() -> None:
    for _ in range(SETTLE_TURNS):
        await asyncio.sleep(0)


def _payload_bytes(found: list[object]) -> int:
    """The collector lists containers only: what they hold of bytes and texts is one step further."""
    held = {id(each): each for each in found}
    seen: dict[int, int] = {}
    for each in found:
        for referent in gc.get_referents(each):
            if issubclass(type(referent), bytes | bytearray | str) and id(referent) not in held:
                seen[id(referent)] = len(referent)
    return sum(seen.values())
