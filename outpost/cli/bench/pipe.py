"""The line protocol between the command and its two processes, both ends: `Commands` inside a process,
`Worker` in the command. A process ends when its stdin closes, so it never outlives the command.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from outpost import errors

T = TypeVar("T")
LINE_LIMIT_BYTES = 1 << 20
START_LIMIT_S = 20.0


class _UntilClosed(asyncio.StreamReaderProtocol):
    """Ends the process in the midst of whatever it does when the command is gone, by kill -9 too."""

    def eof_received(self) -> bool:
        os._exit(0)


class Commands:
    """Inside a process: lines from stdin, answers to stdout."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    @classmethod
    async def open(cls) -> Commands:
        """Attach to stdin, and make a failure in any callback the end of the process: its samples would be worth
        nothing."""
        asyncio.get_running_loop().set_exception_handler(_fail)
        reader = asyncio.StreamReader(limit=LINE_LIMIT_BYTES)
        protocol = _UntilClosed(reader)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
        return cls(reader)

    async def line(self) -> bytes:
        """The next line. Waits for as long as the command lives."""
        return await self._reader.readline()

    @staticmethod
    def decode(line: bytes, kind: type[T]) -> T:
        """A command as `kind`."""
        return msgspec.json.decode(line, type=kind)

    @staticmethod
    def answer(message: msgspec.Struct) -> None:
        """Write one answer; small enough for the pipe's buffer, so it does not block."""
        os.write(sys.stdout.fileno(), msgspec.json.encode(message) + b"\n")


def _fail(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    loop.default_exception_handler(context)
    if not isinstance(context.get("exception"), OSError):
        os._exit(1)


class Worker:
    """In the command: a process that runs `module`, one question at a time."""

    def __init__(self, module: str, process: asyncio.subprocess.Process) -> None:
        self._module = module
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(
        cls, module: str, plan: msgspec.Struct, *, folder: Path | None = None, limit_s: float = START_LIMIT_S
    ) -> tuple[Worker, bytes]:
        """Start it, in `folder` if given, and return it with its first answer. A session of its own keeps Ctrl-C
        from it."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT_BYTES,
            cwd=folder,
            start_new_session=True,
        )
        worker = cls(module, process)
        try:
            return worker, await worker.ask(plan, limit_s)
        except BaseException:
            await worker.stop()
            raise

    async def ask(self, message: msgspec.Struct, limit_s: float) -> bytes:
        """Send `message`, return the answer's line. Raises `StartRefused` if none comes within `limit_s`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(message) + b"\n")
        try:
            async with asyncio.timeout(limit_s):
                line = await self._process.stdout.readline()
        except TimeoutError as error:
            raise errors.StartRefused(f"{self._module} did not answer within {limit_s:g} s") from error
        if not line:
            raise errors.StartRefused(f"{self._module} ended early; its message stands above")
        return line

    async def stop(self) -> None:
        """End it at once: what it knew was asked for before."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
