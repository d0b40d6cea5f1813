"""What both sides of `make bench-destinations` send, and what came of it."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import msgspec

from outpost.domain import events, times

TENANT, TOPIC = "bench", "order.created"
PAYLOAD_BYTES = 300
_START, _END = b'{"order": %d, "text": "', b'"}'


class Tally(msgspec.Struct):
    """What became of a load; `failed` counts by code. CPU time is that of this process with all its threads."""

    sent: int = 0
    delivered: int = 0
    failed: Counter[str] = msgspec.field(default_factory=Counter)
    seconds: float = 0.0
    cpu_s: float = 0.0


Send = Callable[[Iterator[events.Event], Tally], Awaitable[None]]


async def measured(send: Send, count: int, seconds: float) -> Tally:
    """What became of `count` events, or of those that were asked for before `seconds` had passed: `send` takes
    them and fills in the counts."""
    made = _made(count)
    tally = Tally()
    began, cpu = time.perf_counter(), time.process_time()
    await send(_until(made, time.monotonic() + seconds), tally)
    tally.seconds, tally.cpu_s = time.perf_counter() - began, time.process_time() - cpu
    return tally


def _made(count: int) -> list[events.Event]:
    """As small as most events are, with ids that no other load has."""
    run, now = secrets.token_hex(4), times.text(time.time_ns() // 1_000_000)
    found = []
    for number in range(count):
        start = _START % number
        data = start + b"x" * (PAYLOAD_BYTES - len(start) - len(_END)) + _END
        found.append(events.Event(TENANT, f"{run}-{number}", 1, TOPIC, now, True, {}, (), "admin", data))
    return found


def _until(made: list[events.Event], end: float) -> Iterator[events.Event]:
    for event in made:
        if time.monotonic() > end:
            return
        yield event
