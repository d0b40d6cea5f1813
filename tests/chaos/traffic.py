"""Who publishes and who receives during a run, and what each of them can swear to at its end."""

from __future__ import annotations

import asyncio
import random
import urllib.parse
from collections import Counter, deque
from typing import Any

from tests.chaos.members import AGAIN_WITHIN_S, Client, Surprise
from tests.harness import process
from tests.harness import receiver as receivers
from tests.harness.toxic import Toxic

# Nobody changes the destinations of the steady ones: their events match and reach all of them.
STEADY, MOVING = ("steady-1", "steady-2", "steady-3", "steady @ü"), ("moving-1", "moving-2")
WIDE = "wide"  # a tenant of thousands of destinations, which nobody changes
TENANTS = (*STEADY, *MOVING)
WIDE_DESTINATIONS = 2_000
CREATED_AT_ONCE = 20
EACH = 2  # destinations of a tenant; the second of each is reached through the proxy
PUBLISHERS = 6
LONGEST_PAUSE_S = 0.4  # between two events of a publisher
AGAIN = 0.05  # of the answers are asked for once more, later
SLOW_S = (0.2, 1.5)  # the delivery timeout is 1 s
LARGE = ".large"  # what the id of an event ends in that is nearly as large as one may be
LARGE_BYTES = 1_000_000
LARGE_AT_ONCE = 12
WORDS = b"\x01" * 131_072  # the most that is kept of an answer, in characters that are six times as long in JSON
TOPIC, OTHER_TOPIC = "user.created", "user.deleted"


def destinations_of(tenant: str) -> list[str]:
    if tenant == WIDE:
        return [f"w{n:04d}" for n in range(WIDE_DESTINATIONS)]
    return [f"d{TENANTS.index(tenant)}.{n}" for n in range(EACH)]


MOVING_DESTINATIONS = [(tenant, id_) for tenant in MOVING for id_ in destinations_of(tenant)]


class Receiver:
    """Every destination, by path. `taken` counts what it was well enough to answer with 200."""

    def __init__(self, chance: random.Random) -> None:
        self.taken: Counter[tuple[str, str]] = Counter()
        self.seen = 0
        self.moods: dict[str, str] = {}
        self._chance = chance
        self.server = receivers.Receiver()
        self.server.always(self._answer)

    def _answer(self, request: receivers.Request) -> receivers.Script:
        self.server.requests.clear()  # counted here; a long run would keep them all
        self.seen += 1
        id_ = request.target.rpartition("/")[2]
        match self.moods.get(id_):
            case "failing":
                return receivers.answer(500)
            case "wordy":
                return receivers.answer(500, WORDS)
            case "hanging":
                return [receivers.Do.HANG]
            case "resetting":
                return [receivers.Do.RESET]
            case "slow":
                script = receivers.after(self._chance.uniform(*SLOW_S), receivers.answer())
            case _:
                script = receivers.answer()
        self.taken[id_, urllib.parse.unquote(request.headers["x-outpost-event-id"])] += 1
        return script


class Publishers:
    """Publish events with ids until each is acknowledged. `answers` is what was answered: id -> tenant and the
    destinations it goes to."""

    def __init__(self, client: Client, chance: random.Random) -> None:
        self.answers: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.duplicates = 0
        self._recent: deque[tuple[float, str]] = deque()  # when it was answered, by the loop's clock, and its id
        self._client = client
        self._chance = chance
        self._number = 0

    async def run(self, stop: asyncio.Event) -> None:
        """One of them, until `stop`; the event that it is at is still brought home."""
        while not stop.is_set():
            tenant = self._chance.choice(TENANTS)
            self._number += 1
            await self._publish(tenant, f"{tenant}.{self._number}")
            if self._chance.random() < AGAIN:
                await self._again()
            await asyncio.sleep(self._chance.uniform(0, LONGEST_PAUSE_S))

    async def large(self, tenant: str) -> None:
        """Some large events at once."""
        numbers = range(self._number + 1, self._number + 1 + LARGE_AT_ONCE)
        self._number += LARGE_AT_ONCE
        await asyncio.gather(*(self._publish(tenant, f"{tenant}.{n}{LARGE}") for n in numbers))

    async def wide(self) -> None:
        """An event that goes to thousands of destinations."""
        self._number += 1
        await self._publish(WIDE, f"{WIDE}.{self._number}")

    async def _publish(self, tenant: str, id_: str) -> None:
        said = await self._ask(tenant, id_)
        self.answers[id_] = tenant, tuple(sorted(said["destination_ids"]))
        self._recent.append((asyncio.get_running_loop().time(), id_))
        if tenant in (*STEADY, WIDE) and list(self.answers[id_][1]) != destinations_of(tenant):
            raise Surprise(f"{id_} goes to {said['destination_ids']}")

    async def _again(self) -> None:
        """Asks for a recent event once more: none whose window may be over."""
        while self._recent[0][0] < asyncio.get_running_loop().time() - AGAIN_WITHIN_S:
            self._recent.popleft()
        id_ = self._chance.choice(self._recent)[1]
        tenant, first = self.answers[id_]
        said = await self._ask(tenant, id_)
        self.duplicates += 1
        if (True, first) != (said["duplicate"], tuple(sorted(said["destination_ids"]))):
            raise Surprise(f"{id_} was answered {first} and then {said}")

    async def _ask(self, tenant: str, id_: str) -> dict[str, list[str]]:
        return await self._client.ask("POST", "/api/v1/publish", event(tenant, id_), allowed=(202,))


def event(tenant: str, id_: str) -> dict[str, Any]:
    """The body of a publish; what its id ends in says how large it is."""
    made = process.event(tenant, id_)
    if id_.endswith(LARGE):
        made["data"] |= {"filler": "x" * LARGE_BYTES}
    return made


async def prepare(client: Client, receiver: Receiver, proxy: Toxic) -> None:
    """Makes every tenant and destination."""
    for tenant in TENANTS:
        await client.ask("PUT", tenant_path(tenant), allowed=(200, 201))
        for id_ in destinations_of(tenant):
            await create(client, receiver, proxy, tenant, id_)
    await client.ask("PUT", tenant_path(WIDE), allowed=(200, 201))
    ids = iter(destinations_of(WIDE))

    async def some() -> None:
        for id_ in ids:
            await create(client, receiver, proxy, WIDE, id_)

    await asyncio.gather(*(some() for _ in range(CREATED_AT_ONCE)))


async def create(client: Client, receiver: Receiver, proxy: Toxic, tenant: str, id_: str) -> None:
    """Makes a destination, or finds that an earlier try has made it."""
    port = proxy.port if id_.endswith(".1") else receiver.server.port
    body = {"id": id_, "type": "webhook", "topics": "*", "config": {"url": f"http://127.0.0.1:{port}/{id_}"}}
    await client.ask("POST", f"{tenant_path(tenant)}/destinations", body, allowed=(201, 400))


def tenant_path(tenant: str) -> str:
    return f"/api/v1/tenants/{urllib.parse.quote(tenant)}"
