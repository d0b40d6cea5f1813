"""The default queue: tasks go straight into the lanes of this process. The watchdog makes it as safe as a
broker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from outpost import telemetry
from outpost.queue import base


class InProcessQueue:
    """Hands tasks to the one receiver there is. See `base.Queue`."""

    def __init__(self, receiver: base.Receiver) -> None:
        self._receiver = receiver
        self.health = telemetry.Health("queue")

    @property
    def hungry(self) -> bool:
        """While the lanes take more."""
        return not self._receiver.full

    async def prepare(self) -> list[str]:
        """Nothing can be wrong."""
        return []

    async def publish(self, tasks: Sequence[base.Task]) -> None:
        """Into the lanes."""
        self._receiver.receive(tasks)

    async def run(self, stop: asyncio.Event) -> None:
        """There is nothing to do."""
        await stop.wait()

    def state(self) -> base.State:
        """There is no broker."""
        return base.State(broker="in process")
