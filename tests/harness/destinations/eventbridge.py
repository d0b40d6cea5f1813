"""EventBridge: moto's event buses, each test with one of its own, whose rule passes everything on to a queue.

That an event has arrived the queue says; moto has parsed and rewritten its detail by then, so what was put is
taken from the wire.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.harness.destinations import moto, world

SOURCE = "outpost"


class World(moto.AwsWorld):
    """One bus a target; `key` is the URL of the queue behind it."""

    type = "aws_eventbridge"
    batches = True
    throttling = ("ThrottlingException", "Rate exceeded", 400)

    async def target(self) -> world.Target:
        return await self.bus(self.fresh("bus"))

    async def bus(self, name: str) -> world.Target:
        """A bus of that name, or the default one."""
        queue = await asyncio.to_thread(self._make, name)
        config = {"event_bus_name": name, "region": moto.REGION, "endpoint": self.url}
        return world.Target(config, self.permitted.credentials(), queue)

    async def arrived(self, target: world.Target, count: int, limit_s: float = 10.0) -> list[world.Arrived]:
        messages = await self.messages(target.key, count, limit_s)
        events = [json.loads(message["Body"]) for message in messages]
        return [_arrived(event, self._details()[event["id"]]) for event in events]

    async def missing_target(self, target: world.Target) -> world.Target:
        config = {**target.config, "event_bus_name": self.fresh("none")}
        return world.Target(config, target.credentials, target.key)

    async def too_large(self, target: world.Target) -> bytes:
        return b'"%b"' % (b"x" * 1_048_576)

    async def refuse_one(self, target: world.Target) -> bytes | None:
        async def one_failed(asked: moto.Asked) -> moto.Reply | None:
            entries = json.loads(asked.body)["Entries"]
            if len(entries) < 2:
                return None
            rest = json.dumps({"Entries": entries[:1] + entries[2:]}).encode()
            reply = await self.front.passed(asked, rest)
            answer = json.loads(reply.body)
            failed = {"ErrorCode": "InternalFailure", "ErrorMessage": "Internal Service Failure"}
            answered = [*answer["Entries"][:1], failed, *answer["Entries"][1:]]
            body = json.dumps({"FailedEntryCount": 1, "Entries": answered}).encode()
            self.front.seen.append((asked, moto.Reply(200, body)))
            return moto.Reply(reply.status, body, reply.headers)

        self.front.hook = one_failed
        return None

    def _make(self, name: str) -> str:
        queues, events = self.moto.client("sqs"), self.moto.client("events")
        queue = self.fresh("events")
        url: str = queues.create_queue(QueueName=queue)["QueueUrl"]
        if name != "default":
            events.create_event_bus(Name=name)
        pattern = json.dumps({"source": [SOURCE]})
        events.put_rule(Name=queue, EventBusName=name, EventPattern=pattern)
        arn = f"arn:aws:sqs:{moto.REGION}:{moto.ACCOUNT}:{queue}"
        events.put_targets(Rule=queue, EventBusName=name, Targets=[{"Id": "queue", "Arn": arn}])
        return url

    def _details(self) -> dict[str, str]:
        """What was put, by the id that the service gave it."""
        found = {}
        for asked, reply in self.front.seen:
            answered = json.loads(reply.body).get("Entries", [])
            for entry, told in zip(json.loads(asked.body)["Entries"], answered, strict=False):
                if "EventId" in told:
                    found[told["EventId"]] = entry["Detail"]
        return found


def _arrived(event: dict[str, Any], detail: str) -> world.Arrived:
    metadata, end = json.JSONDecoder().raw_decode(detail, len('{"metadata":'))
    between, data = detail[end:].split(":", 1)
    assert ',"data"' == between
    assert event["detail"] == json.loads(detail)
    extra = {key: event[key] for key in ("source", "detail-type", "time")}
    return world.Arrived(data[:-1].encode(), metadata, extra)
