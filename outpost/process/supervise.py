"""The life of a process: start its roles, watch them, and end them in an order that loses and delays nothing.

At a stop: no new requests, the last appends flushed, no more reading of `evt`, tasks that wait given back, sends
finished and recorded, the log projected, connections closed. A background loop that ends with an error ends the
process: whoever runs it starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from outpost import collecting, crypto, errors, pacing, telemetry
from outpost.adapters import registry as registries
from outpost.api import app as api
from outpost.log.redis import boot_checks, client, guard
from outpost.process import loops, opening, readiness, roles
from outpost.process.http_server import descriptors, ports
from outpost.process.http_server import server as http_server
from outpost.process.roles import base
from outpost.settings import Settings, queues
from projections.logs import store

# How long a thread that computes keeps the interpreter from the event loop, which gives it away with every system
# call: with Python's own 5 ms, five round trips to Redis beside one such thread took 26 ms.
SWITCH_INTERVAL_S = 0.0005
COLLECT_EVERY = 50_000  # new objects; the default of 700 cost 7 % of the CPU at full speed
STOP_S = 7.5  # for all loops together, whatever does not answer; with the closing it stays below 10 s

Announce = Callable[[str], None]


async def run(settings: Settings, listening: socket.socket, announce: Announce | None = None) -> int:
    """Runs the roles of `settings.service` until SIGINT or SIGTERM; the exit code.

    `announce` is called with the base URL once everything runs. Raises errors.StartRefused if the stores do not
    fit. A second signal ends the process at once.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    process = _Process(settings, listening)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, process.on_signal)
    try:
        await process.start_unless_stopped()
        _spare_collections()
        if announce is not None:
            announce(f"{ports.url_of(listening)}/api/v1")
        return await process.until_stopped()
    finally:
        await process.close()


def _spare_collections() -> None:
    """What was loaded to start stays for good, so the collector need not look at it again; and what an event
    allocates is freed by counting, so that looking after every few hundred objects finds nothing."""
    gc.collect()
    collecting.leave_out_what_is_loaded()
    gc.set_threshold(COLLECT_EVERY, 20, 20)


class _Process:
    def __init__(self, settings: Settings, listening: socket.socket) -> None:
        self._settings = settings
        self._listening = listening
        self._stop = asyncio.Event()
        self._loops = loops.Loops(())
        self._roles: list[base.Role] = []
        self._opened: list[registries.Registry | client.Log | store.Store] = []

    def on_signal(self) -> None:
        if self._stop.is_set():
            os._exit(130)  # the user asked twice; stores of ours die with us
        self._stop.set()

    async def start_unless_stopped(self) -> None:
        """Starts everything, or gives up at a signal: a start may wait for stores for a minute."""
        starting, stopped = asyncio.create_task(self._start()), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                raise errors.StartRefused("stopped before everything had started")
            await starting
        finally:
            for task in (starting, stopped):
                task.cancel()
            await asyncio.gather(starting, stopped, return_exceptions=True)

    async def _start(self) -> None:
        parts = await self._open()
        state = readiness.Readiness()
        made = roles.Roles(parts, state)
        self._roles = made.all
        await self._prepare()
        watch = guard.Guard(parts.log)
        self._loops = loops.Loops(
            [
                loops.Loop("guard", watch.run, loops.WATCHES, watch.health),
                *(loop for role in made.all for loop in role.loops()),
                loops.Loop("http-server", self._serving(parts, made, state), loops.REQUESTS),
            ]
        )
        state.observe(self._loops, made.all)
        self._listening.listen(ports.BACKLOG)  # one of several on a port does only now
        self._loops.start()
        telemetry.emit("service_started", service=self._settings.service, port=self._listening.getsockname()[1])

    async def _prepare(self) -> None:
        """Raises errors.StartRefused with every problem that the roles are certain of."""
        for sentence in queues.warnings(self._settings):
            telemetry.emit("setting_warned", "warning", reason=sentence)
        found = await asyncio.gather(*(role.prepare() for role in self._roles))
        if problems := [problem for each in found for problem in each]:
            raise errors.StartRefused("; ".join(problems))

    async def _open(self) -> base.Parts:
        """Opens the stores once they answer and fit. Raises errors.StartRefused."""
        settings = self._settings
        log = opening.open_log(settings)
        self._opened.append(log)
        types = registries.build(settings)
        self._opened.append(types)
        sealer = crypto.Sealer(settings.aes_encryption_secret)
        meta = await opening.wait_for("redis", lambda: boot_checks.check(log, settings), self._stop)
        tables = await store.open_store(settings.postgres_url, settings.deployment_id)
        self._opened.append(tables)
        if settings.service != "delivery":  # which can do without Postgres for long
            await opening.prepare_schema(tables, settings.service, meta.namespace_id, self._stop)
        return base.Parts(
            settings=settings,
            log=log,
            store=tables,
            types=types,
            sealer=sealer,
            namespace_id=meta.namespace_id,
        )

    def _serving(
        self, parts: base.Parts, made: roles.Roles, state: readiness.Readiness
    ) -> Callable[[asyncio.Event], Coroutine[Any, Any, None]]:
        """Serves the API, or health and readiness alone, until it is told to stop."""
        if made.api is not None:
            app = made.api.app
        else:
            app = api.build_health(
                api.Probes(
                    settings=parts.settings, log=parts.log, store=parts.store, health=state, now_ms=base.now_ms
                )
            )
        server = http_server.Server(
            app,
            parts.settings,
            made.api.in_place if made.api else None,
            api.HEALTH_PATHS,
            descriptors.max_connections(parts.settings, descriptors.raise_limit()),
        )

        async def serve(stop: asyncio.Event) -> None:
            with pacing.waking(stop, server.stop):
                await server.serve(self._listening)

        return serve

    async def until_stopped(self) -> int:
        """Until a signal, or until a background loop ends; then stops in order. The exit code."""
        stopped = asyncio.create_task(self._stop.wait())
        tasks = self._loops.tasks
        await asyncio.wait([stopped, *tasks.values()], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        ended = {} if self._stop.is_set() else tasks
        failed = {name: task for name, task in ended.items() if task.done()}
        for name, task in failed.items():
            exc = None if task.cancelled() else task.exception()
            telemetry.emit("service_failed", "error", task=name, kind=type(exc).__name__, at=_where(exc))
        self._stop.set()
        telemetry.emit("service_stopping", service=self._settings.service)
        in_time = False
        with contextlib.suppress(TimeoutError):  # what is cut off stays live in the log, for another process
            async with asyncio.timeout(STOP_S):
                await self._loops.stop()
                in_time = True
        telemetry.emit("service_stopped", service=self._settings.service, in_time=in_time)
        return 1 if failed else 0

    async def close(self) -> None:
        """Ends what still runs and closes every connection. Harmless when repeated."""
        await self._loops.cancel()
        for role in self._roles:
            await role.close()
        await asyncio.gather(*(loops.best_effort(each.close()) for each in self._opened))
        self._listening.close()


def _where(exc: BaseException | None) -> str:
    """The innermost line of ours that raised: enough to look, and no value with it."""
    trace = exc.__traceback__ if exc else None
    where = ""
    while trace is not None:
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return where
