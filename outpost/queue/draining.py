"""Empties a delivery queue that is to be left: what is still live goes back to `due`, for any process to claim.

Only latency is saved by it: tasks on a queue that nobody reads come due by their watchdog.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from outpost.queue import base, broker, chunk

RECEIVE_COUNT = 64
WAIT_S = 2.0
EMPTY_ANSWERS = 2  # one after the other: some services answer with nothing although something is there

# Lets tasks come due now; returns how many of them were live.
Release = Callable[[Sequence[base.Task]], Awaitable[int]]


class Drained(msgspec.Struct):
    """Messages, and the tasks in those that were chunks of ours. `foreign` ones were given back."""

    messages: int = 0
    live: int = 0
    gone: int = 0
    foreign: int = 0
    unreadable: int = 0


async def drain(
    source: broker.Broker, codec: chunk.Codec, release: Release, told: Callable[[Drained], None]
) -> Drained:
    """Empties `source`, which is prepared, and tells after each answer how far it is. A message is acknowledged
    once its tasks are released, so that it may be broken off at any time. Raises broker.BrokerError and
    errors.StoreUnavailable."""
    found = Drained()
    empty = 0
    while empty < EMPTY_ANSWERS:
        async with broker.deadline(WAIT_S + broker.RECEIVE_EXTRA_S, "receiving did not end in time"):
            received = await source.receive(RECEIVE_COUNT, WAIT_S)
        empty = 0 if received else empty + 1
        done, foreign = await _take(received, codec, release, found)
        async with broker.deadline(broker.SETTLE_S, "an acknowledgement did not end in time"):
            await source.acknowledge([each.receipt for each in done])
            await source.give_back([each.receipt for each in foreign])
        told(found)
        if foreign and not done:
            break  # what is left is not ours, and would come again and again
    return found


async def _take(
    received: Sequence[broker.Received], codec: chunk.Codec, release: Release, found: Drained
) -> tuple[list[broker.Received], list[broker.Received]]:
    done: list[broker.Received] = []
    foreign: list[broker.Received] = []
    tasks: list[base.Task] = []
    for each in received:
        found.messages += 1
        try:
            tasks += codec.read(each.body).tasks
        except chunk.Refused as exc:
            if exc.why in ("foreign", "version"):
                found.foreign += 1
                foreign.append(each)
                continue
            found.unreadable += 1
        done.append(each)
    if tasks:
        live = await release(tasks)
        found.live += live
        found.gone += len(tasks) - live
    return done, foreign
