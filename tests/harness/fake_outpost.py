"""A tiny Outpost-compatible server for tests of the bench: tenants, destinations, publish with real webhooks,
event and attempt lists with cursors. It can be told to misbehave on every n-th event, so that a test can prove
that the bench notices.

`python -m tests.harness.fake_outpost PORT` runs it alone, to measure the bench's own processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

KEY = "fake-key"
START_LIMIT_S = 60.0
WORKERS = 16


@dataclass(frozen=True)
class Faults:
    """Every n-th accepted event (0: never) suffers the named fault; `refuse_every` counts publishes."""

    lose_every: int = 0  # not delivered, yet logged as delivered
    double_every: int = 0  # delivered twice
    unlogged_every: int = 0  # not in GET /events
    unrecorded_every: int = 0  # not in GET /attempts
    twice_recorded_every: int = 0  # the same attempt twice in GET /attempts
    misroute_every: int = 0  # delivered to the first destination of another tenant
    refuse_every: int = 0  # 503, nothing stored
    ghost_every: int = 0  # 503, stored and delivered all the same
    reject_every: int = 0  # 422
    hang_up_every: int = 0  # the connection is closed in place of the first answer
    log_delay_s: float = 0.0
    answer_delay_s: float = 0.0  # before a publish is looked at
    fail_first_attempt_every: int = 0  # one failed attempt in the log before the successful one


@dataclass
class FakeOutpost:
    """The state; `running` serves it."""

    faults: Faults = field(default_factory=Faults)
    topics: list[str] | None = None
    tenants: dict[str, list[dict]] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    events: list[dict] = field(default_factory=list)
    attempts: list[dict] = field(default_factory=list)
    published: int = 0
    accepted: int = 0
    seen: set[str] = field(default_factory=set)
    hung_up: set[str] = field(default_factory=set)
    bodies: list[bytes] = field(default_factory=list)
    keep_bodies: bool = True
    url: str = ""

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[self._authorise])
        app.add_routes(
            [
                web.get("/api/v1/topics", self._topics),
                web.put("/api/v1/tenants/{tenant}", self._put_tenant),
                web.delete("/api/v1/tenants/{tenant}", self._delete_tenant),
                web.post("/api/v1/tenants/{tenant}/destinations", self._add_destination),
                web.post("/api/v1/publish", self._publish),
                web.get("/api/v1/events", self._list_events),
                web.get("/api/v1/attempts", self._list_attempts),
            ]
        )
        app.cleanup_ctx.append(self._deliverers)
        return app

    async def _deliverers(self, app: web.Application):
        self.queue: asyncio.Queue = asyncio.Queue()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=WORKERS)) as session:
            tasks = [asyncio.create_task(self._deliver(session)) for _ in range(WORKERS)]
            yield
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @web.middleware
    async def _authorise(self, request: web.Request, handler) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"status": 401, "message": "unauthorized"}, status=401)
        return await handler(request)

    async def _topics(self, request: web.Request) -> web.Response:
        return web.json_response(self.topics)

    async def _put_tenant(self, request: web.Request) -> web.Response:
        tenant = request.match_info["tenant"]
        self.tenants.setdefault(tenant, [])
        return web.json_response({"id": tenant}, status=201)

    async def _delete_tenant(self, request: web.Request) -> web.Response:
        tenant = request.match_info["tenant"]
        del self.tenants[tenant]
        self.deleted.append(tenant)
        return web.json_response({"success": True})

    async def _add_destination(self, request: web.Request) -> web.Response:
        destination = await request.json()
        self.tenants[request.match_info["tenant"]].append(destination)
        return web.json_response(destination, status=201)

    async def _publish(self, request: web.Request) -> web.Response:
        raw = await request.read()
        event = json.loads(raw)
        if self.keep_bodies:
            self.bodies.append(raw)
        if self.faults.answer_delay_s:
            await asyncio.sleep(self.faults.answer_delay_s)
        self.published += 1
        faults, ident = self.faults, event["id"]
        if _hit(self.published, faults.hang_up_every) and ident not in self.hung_up:
            self.hung_up.add(ident)
            request.transport.close()
            return web.Response()
        if _hit(self.published, faults.refuse_every):
            return web.json_response({"status": 503, "message": "full"}, status=503)
        if _hit(self.published, faults.reject_every):
            return web.json_response({"status": 422, "message": "no"}, status=422)
        self.accepted += ident not in self.seen
        if ident not in self.seen:
            self.seen.add(ident)
            self.queue.put_nowait((self.accepted, event, list(self.tenants[event["tenant_id"]])))
        if _hit(self.published, faults.ghost_every):
            return web.json_response({"status": 503, "message": "full"}, status=503)
        return web.json_response({"id": ident, "duplicate": False, "destination_ids": []}, status=202)

    async def _deliver(self, session: aiohttp.ClientSession) -> None:
        while True:
            count, event, destinations = await self.queue.get()
            for destination in destinations:
                await self._attempt(session, count, event, destination)
            if self.faults.log_delay_s:
                asyncio.get_running_loop().call_later(
                    self.faults.log_delay_s, self._log, count, event, destinations
                )
            else:
                self._log(count, event, destinations)

    async def _attempt(self, session: aiohttp.ClientSession, count: int, event: dict, destination: dict) -> None:
        faults = self.faults
        if _hit(count, faults.lose_every):
            return
        if _hit(count, faults.misroute_every):
            destination = next(d[0] for t, d in self.tenants.items() if t != event["tenant_id"])
        headers = {"X-Outpost-Event-Id": event["id"], "X-Outpost-Topic": event["topic"]}
        for _ in range(2 if _hit(count, faults.double_every) else 1):
            async with session.post(destination["config"]["url"], json=event["data"], headers=headers) as answer:
                await answer.read()

    def _log(self, count: int, event: dict, destinations: list[dict]) -> None:
        faults = self.faults
        if not _hit(count, faults.unlogged_every):
            self.events.append(event)
        if _hit(count, faults.unrecorded_every):
            return
        for destination in destinations:
            row = {
                "event_id": event["id"],
                "tenant_id": event["tenant_id"],
                "destination_id": destination["id"],
                "status": "success",
                "attempt_number": 1,
            }
            if _hit(count, faults.fail_first_attempt_every):
                self.attempts += [row | {"status": "failed"}, row | {"attempt_number": 2}]
            else:
                self.attempts += [row] * (2 if _hit(count, faults.twice_recorded_every) else 1)

    async def _list_events(self, request: web.Request) -> web.Response:
        return _page(request, self.events, {"tenant_id": "tenant_id", "id": "id"})

    async def _list_attempts(self, request: web.Request) -> web.Response:
        return _page(request, self.attempts, {"tenant_id": "tenant_id", "event_id": "event_id"})


def _hit(count: int, every: int) -> bool:
    return every > 0 and count % every == 0


def _page(request: web.Request, rows: list[dict], filters: dict[str, str]) -> web.Response:
    found = rows
    for name, key in filters.items():
        if wanted := set(request.query.getall(name, [])):
            found = [row for row in found if row[key] in wanted]
    start, limit = int(request.query.get("next", 0)), int(request.query.get("limit", 100))
    following = str(start + limit) if len(found) > start + limit else None
    return web.json_response(
        {"models": found[start : start + limit], "pagination": {"next": following, "prev": None}}
    )


@contextlib.contextmanager
def running(faults: Faults | None = None, topics: list[str] | None = None) -> Iterator[FakeOutpost]:
    """Serve on a free port of the loopback from a thread of its own; `url` has the API prefix."""
    fake = FakeOutpost(faults or Faults(), topics)
    ready = threading.Event()
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        done = asyncio.Event()
        runner = web.AppRunner(fake.app(), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}/api/v1"
        stop.append((asyncio.get_running_loop(), done))
        ready.set()
        await done.wait()
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="fake-outpost")
    thread.start()
    try:
        assert ready.wait(START_LIMIT_S)
        yield fake
    finally:
        for loop, done in stop:
            loop.call_soon_threadsafe(done.set)
        thread.join(START_LIMIT_S)


if __name__ == "__main__":
    import uvloop

    uvloop.install()
    alone = FakeOutpost(keep_bodies=False)
    web.run_app(alone.app(), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, handle_signals=True)
