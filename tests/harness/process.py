"""Whole processes of ours: `outpost serve` on real stores, to be stopped, killed and made to crash at a place.

`Outpost(redis, postgres_url, folder)` describes one; `start` runs it. What it says on stderr is kept in a file; it
dies with pytest, however that ends.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import aiohttp
import msgspec

from tests.harness import servers
from tests.harness.polling import eventually

ROOT = Path(__file__).parents[2]
KEY = "key-of-the-tests"
START_LIMIT_S = 90.0
STOP_LIMIT_S = 60.0
PR_SET_PDEATHSIG = 1
# Short leases and watchdogs, so that what a killed process held comes back within a second or two.
ENVIRONMENT = {
    "API_HOST": "127.0.0.1",
    "API_KEY": KEY,
    "AES_ENCRYPTION_SECRET": "secret-of-the-tests",
    "DESTINATIONS_ALLOWED_CIDRS": "127.0.0.0/8",
    "DELIVERY_TIMEOUT_SECONDS": "1",
    "DELIVERY_LEASE_MARGIN_MS": "200",
    "DELIVERY_WATCHDOG_MS": "1000",
    "RETRY_SCHEDULE": "1,1",
    "LOG_LEVEL": "debug",
}
# Entries that a dead process had read are taken over after so long; in a test as soon as they may be.
QUICK = (
    "outpost.dispatch.dispatcher:SWEEP_EVERY_S=0.3",
    "outpost.dispatch.dispatcher:SWEEP_IDLE_MS=800",
    "outpost.log.upkeep.leadership:TURN_MS=1000",
    "outpost.log.upkeep.leadership:RENEW_S=0.3",
)
_libc = ctypes.CDLL(None)
_numbers = itertools.count(1)


class Crash(msgspec.Struct, frozen=True):
    """SIGKILL by itself at the `nth` call of `at` (`module:function` or `module:Class.method`), `before` it or
    `after` it returned."""

    at: str
    when: str = "before"
    nth: int = 1


class Outpost:
    """One process. `changes` are constants of modules that it starts with, as `module:NAME=JSON`; into `report` it
    writes how long its event loop was held, or with `own_loop` only what it holds, see `watched_entry`."""

    def __init__(
        self,
        redis: servers.RedisServer,
        postgres_url: str,
        folder: Path,
        service: str = "all",
        *,
        crash: Crash | None = None,
        changes: Sequence[str] = QUICK,
        report: Path | None = None,
        own_loop: bool = False,
        **environment: str,
    ) -> None:
        self._command = _command(service, crash, changes, report, own_loop=own_loop)
        self._environment = {
            **{k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "TMPDIR")},
            **ENVIRONMENT,
            "REDIS_HOST": redis.host,
            "REDIS_PORT": str(redis.port),
            "POSTGRES_URL": postgres_url,
            **environment,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]),
        }
        self._folder = folder
        self._stderr = folder / f"{next(_numbers)}-{service}.log"
        self._popen: subprocess.Popen[bytes] | None = None
        self._session: aiohttp.ClientSession | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            print(f"{self._stderr.name}:\n{self.stderr[-4_000:]}")  # pytest shows it with the failure
        await self.end()

    async def start(self) -> Self:
        """Starts it and waits until it listens and is well."""
        self.spawn()
        await self.ready()
        return self

    def spawn(self) -> None:
        """Starts it."""
        with self._stderr.open("wb") as output:
            self._popen = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                env=self._environment,
                preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
            )

    async def ready(self, limit: float = START_LIMIT_S) -> None:
        """Waits until it listens and says that it is well."""
        started = await eventually(lambda: self._started() or (self.ended and "ended"), limit)
        assert isinstance(started, dict), f"it ended: {self.stderr[-2_000:]}"
        self.url = f"http://127.0.0.1:{started['port']}"
        await eventually(self._answers, limit)

    def _started(self) -> dict[str, Any] | None:
        return next((line for line in self.lines() if line.get("event") == "service_started"), None)

    async def _answers(self) -> bool:
        try:
            return (await self.request("GET", "/healthz"))[0] == 200
        except aiohttp.ClientError:
            return False

    @property
    def pid(self) -> int:
        assert self._popen is not None
        return self._popen.pid

    @property
    def ended(self) -> bool:
        return self._popen is not None and self._popen.poll() is not None

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    def lines(self) -> list[dict[str, Any]]:
        """What it logged."""
        found = []
        for line in self.stderr.splitlines():
            if line.startswith("{"):
                try:
                    found.append(json.loads(line))
                except ValueError:
                    continue  # being written
        return found

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, if it still runs."""
        assert self._popen is not None
        self._popen.send_signal(number)

    async def exit_code(self, limit: float = STOP_LIMIT_S) -> int:
        """Waits for its end; negative where a signal ended it."""
        await eventually(lambda: self.ended, limit)
        assert self._popen is not None
        assert self._popen.returncode is not None
        return self._popen.returncode

    async def stop(self, limit: float = STOP_LIMIT_S) -> int:
        """SIGTERM, and its exit code."""
        self.signal(signal.SIGTERM)
        return await self.exit_code(limit)

    async def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        self.signal(signal.SIGKILL)
        await self.exit_code()

    async def crashed(self, limit: float = STOP_LIMIT_S) -> None:
        """Waits until it has killed itself."""
        code = await self.exit_code(limit)
        assert code == -signal.SIGKILL, f"ended with {code}: {self.stderr[-2_000:]}"

    async def hang_up(self) -> None:
        """Closes the connections of `request`; the next one opens its own."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def end(self) -> None:
        """Frees everything; kills what still runs."""
        await self.hang_up()
        if self._popen is not None and not self.ended:
            await self.kill()

    async def request(
        self, method: str, path: str, body: Any = None, *, limit: float = 60.0, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body as JSON and headers. Raises aiohttp.ClientError where nobody answers."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(limit))
        sent = {"Authorization": f"Bearer {KEY}", **headers}
        async with self._session.request(method, self.url + path, json=body, headers=sent) as answer:
            return answer.status, await answer.json(content_type=None), dict(answer.headers)

    async def api(self, method: str, path: str, body: Any = None, *, expected: int = 200) -> Any:
        """The body of an answer with the expected status."""
        status, said, _ = await self.request(method, f"/api/v1{path}", body)
        assert expected == status, said
        return said

    async def tenant(self, tenant: str) -> None:
        await self.api("PUT", f"/tenants/{tenant}", expected=201)

    async def webhook(self, tenant: str, url: str, **changes: Any) -> str:
        """Creates a destination; its id."""
        body = {"type": "webhook", "topics": "*", "config": {"url": url}} | changes
        return (await self.api("POST", f"/tenants/{tenant}/destinations", body, expected=201))["id"]

    async def publish(self, tenant: str, id_: str, **changes: Any) -> Any:
        return await self.api("POST", "/publish", event(tenant, id_, **changes), expected=202)


def event(tenant: str, id_: str, **changes: Any) -> dict[str, Any]:
    """The body of a publish."""
    return {"tenant_id": tenant, "id": id_, "topic": "user.created", "data": {"id": id_}} | changes


def _command(
    service: str, crash: Crash | None, changes: Sequence[str], report: Path | None, *, own_loop: bool
) -> list[str]:
    serve = ["serve", "--service", service, "--port", "0"]
    options = [word for change in changes for word in ("--set", change)]
    if report is not None:
        options = ["--report", str(report), *(["--own-loop"] if own_loop else []), *options]
        return [sys.executable, "-m", "tests.harness.watched_entry", *options, "--", *serve]
    if crash is None and not changes:
        return [sys.executable, "-m", "outpost", *serve]
    if crash is not None:
        options += ["--at", crash.at, "--when", crash.when, "--nth", str(crash.nth)]
    return [sys.executable, "-m", "tests.harness.crash_entry", *options, "--", *serve]
