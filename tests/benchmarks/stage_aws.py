"""Stages of AWS: moto, and for S3 rclone."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from typing import Any

import boto3

from outpost.embedded.brokers import moto
from tests.benchmarks.stage import Stage
from tests.benchmarks.stand_ins import Place
from tests.harness import servers
from tests.harness.destinations import s3

SHARDS = 2


class Aws(Stage):
    """A moto of its own."""

    async def start(self) -> None:
        self._folder = servers.new_folder()
        self._moto = moto.start(self._folder)
        self._keys = self._moto.user(moto.EVERYTHING).credentials()

    async def close(self) -> None:
        self._moto.server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


class Sqs(Stage):
    """A moto in this process, without accounts, whose queues do not look at each of their messages for every
    answer: that takes 50 ms for a thousand."""

    async def start(self) -> None:
        from moto.server import ThreadedMotoServer
        from moto.sqs import models

        for name in ("", "_delayed", "_not_visible"):
            count = property(lambda queue: len(queue._messages))
            setattr(models.Queue, f"approximate_number_of_messages{name}", count)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells every request
        self._server.start()
        host, port = self._server.get_host_and_port()
        self._url = f"http://{host}:{port}"
        self._client = boto3.Session("key", "secret", region_name=moto.REGION).client(
            "sqs", endpoint_url=self._url
        )

    async def target(self, name: str) -> Place:
        url = self._client.create_queue(QueueName=name)["QueueUrl"]
        return Place({"queue_url": url}, {"key": "key", "secret": "secret"}, url)

    async def count(self, key: str) -> int:
        wanted = "ApproximateNumberOfMessages"
        answer = self._client.get_queue_attributes(QueueUrl=key, AttributeNames=[wanted])
        return int(answer["Attributes"][wanted])

    async def close(self) -> None:
        self._client.close()
        self._server.stop()


class Kinesis(Aws):
    async def target(self, name: str) -> Place:
        self._moto.client("kinesis").create_stream(StreamName=name, ShardCount=SHARDS)
        config = {"stream_name": name, "region": moto.REGION, "endpoint": self._moto.url}
        return Place(config, self._keys, name)

    async def count(self, key: str) -> int:
        return sum(1 for _ in self._records(key))

    def _records(self, stream: str) -> Iterator[Any]:
        client = self._moto.client("kinesis")
        for shard in client.list_shards(StreamName=stream)["Shards"]:
            start = {"ShardIteratorType": "TRIM_HORIZON", "ShardId": shard["ShardId"]}
            iterator = client.get_shard_iterator(StreamName=stream, **start)["ShardIterator"]
            while (answer := client.get_records(ShardIterator=iterator, Limit=10_000))["Records"]:
                yield from answer["Records"]
                iterator = answer["NextShardIterator"]


class EventBridge(Aws):
    """Each bus has an archive of all that it took."""

    async def target(self, name: str) -> Place:
        events = self._moto.client("events")
        bus = events.create_event_bus(Name=name)["EventBusArn"]
        events.create_archive(ArchiveName=name, EventSourceArn=bus)
        config = {"event_bus_name": name, "region": moto.REGION, "endpoint": self._moto.url}
        return Place(config, self._keys, name)

    async def count(self, key: str) -> int:
        return int(self._moto.client("events").describe_archive(ArchiveName=key)["EventCount"])


class S3(Stage):
    """An rclone that keeps in mind what it has written; that of the world looks at the disk for every object."""

    async def start(self) -> None:
        rclone = s3._rclone()
        assert rclone is not None
        self._servers = s3._Servers(rclone, [])
        self._client = s3._client(self._servers.ports[0], s3.KEYS[0])

    async def target(self, name: str) -> Place:
        self._client.create_bucket(Bucket=name)
        made = s3._target(name, self._servers.ports[0], s3.KEYS[0])
        return Place(made.config, made.credentials, made.key)

    async def count(self, key: str) -> int:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=key)
        return sum(len(page.get("Contents", ())) for page in pages)

    async def close(self) -> None:
        self._client.close()
        self._servers.close()
