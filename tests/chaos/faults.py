"""What each kind of step does, and that it is undone when its time is over.

A thing has one fault at a time: a step that meets another at work does nothing. Those of different things overlap.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from tests.chaos import plan, traffic
from tests.chaos.members import WINDOWS_S, Client, Member
from tests.harness import clocks, servers
from tests.harness.polling import eventually
from tests.harness.toxic import Toxic

DELAY_S = 0.05
LONGEST_CUT = 2_000  # bytes of answers before a cut
RETRIES = 3  # events that a step asks manual retries of
BURST = 12  # manual retries of one event: more than there are automatic ones by default
SLOW_BYTES_S = 3_000_000  # each way, of a link to Redis; an event of a megabyte takes a third of a second
LEFT_BYTES = 200_000  # of memory, when it is about to end
SYNC_LIMIT_S = 30.0
_READ = (200, 404)  # an event that was just accepted may not be in the log store yet


class Stage(msgspec.Struct):
    """Everything there is to spoil."""

    members: list[Member]
    stores: dict[str, servers.Controlled]
    proxies: dict[str, Toxic]  # by store, and "receiver"
    receiver: traffic.Receiver
    publishers: traffic.Publishers
    client: Client
    replicas: list[servers.RedisServer]  # which took over, to be ended with the run
    clock: clocks.Clock | None  # of Redis and those that took over; None: nobody steps a clock


class Faults:
    """Does steps. `done` counts those that did something, by kind."""

    def __init__(self, stage: Stage) -> None:
        self.done: dict[str, int] = {}
        self._stage = stage
        self._busy: set[str] = set()
        self._acts: dict[str, Callable[[plan.Step], Awaitable[None]]] = {
            "kill process": self._kill_process,
            "pause process": self._pause_process,
            "kill store": self._kill_store,
            "pause store": self._pause_store,
            "reset connections": self._reset,
            "cut an answer": self._cut,
            "stall connections": self._stall,
            "refuse connections": self._refuse,
            "delay connections": self._delay,
            "receiver in a mood": self._mood,
            "reset the receiver": self._reset_receiver,
            "half-open receiver": self._half_open_receiver,
            "disable a destination": self._disable,
            "change topics": self._topics,
            "delete a destination": self._delete,
            "ask for retries": self._retries,
            "ask for a burst of retries": self._burst,
            "publish large events": self._large,
            "publish to thousands": self._wide,
            "slow link": self._slow_link,
            "memory at its limit": self._memory,
            "another window": self._window,
            "replica takes over": self._take_over,
            "step the store's clock": self._step_store,
            "step a process's clock": self._step_process,
        }

    async def do(self, step: plan.Step) -> None:
        """Begins it, waits for its time, undoes it. Raises Surprise."""
        await self._acts[step.kind](step)

    @contextlib.asynccontextmanager
    async def _alone(self, what: str, step: plan.Step) -> AsyncIterator[bool]:
        """Whether nothing else is at work on it."""
        free = what not in self._busy
        if free:
            self._busy.add(what)
            self.done[step.kind] = self.done.get(step.kind, 0) + 1
        try:
            yield free
        finally:
            if free:
                self._busy.discard(what)

    # -- processes and stores

    def _member(self, step: plan.Step) -> tuple[str, Member]:
        number = step.number % len(self._stage.members)
        return f"process {number}", self._stage.members[number]

    async def _kill_process(self, step: plan.Step) -> None:
        name, member = self._member(step)
        async with self._alone(name, step) as free:
            if free:
                member.busy = True
                await member.kill()
                await asyncio.sleep(step.for_s)
                await member.start()
                member.busy = False

    async def _pause_process(self, step: plan.Step) -> None:
        name, member = self._member(step)
        async with self._alone(name, step) as free:
            if free:
                member.now.signal(signal.SIGSTOP)
                await asyncio.sleep(step.for_s)
                member.now.signal(signal.SIGCONT)

    async def _kill_store(self, step: plan.Step) -> None:
        store = self._stage.stores[step.store]
        async with self._alone(step.store, step) as free:
            if free:
                store.kill9()
                await asyncio.sleep(step.for_s)
                store.start()

    async def _pause_store(self, step: plan.Step) -> None:
        store = self._stage.stores[step.store]
        async with self._alone(step.store, step) as free:
            if free:
                store.pause()
                await asyncio.sleep(step.for_s)
                store.resume()

    async def _window(self, step: plan.Step) -> None:
        """One process starts again with another window, as in a rollout."""
        name, member = self._member(step)
        async with self._alone(name, step) as free:
            if free:
                member.busy = True
                await member.kill()
                member.window_s = WINDOWS_S[step.number % len(WINDOWS_S)]
                await member.start()
                member.busy = False

    async def _memory(self, step: plan.Step) -> None:
        """Redis has next to no memory left; publishing is refused meanwhile, and everything goes on afterwards."""
        async with self._alone("redis", step) as free:
            if free:
                client = self._redis().client()
                used = (await client.info("memory"))["used_memory"]
                await client.config_set("maxmemory", used + LEFT_BYTES)
                await asyncio.sleep(step.for_s)
                await client.config_set("maxmemory", 0)
                await self._redis().close_clients()

    async def _take_over(self, step: plan.Step) -> None:
        """A replica that has everything takes the place of the primary, behind the same name."""
        async with self._alone("redis", step) as free:
            if not free:
                return
            old, proxy = self._redis(), self._stage.proxies["redis"]
            new = servers.RedisServer(old.kind, old.binary)
            self._stage.replicas.append(new)
            primary, replica = old.client(), new.client()
            await replica.replicaof(old.host, old.port)
            await eventually(lambda: _in_step(primary, replica), SYNC_LIMIT_S)
            await primary.client_pause(int(SYNC_LIMIT_S * 1000), all=False)  # writes wait, so that none is lost
            await eventually(lambda: _in_step(primary, replica), SYNC_LIMIT_S)
            await replica.replicaof("NO", "ONE")
            proxy.lead_to(new.host, new.port)
            proxy.reset()
            for server in (old, new):
                await server.close_clients()
            old.kill9()
            self._stage.stores["redis"] = new

    async def _step_store(self, step: plan.Step) -> None:
        """Not while a replica takes over: the servers time that by the clock that is stepped."""
        await self._step_clock("redis", self._stage.clock, step)

    async def _step_process(self, step: plan.Step) -> None:
        await self._step_clock(f"clock of process {step.number}", self._member(step)[1].clock, step)

    async def _step_clock(self, what: str, clock: clocks.Clock | None, step: plan.Step) -> None:
        """It goes on from there: nothing brings it back but the next step."""
        if clock is not None:
            async with self._alone(what, step) as free:
                if free:
                    clock.step_to(step.offset_s)

    def _redis(self) -> servers.RedisServer:
        store = self._stage.stores["redis"]
        assert isinstance(store, servers.RedisServer)
        return store

    # -- the ways between them

    @contextlib.asynccontextmanager
    async def _proxy(self, name: str, step: plan.Step) -> AsyncIterator[Toxic | None]:
        async with self._alone(f"proxy of {name}", step) as free:
            yield self._stage.proxies[name] if free else None

    async def _reset(self, step: plan.Step) -> None:
        async with self._proxy(step.store, step) as proxy:
            if proxy:
                proxy.reset()

    async def _cut(self, step: plan.Step) -> None:
        async with self._proxy(step.store, step) as proxy:
            if proxy:
                proxy.cut_after(step.number * LONGEST_CUT // 1_000 + 1)

    async def _stall(self, step: plan.Step) -> None:
        async with self._proxy(step.store, step) as proxy:
            if proxy:
                proxy.stall()
                await asyncio.sleep(step.for_s)
                proxy.flow()

    async def _refuse(self, step: plan.Step) -> None:
        async with self._proxy(step.store, step) as proxy:
            if proxy:
                await proxy.refuse()
                await asyncio.sleep(step.for_s)
                await proxy.accept()

    async def _delay(self, step: plan.Step) -> None:
        async with self._proxy(step.store, step) as proxy:
            if proxy:
                proxy.latency_s = DELAY_S
                await asyncio.sleep(step.for_s)
                proxy.latency_s = 0.0

    async def _slow_link(self, step: plan.Step) -> None:
        async with self._proxy("redis", step) as proxy:
            if proxy:
                proxy.rate = SLOW_BYTES_S
                await asyncio.sleep(step.for_s)
                proxy.rate = 0.0

    async def _reset_receiver(self, step: plan.Step) -> None:
        async with self._proxy("receiver", step) as proxy:
            if proxy:
                proxy.reset()

    async def _half_open_receiver(self, step: plan.Step) -> None:
        async with self._proxy("receiver", step) as proxy:
            if proxy:
                proxy.stall()
                await asyncio.sleep(step.for_s)
                proxy.flow()

    async def _mood(self, step: plan.Step) -> None:
        tenant = traffic.TENANTS[step.number % len(traffic.TENANTS)]
        id_ = traffic.destinations_of(tenant)[step.number % traffic.EACH]
        async with self._alone(f"mood of {id_}", step) as free:
            if free:
                self._stage.receiver.moods[id_] = step.mood
                await asyncio.sleep(step.for_s)
                del self._stage.receiver.moods[id_]

    # -- through the API

    @contextlib.asynccontextmanager
    async def _destination(self, step: plan.Step) -> AsyncIterator[tuple[str, str, str] | None]:
        """Path, tenant and id of one that may be changed."""
        tenant, id_ = traffic.MOVING_DESTINATIONS[step.number % len(traffic.MOVING_DESTINATIONS)]
        async with self._alone(f"destination {id_}", step) as free:
            yield (f"{traffic.tenant_path(tenant)}/destinations/{id_}", tenant, id_) if free else None

    async def _disable(self, step: plan.Step) -> None:
        async with self._destination(step) as place:
            if place:
                await self._stage.client.ask("PUT", f"{place[0]}/disable")
                await asyncio.sleep(step.for_s)
                await self._stage.client.ask("PUT", f"{place[0]}/enable")

    async def _topics(self, step: plan.Step) -> None:
        async with self._destination(step) as place:
            if place:
                await self._stage.client.ask("PATCH", place[0], {"topics": [traffic.OTHER_TOPIC]})
                await asyncio.sleep(step.for_s)
                await self._stage.client.ask("PATCH", place[0], {"topics": "*"})

    async def _delete(self, step: plan.Step) -> None:
        stage = self._stage
        async with self._destination(step) as place:
            if place:
                await stage.client.ask("DELETE", place[0], allowed=(200, 404))
                await asyncio.sleep(step.for_s)
                await traffic.create(stage.client, stage.receiver, stage.proxies["receiver"], *place[1:])

    async def _burst(self, step: plan.Step) -> None:
        """Many retries of one delivery, one after another; each that is accepted is an attempt of its own."""
        steady = [id_ for id_, (tenant, _) in self._stage.publishers.answers.items() if tenant in traffic.STEADY]
        async with self._alone("retries", step) as free:
            for id_ in [steady[-1]] * BURST if free and steady else []:
                tenant, (destination, *_) = self._stage.publishers.answers[id_]
                body = {"tenant_id": tenant, "event_id": id_, "destination_id": destination}
                await self._stage.client.ask("POST", "/api/v1/retry", body, allowed=(202, 404))

    async def _large(self, step: plan.Step) -> None:
        async with self._alone("large events", step) as free:
            if free:
                await self._stage.publishers.large(traffic.STEADY[step.number % len(traffic.STEADY)])

    async def _wide(self, step: plan.Step) -> None:
        async with self._alone("wide events", step) as free:
            if free:
                await self._stage.publishers.wide()

    async def _retries(self, step: plan.Step) -> None:
        steady = [id_ for id_, (tenant, _) in self._stage.publishers.answers.items() if tenant in traffic.STEADY]
        async with self._alone("retries", step) as free:
            for id_ in steady[-RETRIES:] if free else []:
                tenant, (destination, *_) = self._stage.publishers.answers[id_]
                body = {"tenant_id": tenant, "event_id": id_, "destination_id": destination}
                await self._stage.client.ask("POST", "/api/v1/retry", body, allowed=(202, 404))


async def _in_step(primary: Any, replica: Any) -> bool:
    """Whether the replica has everything that the primary wrote."""
    has, made = await replica.info("replication"), await primary.info("replication")
    return bool(has.get("master_link_status") == "up" and has["slave_repl_offset"] == made["master_repl_offset"])
