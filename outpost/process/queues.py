"""The queues of a process, opened as the settings say: the delivery queue, and a publish queue if it is set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from outpost.commands import intake, publish
from outpost.dispatch.fairness import lanes as lane_rules
from outpost.log import clock
from outpost.log.delivery import tasks
from outpost.log.redis import client
from outpost.queue import base, chunk, chunked, inprocess, selected
from outpost.settings import Settings

ENOUGH_TASKS = 500  # that may be sent at once; with so many a process takes no more from a broker ..
ENOUGH_SLOTS = 2  # .. or with so many for each of its send slots


def open_delivery_queue(
    settings: Settings, log: client.Log, lanes: lane_rules.Lanes, redis_clock: clock.Clock, namespace_id: str
) -> base.Queue:
    """The queue of first attempts. Raises errors.StartRefused where a library is missing."""
    over = selected.delivery_broker(settings)
    if over is None:
        return inprocess.InProcessQueue(lanes)

    async def hold(waiting: Sequence[base.Task], delay_ms: int) -> None:
        for at in range(0, len(waiting), tasks.HOLD_TASKS):
            held: dict[int, list[str]] = defaultdict(list)
            for task in waiting[at : at + tasks.HOLD_TASKS]:
                held[task.partition].append(task.text)
            await tasks.hold(log, held, delay_ms)

    return chunked.ChunkedQueue(
        over,
        chunk.Codec(namespace_id, settings.aes_encryption_secret, settings.queue_inline_max_bytes),
        lanes,
        hold,
        redis_clock.now_ms,
        watchdog_ms=settings.delivery_watchdog_ms,
        enough=max(ENOUGH_TASKS, ENOUGH_SLOTS * settings.delivery_max_concurrency),
        provision=settings.mqs_auto_provision,
    )


def open_intake(
    settings: Settings, publisher: publish.Publisher, now_ms: Callable[[], int]
) -> intake.Intake | None:
    """The consumer of the publish queue. Raises errors.StartRefused where a library is missing."""
    source = selected.source_broker(settings)
    return None if source is None else intake.Intake(source, publisher, settings, now_ms)
