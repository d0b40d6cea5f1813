"""A throw-away `outpost serve --embedded`: a free port, a folder of its own, and an end by SIGTERM whatever
happens. Its log stays beside the folder's data for the sentence that says why it did not start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec

from outpost import errors
from outpost.cli.bench import processes
from outpost.cli.bench.options import Named
from outpost.embedded import folder as embedded_folder

START_LIMIT_S = 120.0  # a first start unpacks the stores
STOP_LIMIT_S = 20.0
POLL_S = 0.1
SHOWN_LOG_LINES = 15
# The receiver is on this machine, and the address guard refuses loopback unless told otherwise.
SETTINGS = {"DESTINATIONS_ALLOWED_CIDRS": "127.0.0.0/8,::1/128"}


class Spawned(msgspec.Struct, frozen=True):
    """A server that runs: its base URL with the API prefix, its key, and its processes by name."""

    url: str
    key: str
    pids: tuple[Named, ...]


@contextlib.asynccontextmanager
async def spawned() -> AsyncIterator[Spawned]:
    """Start a server, yield it once it is ready, stop it. Raises `StartRefused` with the end of its log."""
    folder = Path(tempfile.mkdtemp(prefix="outpost-bench-"))
    try:
        port = _free_port()
        log = folder.with_suffix(".log")
        process = await _start(folder, port, log)
        try:
            await _ready(process, port, log)
            key = embedded_folder.secrets(folder).api_key
            pids = processes.discover(process.pid, folder)
            yield Spawned(f"http://127.0.0.1:{port}/api/v1", key, pids)
        finally:
            await _stop(process)
            log.unlink(missing_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _start(folder: Path, port: int, log: Path) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "outpost", "serve", "--embedded", "--folder", str(folder)]
    command += ["--port", str(port)]
    if setpriv := shutil.which("setpriv"):  # a killed bench must not leave a server behind
        command = [setpriv, "--pdeathsig", "TERM", "--", *command]
    with log.open("wb") as output:
        return await asyncio.create_subprocess_exec(
            *command, env=os.environ | SETTINGS, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )


async def _ready(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
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
