"""`outpost demo`: one event through everything, on free ports with a throw-away folder. Every step is checked from
outside (API, webhook, stream, SQL) and timed; the first that is wrong ends the demo with a sentence.
"""

from __future__ import annotations

import argparse
import asyncio
from time import monotonic

import httpx
import msgspec
from rich.console import Console

from outpost import errors
from outpost.cli import demo_evidence as evidence
from outpost.cli import demo_receiver, local, spawned
from outpost.embedded import folder, valkey
from outpost.log import client

DELIVERY_LIMIT_S = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The demo has no options: it chooses its ports and folder, and leaves nothing behind."""
    parser.description = __doc__


def run(_args: argparse.Namespace) -> int:
    """Shows one event's way; 0 if every step was as it has to be. Raises errors.OutpostError with the sentence."""
    asyncio.run(_Demo(Console(highlight=False, markup=False, soft_wrap=True)).run())
    return 0


class _Demo:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps = 0
        self._since = monotonic()

    async def run(self) -> None:
        self._console.print("Outpost demo: one event through everything, in a throw-away folder.\n", style="bold")
        async with spawned.spawned("demo") as server, demo_receiver.listening() as receiver:
            self._step("Outpost runs, with a Valkey and a Postgres of its own", server.url)
            headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
            async with httpx.AsyncClient(
                base_url=server.url, headers=headers, timeout=evidence.REQUEST_LIMIT_S, trust_env=False
            ) as api:
                await self._through_everything(api, server, receiver)
            self._since = monotonic()
        self._step("stopped in good order, folder deleted", "")
        self._console.print("\nEverything arrived, signed, and is in the log.", style="bold green")

    async def _through_everything(
        self, api: httpx.AsyncClient, server: spawned.Spawned, receiver: demo_receiver.Receiver
    ) -> None:
        self._since = monotonic()
        await evidence.ask(api, "PUT", f"/tenants/{evidence.TENANT}", 201)
        self._step("tenant created", evidence.TENANT)
        wanted = {"type": "webhook", "topics": [evidence.TOPIC], "config": {"url": receiver.url}}
        answer = await evidence.ask(
            api, "POST", f"/tenants/{evidence.TENANT}/destinations", 201, msgspec.json.encode(wanted)
        )
        destination = evidence.decoded(answer, evidence.Destination)
        self._step("webhook destination created", f"{destination.id} -> {receiver.url}")

        published = monotonic()
        answer = await evidence.ask(api, "POST", "/publish", 202, evidence.EVENT)
        event = evidence.decoded(answer, evidence.Accepted)
        evidence.check(event.destination_ids == [destination.id], "the event matched another set of destinations")
        self._step("event published: it is in the log, on the disk", event.id)
        webhook = await receiver.next(DELIVERY_LIMIT_S)
        if webhook is None:
            raise errors.OutpostError(f"no webhook came within {DELIVERY_LIMIT_S:g} s of the publish")
        self._step("webhook received", "counted from the publish request", since=published, until=webhook.at)
        self._verify(webhook, event.id, destination.credentials.secret)

        attempt = await evidence.listed_attempt(api, event.id)
        self._step("attempt listed by the API", "counted from the publish request", since=published)
        evidence.check(
            attempt == evidence.Attempt("success", "200", 1),
            "the attempt is not listed as the first one, a success with code 200",
        )
        await self._show_log(server, answer.headers.get("X-Outpost-Position", ""), event.id)

    def _verify(self, webhook: demo_receiver.Webhook, event_id: str, secret: str) -> None:
        self._since = monotonic()
        evidence.check(webhook.body == evidence.DATA, "the body that arrived is not the data that was published")
        sent = {name: webhook.headers.get(f"x-outpost-{name}") for name in ("event-id", "topic")}
        evidence.check(
            sent == {"event-id": event_id, "topic": evidence.TOPIC}, "the headers name another event or topic"
        )
        evidence.check(
            demo_receiver.is_signed(webhook, secret), "the signature is not the one of this body and secret"
        )
        self._step("signature verified: HMAC-SHA256 of the body", webhook.headers["x-outpost-signature"])

    async def _show_log(self, server: spawned.Spawned, position: str, event_id: str) -> None:
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
