"""Kinesis: moto's streams, each test with one of its own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from typing import Any

import msgspec

from outpost.adapters import base
from tests.harness.destinations import moto, world
from tests.harness.polling import eventually

SHARDS = 2
MOST_BYTES = 1_048_576
REFUSED = b"of a shard that fails"
MARK = b',"metadata":'


class World(moto.AwsWorld):
    """One stream a target; `key` is its name."""

    type = "aws_kinesis"
    batches = True
    throttling = (
        "ProvisionedThroughputExceededException",
        "Rate exceeded for shard shardId-000000000000 in stream s under account 123456789012.",
        400,
    )

    async def target(self) -> world.Target:
        stream = self.fresh("stream")
        await asyncio.to_thread(self.moto.client("kinesis").create_stream, StreamName=stream, ShardCount=SHARDS)
        config = {"stream_name": stream, "region": moto.REGION, "endpoint": self.url}
        return world.Target(config, self.permitted.credentials(), stream)

    async def arrived(self, target: world.Target, count: int, limit_s: float = 10.0) -> list[world.Arrived]:
        found: list[dict[str, Any]] = []

        async def enough() -> bool:
            found[:] = await asyncio.to_thread(_records, self.moto.client("kinesis"), target.key)
            return len(found) >= count

        with contextlib.suppress(AssertionError):
            await eventually(enough, limit_s)
        return [_arrived(record) for record in found]

    async def missing_target(self, target: world.Target) -> world.Target:
        return world.Target({**target.config, "stream_name": self.fresh("none")}, target.credentials, target.key)

    async def too_large(self, target: world.Target) -> bytes:
        """A stream takes records of 1 MiB unless it was told otherwise; moto takes any."""

        async def refused(asked: moto.Asked) -> moto.Reply | None:
            body = json.loads(asked.body)
            for record in body.get("Records", [body]):
                if len(_data(record)) + len(record["PartitionKey"]) > MOST_BYTES:
                    text = f"Value at 'data': Member must have length less than or equal to {MOST_BYTES}"
                    return moto.refusal(asked, "ValidationException", text)
            return None

        self.front.hook = refused
        return b'"%b"' % (b"x" * MOST_BYTES)

    async def bad(self, target: world.Target, event: base.Delivery) -> base.Delivery:
        return msgspec.structs.replace(event, data=await self.refuse_one(target))

    async def refuse_one(self, target: world.Target) -> bytes | None:
        async def one_failed(asked: moto.Asked) -> moto.Reply | None:
            body = json.loads(asked.body)
            records = body.get("Records", [])
            bad = [place for place, record in enumerate(records) if REFUSED in _data(record)]
            if not bad:
                return None
            rest = [record for record in records if REFUSED not in _data(record)]
            reply = await self.front.passed(asked, json.dumps({**body, "Records": rest}).encode())
            answer = json.loads(reply.body)
            for place in bad:
                failed = {"ErrorCode": "InternalFailure", "ErrorMessage": "Internal Service Failure"}
                answer["Records"].insert(place, failed)
            told = {**answer, "FailedRecordCount": len(bad)}
            return moto.Reply(reply.status, json.dumps(told).encode(), reply.headers)

        self.front.hook = one_failed
        return b'"%b"' % REFUSED


def _data(record: dict[str, Any]) -> bytes:
    return base64.b64decode(record["Data"])


def _records(client: Any, stream: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for shard in client.list_shards(StreamName=stream)["Shards"]:
        start = {"ShardIteratorType": "TRIM_HORIZON", "ShardId": shard["ShardId"]}
        iterator = client.get_shard_iterator(StreamName=stream, **start)["ShardIterator"]
        found += client.get_records(ShardIterator=iterator, Limit=10_000)["Records"]
    return found


def _arrived(record: dict[str, Any]) -> world.Arrived:
    """A record is `{"data":..,"metadata":..}`, and the data stands in it as it was published."""
    before, _, metadata = record["Data"].rpartition(MARK)
    assert before.startswith(b'{"data":')
    assert metadata.endswith(b"}")
    extra = {"partition_key": record["PartitionKey"]}
    return world.Arrived(before.removeprefix(b'{"data":'), json.loads(metadata[:-1]), extra)
