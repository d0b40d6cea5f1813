"""One at a time, tenants in turn: for work that cannot run twice at once and that any tenant may ask for often."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque


class Turns:
    """`wait` for a turn, and say when it has `passed`. Belongs to one event loop."""

    def __init__(self) -> None:
        self._busy = False
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by tenant; the first is served next

    async def wait(self, tenant: str) -> None:
        """Until it is the caller's turn, which is then to be `passed` on. Who is cancelled has none."""
        if not self._busy:
            self._busy = True
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.passed()  # it came as its owner gave up
            else:
                self._leave(tenant, turn)
            raise

    def passed(self) -> None:
        """The turn is over; the next tenant has its own."""
        while self._waiting:
            tenant = next(iter(self._waiting))
            line = self._waiting.pop(tenant)
            turn = line.popleft()
            if line:
                self._waiting[tenant] = line
            if not turn.done():
                turn.set_result(None)
                return
        self._busy = False

    def _leave(self, tenant: str, turn: asyncio.Future[None]) -> None:
        line = self._waiting.get(tenant)
        if line is not None:
            with contextlib.suppress(ValueError):
                line.remove(turn)
            if not line:
                del self._waiting[tenant]
