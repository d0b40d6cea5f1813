"""Waiting in tests: never a sleep that hopes, always a condition with a limit."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from outpost.embedded.process import free_port as free_port

T = TypeVar("T")
INTERVAL_S = 0.01
# Only a test that fails waits this long, so a busy machine may take its time.
LIMIT_S = 60.0


@overload
async def eventually(check: Callable[[], Awaitable[T]], limit: float = LIMIT_S) -> T: ...


@overload
async def eventually(check: Callable[[], T], limit: float = LIMIT_S) -> T: ...


async def eventually(check: Callable[[], Any], limit: float = LIMIT_S) -> Any:
    """Calls `check`, sync or async, until it returns something true without an AssertionError; returns that.

    After `limit` seconds raises the last AssertionError, or one that shows the last value.
    """
    deadline = time.monotonic() + limit
    while True:
        value: object = None
        failure: AssertionError | None = None
        try:
            value = check()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
        except AssertionError as error:
            failure = error
        if time.monotonic() > deadline:
            raise failure or AssertionError(
                f"not within {limit} s: {inspect.getsource(check).strip()} = {value!r}"
            )
        await asyncio.sleep(INTERVAL_S)


async def wait_for_port(port: int, limit: float = LIMIT_S, host: str = "127.0.0.1") -> None:
    """Returns when somebody accepts connections on the port."""

    async def accepts() -> bool:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    await eventually(accepts, limit)
