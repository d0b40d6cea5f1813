"""The default queue: tasks go straight into the lanes of this process. The watchdog makes it as safe as a
broker."""

from __future__ import annotations

from collections.abc import Sequence

from outpost.queue import base


class InProcessQueue:
    """Hands tasks to the one receiver there is."""

    def __init__(self, receiver: base.Receiver) -> None:
        self._receiver = receiver

    async def publish(self, tasks: Sequence[base.Task]) -> None:
        """See `base.Queue`."""
        self._receiver.receive(tasks)
