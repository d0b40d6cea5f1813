"""SQS: moto's queues, each test with one of its own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec

from outpost.adapters import base
from tests.harness.destinations import moto, world

REFUSED = "￾"  # U+FFFE, which JSON may hold and SQS does not take


class World(moto.AwsWorld):
    """One queue a target; `key` is its URL, past the proxy."""

    type = "aws_sqs"
    codes = moto.AwsWorld.codes | {"partial": "message_refused"}
    batches = True
    throttling = ("RequestThrottled", "Request is throttled.", 400)

    async def target(self) -> world.Target:
        return await self.queue(self.fresh("queue"))

    async def queue(self, name: str, **attributes: str) -> world.Target:
        """A queue of that name."""
        sqs = self.moto.client("sqs")
        made = await asyncio.to_thread(sqs.create_queue, QueueName=name, Attributes=attributes)
        config = {"queue_url": f"{self.url}/{moto.ACCOUNT}/{name}"}
        return world.Target(config, self.permitted.credentials(), made["QueueUrl"])

    async def arrived(self, target: world.Target, count: int, limit_s: float = 10.0) -> list[world.Arrived]:
        return [_arrived(message) for message in await self.messages(target.key, count, limit_s)]

    async def missing_target(self, target: world.Target) -> world.Target:
        config = {"queue_url": f"{self.url}/{moto.ACCOUNT}/{self.fresh('none')}"}
        return world.Target(config, target.credentials, target.key)

    async def too_large(self, target: world.Target) -> bytes:
        return b'"%b"' % (b"x" * 1_048_576)

    async def bad(self, target: world.Target, event: base.Delivery) -> base.Delivery:
        return msgspec.structs.replace(event, data=await self.refuse_one(target))

    async def refuse_one(self, target: world.Target) -> bytes | None:
        async def one_failed(asked: moto.Asked) -> moto.Reply | None:
            body = json.loads(asked.body)
            bad = [entry for entry in body["Entries"] if REFUSED in entry["MessageBody"]]
            if not bad:
                return None
            rest = [entry for entry in body["Entries"] if entry not in bad]
            reply = await self.front.passed(asked, json.dumps({**body, "Entries": rest}).encode())
            text = "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF"
            failed = [
                {"Id": entry["Id"], "SenderFault": True, "Code": "InvalidMessageContents", "Message": text}
                for entry in bad
            ]
            answer = {**json.loads(reply.body), "Failed": failed}
            return moto.Reply(reply.status, json.dumps(answer).encode(), reply.headers)

        self.front.hook = one_failed
        return json.dumps({"text": REFUSED}, ensure_ascii=False).encode()


def _arrived(message: dict[str, Any]) -> world.Arrived:
    attributes = message.get("MessageAttributes", {})
    assert ["metadata"] == list(attributes)
    assert "String" == attributes["metadata"]["DataType"]
    extra = {key: message["Attributes"].get(key) for key in ("MessageGroupId", "MessageDeduplicationId")}
    return world.Arrived(message["Body"].encode(), json.loads(attributes["metadata"]["StringValue"]), extra)
