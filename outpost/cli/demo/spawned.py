"""A throw-away `outpost serve --embedded` for a command that needs a server of its own: a free port, a folder of
its own, and an end by SIGTERM whatever happens. Its log stands beside the folder until then, for the sentence that
says why it did not start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx
import msgspec

from outpost import errors
from outpost.embedded import folder as embedded_folder
from outpost.embedded import postgres
from outpost.embedded.process import free_port
from outpost.settings import table as settings_table

START_LIMIT_S = 120.0  # a first start unpacks the stores
STOP_LIMIT_S = 20.0
POLL_S = 0.1
PROBE_LIMIT_S = 2.0
SHOWN_LOG_LINES = 15
# The receivers are on this machine, and the address guard refuses loopback unless told otherwise.
SETTINGS = {"DESTINATIONS_ALLOWED_CIDRS": "127.0.0.0/8,::1/128"}
TUNING = ("DELIVERY_", "LOG_", "WORKERS")


class Spawned(msgspec.Struct, frozen=True):
    """A server that runs: its base URL with the API prefix, its key, its process and its folder."""

    url: str
    key: str
    pid: int
    folder: Path

    def __repr__(self) -> str:
        return f"Spawned({self.url})"


@contextlib.asynccontextmanager
async def spawned(name: str, settings: Mapping[str, str] | None = None) -> AsyncIterator[Spawned]:
    """Starts a server, yields it once it is ready, stops it and deletes its folder.

    `name` is in the folder's name; `settings` are its own, beside what it needs. Raises errors.StartRefused with
    the end of its log.
    """
    folder = _new_folder(name)
    log, config = folder.with_suffix(".log"), folder.with_suffix(".yaml")
    try:
        port = free_port()
        config.touch()  # empty, and named, so that no file of another server is found
        process = await _start(folder, port, log, config, settings or {})
        try:
            await _ready(process, port, log)
            key = embedded_folder.secrets(folder).api_key
            yield Spawned(f"http://127.0.0.1:{port}/api/v1", key, process.pid, folder)
        finally:
            await _stop(process)
    finally:
        for file in (log, config):
            file.unlink(missing_ok=True)
        postgres.delete(folder)


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Ours without the settings that make another server what it is; what tunes a process is left in."""
    other = {v.env for v in settings_table.VARIABLES if not v.env.startswith(TUNING)} | {"CONFIG"}
    return {name: value for name, value in environ.items() if name not in other} | SETTINGS


def _new_folder(name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"outpost-{name}-")).resolve()


async def _start(
    folder: Path, port: int, log: Path, config: Path, settings: Mapping[str, str]
) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "outpost", "serve", "--embedded", "--folder", str(folder)]
    command += ["--port", str(port), "--config", str(config)]
    if setpriv := shutil.which("setpriv"):  # a killed command must not leave a server behind
        command = [setpriv, "--pdeathsig", "TERM", "--", *command]
    with log.open("wb") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            env={**environment(os.environ), **settings},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


async def _ready(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=PROBE_LIMIT_S) as client:
        try:
            async with asyncio.timeout(START_LIMIT_S):
                while process.returncode is None:
                    with contextlib.suppress(httpx.HTTPError):
                        answer = await client.get(f"http://127.0.0.1:{port}/readyz")
                        if answer.is_success:
                            return
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise errors.StartRefused(f"the server was not ready after {START_LIMIT_S:g} s{_tail(log)}") from None
    raise errors.StartRefused(f"the server ended with {process.returncode} before it was ready{_tail(log)}")


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-SHOWN_LOG_LINES:]
    return "".join(f"\n  {line}" for line in lines)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_LIMIT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
