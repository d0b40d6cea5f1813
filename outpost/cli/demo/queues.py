"""The brokers that `outpost demo` and `outpost bench` put the delivery queue on: started in a folder of their own,
stopped and deleted at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import msgspec

from outpost.cli.demo import brokers
from outpost.embedded.brokers import rabbitmq


class Queue(msgspec.Struct, frozen=True):
    """A queue that a server is to use: its settings, and the broker's process (0: there is none)."""

    settings: dict[str, str] = {}
    pid: int = 0

    def __repr__(self) -> str:
        return f"Queue({self.pid})"


@contextlib.contextmanager
def _in_process() -> Iterator[Queue]:
    yield Queue()


@contextlib.contextmanager
def _rabbitmq() -> Iterator[Queue]:
    brokers.require("rabbitmq", "aiormq", "rabbitmq")
    with brokers.running("queue-rabbitmq", rabbitmq.start, lambda broker: broker.stop()) as broker:
        url = f"amqp://{broker.username}:{broker.password}@{broker.host}:{broker.port}/"
        yield Queue({"RABBITMQ_SERVER_URL": url}, broker.server.pid)


QUEUES: dict[str, Callable[[], AbstractContextManager[Queue]]] = {
    "in-process": _in_process,
    "rabbitmq": _rabbitmq,
}
