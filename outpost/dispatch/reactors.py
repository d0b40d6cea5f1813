"""What follows from an attempt beside its record: a destination that answered 410 Gone is disabled.

It is asked for after the record, so that no attempt is lost for it. A process that dies in between has disabled
nothing, and the next 410 does it; nobody else is harmed, since the delivery that was answered is closed. Asked for
twice, by other processes or by a retry whose reply was lost, it happens once: only the state that was answered for
is disabled.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from outpost import errors, pacing, telemetry
from outpost.commands import actor as actors
from outpost.commands import destinations as commands
from outpost.commands import writer as writers

REASON = "gone"  # as the log shows it
MOST = 10_000  # destinations that wait to be disabled; of others the next 410 will do
LAST_S = 1.0  # for what waits when the process stops


class Ask(msgspec.Struct, frozen=True):
    """`version` is that of the destination's state that was sent to, `at` the position of the attempt."""

    tenant: str
    destination: str
    version: int
    answered_ms: int
    at: str


class Gone:
    """One a process. `ask` never waits; `run` is its one background task."""

    def __init__(self, destinations: commands.Destinations) -> None:
        self._destinations = destinations
        self._waiting: dict[tuple[str, str], Ask] = {}
        self._asked = asyncio.Event()
        self.health = telemetry.Health("reactor")

    def ask(self, ask: Ask) -> None:
        """The destination answered 410. Of several answers of one state the first counts."""
        place = (ask.tenant, ask.destination)
        known = self._waiting.get(place)
        if known is None and len(self._waiting) >= MOST:
            return
        if known is None or known.version < ask.version:
            self._waiting[place] = ask
            self._asked.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Disables until `stop`, and then, for a moment, what still waits."""
        pause = pacing.Pause()

        async def step() -> float | None:
            if not self._waiting:
                self._asked.clear()
                await self._asked.wait()
            elif await self._round():
                pause.reset()
                return 0
            else:
                await pacing.sleep(pause.next_s(), stop)
            return None

        with pacing.waking(stop, self._asked.set):
            await pacing.repeat(step, stop, self.health, pause)
            with contextlib.suppress(errors.StoreUnavailable, TimeoutError):
                async with asyncio.timeout(LAST_S):
                    await self._round()

    async def _round(self) -> bool:
        """Tries each that waits once; whether none is left to be tried again. Raises errors.StoreUnavailable."""
        done = True
        for place, ask in list(self._waiting.items()):
            try:
                await self._disable(ask)
            except (errors.Contended, errors.Halted):
                done = False
                continue
            self.health.rose()
            if self._waiting.get(place) is ask:
                del self._waiting[place]
        return done

    async def _disable(self, ask: Ask) -> None:
        actor = actors.Actor("operator", f"{REASON}-{ask.at}")
        try:
            done = await self._destinations.set_disabled(
                actor, ask.tenant, ask.destination, ask.answered_ms, reason=REASON, version=ask.version
            )
        except errors.NotFound:
            return  # deleted meanwhile
        if isinstance(done, writers.Written):
            telemetry.emit("destination_gone", tenant=ask.tenant, destination=ask.destination, at=ask.at)
