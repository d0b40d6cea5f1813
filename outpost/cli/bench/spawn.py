"""The bench's throw-away server, with its processes told apart: the server itself and the stores below it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import msgspec

from outpost.cli.bench import processes
from outpost.cli.bench.options import Named
from outpost.cli.demo import queues
from outpost.cli.demo import spawned as throwaway


class Spawned(msgspec.Struct, frozen=True):
    """A server that runs: its base URL with the API prefix, its key, and its processes by name."""

    url: str
    key: str
    pids: tuple[Named, ...]


@contextlib.asynccontextmanager
async def spawned(queue: str) -> AsyncIterator[Spawned]:
    """Start a server whose deliveries `queue` carries, yield it once it is ready, stop it. Raises `StartRefused`
    with the end of its log."""
    with queues.QUEUES[queue]() as broker:
        async with throwaway.spawned("bench", broker.settings) as server:
            pids = processes.discover(server.pid, server.folder)
            if broker.pid:
                pids = (*pids, Named(queue, broker.pid))
            yield Spawned(server.url, server.key, pids)
