"""Connecting to a host: its judged addresses one after the other, until one can be reached.

An address that does not answer gets its share of the time that is left, no more, while others are to be tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from outpost.adapters.egress import addresses

T = TypeVar("T")


def unreachable(exc: Exception) -> bool:
    """Whether another address may do better after this failure: after everything that the network says."""
    return isinstance(exc, OSError)  # TimeoutError is one


async def first_reachable(
    judged: Sequence[str],
    connect: Callable[[str], Awaitable[T]],
    deadline: float,
    try_next: Callable[[Exception], bool] = unreachable,
) -> T:
    """What `connect` makes of the first of these addresses that can be reached, by `deadline` on the clock of the
    loop. Raises the last failure; one after which `try_next` denies another attempt, at once."""
    loop = asyncio.get_running_loop()
    last: Exception = addresses.Unknown()
    for tried, address in enumerate(judged):
        try:
            async with asyncio.timeout_at(deadline - _for_others_s(deadline - loop.time(), len(judged) - tried)):
                return await connect(address)
        except Exception as exc:
            if not try_next(exc):
                raise
            last = exc
    try:
        raise last
    finally:
        del last  # its traceback has this frame


def first_reachable_by_thread(
    judged: Sequence[str], connect: Callable[[str, float], T], left_s: Callable[[], float]
) -> T:
    """The same in a thread, where `connect` keeps the seconds that it is given. Raises OSError."""
    last: OSError = addresses.Unknown()
    for tried, address in enumerate(judged):
        left = left_s()
        try:
            return connect(address, left - _for_others_s(left, len(judged) - tried))
        except OSError as exc:
            last = exc
    try:
        raise last
    finally:
        del last  # its traceback has this frame


def _for_others_s(left_s: float, count: int) -> float:
    """What of the time that is left is for all but the first of `count` addresses."""
    return left_s * (count - 1) / count
