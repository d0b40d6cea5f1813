"""The life of a process: start its roles, watch them, and end them in an order that loses and delays nothing.

At a stop: no new requests, the last appends flushed, no more reading of `evt`, tasks that wait given back, sends
finished and recorded, the log projected, connections closed. A background task that ends with an error ends the
process: whoever runs it starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from outpost import collecting, crypto, errors, pacing, telemetry
from outpost.adapters import registry as registries
from outpost.api import app as api
from outpost.log import partition as log_partitions
from outpost.log.redis import boot_checks, client, guard
from outpost.process import roles
from outpost.process.http_server import descriptors, ports
from outpost.process.http_server import server as http_server
from outpost.settings import Settings
from projections.logs import identity, migrate, partitions, store

STORE_WAIT_S = 60.0  # how long a start waits for a store
HTTP_GRACE_S = 3.0  # open requests, at a stop
DRAIN_S = 5.5  # sends under way, at a stop: those that time out by default are recorded, too
PROJECT_S = 2.0  # what is left for the log projection, at a stop
COLLECT_EVERY = 50_000  # new objects; the default of 700 cost 7 % of the CPU at full speed
CLOSE_S = 2.0
STOP_S = 7.5  # all of that together, whatever does not answer; with the closing it stays below 10 s

Announce = Callable[[str], None]


async def run(settings: Settings, listening: socket.socket, announce: Announce | None = None) -> int:
    """Runs the roles of `settings.service` until SIGINT or SIGTERM; the exit code.

    `announce` is called with the base URL once everything runs. Raises errors.StartRefused if the stores do not
    fit. A second signal ends the process at once.
    """
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
        self._stop_reading = asyncio.Event()
        self._stop_worker = asyncio.Event()
        self._stop_projecting = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._log: client.Log | None = None
        self._meta: boot_checks.Meta | None = None
        self._guard: guard.Guard | None = None
        self._store: store.Store | None = None
        self._types: registries.Registry | None = None
        self._api: roles.Api | None = None
        self._delivery: roles.Delivery | None = None
        self._projection: roles.Projection | None = None
        self._memory: roles.Memory | None = None
        self._server: http_server.Server | None = None

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
        settings = self._settings
        self._log = roles.open_log(settings)
        self._types = registries.build(settings)
        sealer = crypto.Sealer(settings.aes_encryption_secret)
        await self._await_store("redis", lambda: self._check_log(settings))
        app: Any = None
        self._store = await store.open_store(settings.postgres_url, settings.deployment_id)
        if settings.service != "delivery":  # which can do without Postgres for long
            await self._prepare_schema(self._store)
        if settings.service in ("log", "all"):
            self._projection = roles.Projection(settings, self._log, self._store)
        if settings.service != "log":
            self._memory = roles.Memory(settings, self._log)
        if self._memory and settings.service in ("delivery", "all"):
            self._delivery = roles.Delivery(settings, self._log, self._store, self._types, sealer, self._memory)
        if self._memory and settings.service in ("api", "all"):
            self._api = roles.Api(settings, self._log, self._store, self._types, sealer, self, self._memory)
            app = self._api.app
        if app is None:
            app = api.build_health(
                api.Probes(settings=settings, log=self._log, store=self._store, health=self, now_ms=roles.now_ms)
            )
        self._guard = guard.Guard(self._log)
        self._server = http_server.Server(
            app,
            settings,
            self._api.in_place if self._api else None,
            api.HEALTH_PATHS,
            descriptors.max_connections(settings, descriptors.raise_limit()),
        )
        self._run_all()
        telemetry.emit("service_started", service=settings.service, port=self._listening.getsockname()[1])

    def _run_all(self) -> None:
        assert self._server is not None
        assert self._guard is not None
        self._spawn("guard", self._guard.run(self._stop))
        if log := self._projection:
            self._spawn("log-projector", log.projector.run(self._stop_projecting, log.turn))
            self._spawn("trimmer", log.trimmer.run(self._stop))
            self._spawn("table-partitions", partitions.keep(log.store, self._stop))
        if self._memory:
            self._spawn("budget", self._memory.usage.run(self._stop))
        if self._delivery:
            self._spawn("worker", self._delivery.worker.run(self._stop_worker, DRAIN_S))
            self._spawn("gone", self._delivery.gone.run(self._stop_projecting))
            self._spawn("old-events", self._delivery.old.run(self._stop_reading))
            self._spawn("scheduler", self._delivery.scheduler.run(self._stop_reading))
            self._spawn("dispatcher", self._delivery.dispatcher.run(self._stop_reading))
            self._spawn("publishers", self._delivery.publishers.run(self._stop))
        if self._api:
            self._spawn("config-projector", self._api.config.run(self._stop))
            self._spawn("append", self._api.commit.run())
        self._listening.listen(ports.BACKLOG)  # one of several on a port does only now
        self._spawn("http-server", self._server.serve(self._listening))

    def _spawn(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        self._tasks[name] = asyncio.create_task(work, name=name)

    async def until_stopped(self) -> int:
        """Until a signal, or until a background task ends; then stops in order. The exit code."""
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait([stopped, *self._tasks.values()], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        ended = {} if self._stop.is_set() else self._tasks
        failed = {name: task for name, task in ended.items() if task.done()}
        for name, task in failed.items():
            exc = None if task.cancelled() else task.exception()
            telemetry.emit("service_failed", "error", task=name, kind=type(exc).__name__, at=_where(exc))
        self._stop.set()
        telemetry.emit("service_stopping", service=self._settings.service)
        in_time = False
        with contextlib.suppress(TimeoutError):  # what is cut off stays live in the log, for another process
            async with asyncio.timeout(STOP_S):
                await self._end()
                in_time = True
        telemetry.emit("service_stopped", service=self._settings.service, in_time=in_time)
        return 1 if failed else 0

    async def _end(self) -> None:
        assert self._server is not None
        self._server.stop()
        self._stop_reading.set()
        self._stop_worker.set()
        await asyncio.gather(self._end_requests(), self._end_deliveries())
        self._stop_projecting.set()
        await self._wait(client.BLOCK_MS / 1000 + 1, "log-projector", "config-projector", "publishers", "gone")
        if self._projection:
            await self._projection.projector.drain(PROJECT_S)
            await self._wait(CLOSE_S, "trimmer")
            await self._best_effort(self._projection.give_back())

    async def _end_requests(self) -> None:
        await self._wait(HTTP_GRACE_S, "http-server")
        if self._api:
            self._api.commit.close()
        await self._wait(CLOSE_S, "append")

    async def _end_deliveries(self) -> None:
        """What waits here is given back as soon as nothing more can join it: another process sends it at once."""
        read_limit_s = client.BLOCK_MS / 1000 + 1
        for limit_s, *names in (
            (read_limit_s, "scheduler"),
            (read_limit_s, "dispatcher", "old-events"),
            (DRAIN_S + 1, "worker"),
        ):
            await self._wait(limit_s, *names)
            if self._delivery:
                await self._best_effort(self._delivery.release())

    async def _wait(self, limit_s: float, *names: str) -> None:
        """Gives these tasks `limit_s` to end, then cancels them."""
        tasks = [self._tasks[name] for name in names if name in self._tasks]
        if not tasks:
            return
        await asyncio.wait(tasks, timeout=limit_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _best_effort(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await work
        except (errors.OutpostError, TimeoutError):
            return  # the watchdog brings back what was not given back

    async def close(self) -> None:
        """Ends what still runs and closes every connection. Harmless when repeated."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._delivery:
            await self._delivery.publishers.close()
        open_ones = [each for each in (self._types, self._log, self._store) if each is not None]
        await asyncio.gather(*(self._best_effort(each.close()) for each in open_ones))
        self._listening.close()

    def workers(self) -> Mapping[str, bool]:
        """Whether each background task of this process runs, by its name."""
        return {name: not task.done() for name, task in self._tasks.items()}

    def obstacles(self) -> Sequence[str]:
        """Why this process cannot do its work now: a store is away, or memory is used up."""
        found: list[str] = [self._guard.health.reason] if self._guard else []
        if self._delivery:
            loops = (self._delivery.worker, self._delivery.dispatcher, self._delivery.scheduler)
            found += [loop.health.reason for loop in loops]
        if self._api:
            found.append(self._api.config.health.reason)
            if len(self._api.budget.refused) == log_partitions.PARTITIONS:
                found.append("the log is over its memory budget")
        if self._projection and self._settings.service == "log":
            found.append(self._projection.projector.health.reason)
        return list(dict.fromkeys(filter(None, found)))

    def setbacks(self) -> Sequence[str]:
        """What works only in part: for some partitions, or without the log projection."""
        found: list[str] = []
        if self._delivery:
            found.append(self._delivery.old.health.reason)
        if self._api:
            found += [f"the config projection is halted before {at}" for at in self._api.config.halted.values()]
            refused = self._api.budget.refused
            if refused and len(refused) < log_partitions.PARTITIONS:
                names = ", ".join(f"{p:02}" for p in refused)
                found.append(f"over the memory budget, so that events are refused in partition {names}")
        if self._projection:
            found += [self._projection.projector.health.reason, self._projection.trimmer.health.reason]
        return list(dict.fromkeys(filter(None, found)))

    async def _check_log(self, settings: Settings) -> None:
        assert self._log is not None
        self._meta = await boot_checks.check(self._log, settings)

    async def _prepare_schema(self, target: store.Store) -> None:
        """The roles `log` and `all` bring the schema up to date; the others wait until it is."""
        log = self._meta.namespace_id if self._meta else ""
        if self._settings.service == "api":
            await migrate.wait_for_schema(target, STORE_WAIT_S)
            await self._await_store("postgres", lambda: identity.check(target, log))
            return

        async def prepare() -> None:
            await migrate.apply_pending(target)
            await identity.claim(target, log)
            # What may take long, moving rows of days without a table, is left to `partitions.keep`.
            await partitions.refresh(target, dt.datetime.now(dt.UTC).date(), move=False)

        await self._await_store("postgres", prepare)

    async def _await_store(self, name: str, prepare: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs `prepare`, again and again while the store is away, for `STORE_WAIT_S` at most."""
        loop = asyncio.get_running_loop()
        give_up, pause, said = loop.time() + STORE_WAIT_S, pacing.Pause(), False
        while True:
            try:
                await prepare()
            except errors.StoreUnavailable as exc:
                if loop.time() > give_up:
                    raise errors.StartRefused(
                        f"{name} did not answer within {STORE_WAIT_S:g} s: {exc.reason}"
                    ) from exc
                if not said:
                    telemetry.emit("store_awaited", "warning", store=name, reason=exc.reason)
                said = True
                await pacing.sleep(pause.next_s(), self._stop)
            else:
                return


def _where(exc: BaseException | None) -> str:
    """The innermost line of ours that raised: enough to look, and no value with it."""
    trace = exc.__traceback__ if exc else None
    where = ""
    while trace is not None:
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return where
