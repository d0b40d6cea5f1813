"""`outpost demo`: one event through everything, on free ports with throw-away folders. Every step is checked from
outside (API, the service that takes the event, stream, SQL) and timed; the first that is wrong ends the demo
with a sentence.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from time import monotonic

import httpx
import msgspec
from rich.console import Console

from outpost import errors
from outpost.cli import local
from outpost.cli.demo import brokers as demo_brokers
from outpost.cli.demo import evidence, queues, spawned
from outpost.cli.demo import services as demo_services
from outpost.embedded import folder, valkey
from outpost.log.redis import client

DELIVERY_LIMIT_S = 15.0


SERVICES: dict[str, Callable[[], AbstractAsyncContextManager[demo_services.Service]]] = {
    "webhook": demo_services.webhook,
    "rabbitmq": demo_brokers.rabbit_mq,
    "kafka": demo_brokers.kafka,
    "aws_sqs": demo_brokers.sqs,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only the type: the demo chooses its ports and folders, and leaves nothing behind."""
    parser.description = __doc__
    parser.add_argument(
        "--type",
        choices=list(SERVICES),
        default="webhook",
        help="destination type; a broker, or what stands in for it, is started for the demo and read from "
        "(%(default)s)",
    )
    parser.add_argument(
        "--queue",
        choices=list(queues.QUEUES),
        default="in-process",
        help="what carries deliveries; a broker is started for the demo (%(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Shows one event's way; 0 if every step was as it has to be. Raises errors.OutpostError with the sentence."""
    asyncio.run(_Demo(Console(highlight=False, markup=False, soft_wrap=True), args.type, args.queue).run())
    return 0


class _Demo:
    def __init__(self, console: Console, type_: str, queue: str) -> None:
        self._console = console
        self._type = type_
        self._queue = queue
        self._steps = 0
        self._since = monotonic()

    async def run(self) -> None:
        self._console.print("Outpost demo: one event through everything, in a throw-away folder.\n", style="bold")
        async with SERVICES[self._type]() as service:
            if service.name:
                self._step(f"{service.name} runs", service.where)
            with queues.QUEUES[self._queue]() as queue:
                if queue.pid:
                    self._step(f"{self._queue} runs for the delivery queue", "")
                await self._over(queue, service)
        self._step("stopped in good order, folder deleted", "")
        arrived = "arrived, signed," if self._type == "webhook" else "arrived byte for byte"
        self._console.print(f"\nEverything {arrived} and is in the log.", style="bold green")

    async def _over(self, queue: queues.Queue, service: demo_services.Service) -> None:
        async with spawned.spawned("demo", queue.settings) as server:
            self._step("Outpost runs, with a Valkey and a Postgres of its own", server.url)
            headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
            async with httpx.AsyncClient(
                base_url=server.url, headers=headers, timeout=evidence.REQUEST_LIMIT_S, trust_env=False
            ) as api:
                await self._through_everything(api, server, service)
        self._since = monotonic()

    async def _through_everything(
        self, api: httpx.AsyncClient, server: spawned.Spawned, service: demo_services.Service
    ) -> None:
        self._since = monotonic()
        await evidence.ask(api, "PUT", f"/tenants/{evidence.TENANT}", 201)
        self._step("tenant created", evidence.TENANT)
        destination = await self._create_destination(api, service)

        published = monotonic()
        answer = await evidence.ask(api, "POST", "/publish", 202, evidence.EVENT)
        event = evidence.decoded(answer, evidence.Accepted)
        evidence.check(event.destination_ids == [destination.id], "the event matched another set of destinations")
        self._step("event published: it is in the log, on the disk", event.id)
        arrived = await service.next(DELIVERY_LIMIT_S)
        if arrived is None:
            raise errors.OutpostError(f"nothing came to the {service.type} within {DELIVERY_LIMIT_S:g} s")
        self._step(service.received, "counted from the publish request", since=published, until=arrived.at)
        self._verify(service, arrived, event.id, destination)

        attempt = await evidence.listed_attempt(api, event.id)
        self._step("attempt listed by the API", "counted from the publish request", since=published)
        evidence.check(
            attempt == evidence.Attempt("success", service.code, 1),
            f"the attempt is not listed as the first one, a success with code {service.code}",
        )
        await self._show_log(server, answer.headers.get("X-Outpost-Position", ""), event.id, arrived)

    async def _create_destination(
        self, api: httpx.AsyncClient, service: demo_services.Service
    ) -> evidence.Destination:
        wanted = {
            "type": service.type,
            "topics": [evidence.TOPIC],
            "config": service.config,
            "credentials": service.credentials,
        }
        answer = await evidence.ask(
            api, "POST", f"/tenants/{evidence.TENANT}/destinations", 201, msgspec.json.encode(wanted)
        )
        destination = evidence.decoded(answer, evidence.Destination)
        self._step(f"{service.type} destination created", f"{destination.id} -> {service.where}")
        return destination

    def _verify(
        self,
        service: demo_services.Service,
        arrived: demo_services.Arrived,
        event_id: str,
        destination: evidence.Destination,
    ) -> None:
        self._since = monotonic()
        evidence.check(arrived.body == evidence.DATA, "the body that arrived is not the data that was published")
        sent = {name: arrived.metadata.get(name) for name in ("event-id", "topic")}
        evidence.check(
            sent == {"event-id": event_id, "topic": evidence.TOPIC}, "the metadata name another event or topic"
        )
        proof = service.verify(destination.credentials)
        self._step(proof.step, proof.detail)

    async def _show_log(
        self, server: spawned.Spawned, position: str, event_id: str, arrived: demo_services.Arrived
    ) -> None:
        state, secrets = folder.read_state(server.folder), folder.secrets(server.folder)
        if state is None:
            raise errors.OutpostError("the server did not say where its stores are")
        self._since = monotonic()
        entry = await evidence.stream_entry(
            client.RedisAddress(valkey.HOST, state.redis_port, password=secrets.redis_password), position
        )
        self._step("entry read from its Redis Stream", position)
        row = await evidence.attempt_row(local.postgres_url(state, secrets), event_id)
        self._step("attempt read from Postgres", "")
        if arrived.shown:
            self._table("message at its destination", _as_shown(arrived))
        self._table(f"stream entry {position}", entry)
        self._table("row of outpost.attempt", row)
        self._console.print()

    def _step(self, what: str, detail: str, since: float | None = None, until: float | None = None) -> None:
        now = monotonic()
        took_ms = ((now if until is None else until) - (self._since if since is None else since)) * 1000
        self._since = now
        self._steps += 1
        self._console.print(f"{self._steps:>3}  {what:<54} {took_ms:>9,.1f} ms  {detail}".rstrip())

    def _table(self, title: str, rows: dict[str, str]) -> None:
        self._console.print(f"\n     {title}", style="bold")
        for name, value in rows.items():
            self._console.print(f"       {name:<18} {value}")


def _as_shown(arrived: demo_services.Arrived) -> dict[str, str]:
    return {"body": arrived.body.decode(), **arrived.metadata, **arrived.shown}
