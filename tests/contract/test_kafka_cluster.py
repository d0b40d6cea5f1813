"""Kafka on a cluster of three real brokers, of which each dies once while events are delivered."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from outpost import settings as settings_
from outpost.adapters import base
from outpost.adapters.kafka import type as kafka
from outpost.adapters.shared import resources as shared_
from outpost.domain import delivery
from tests.harness import polling
from tests.harness.destinations import kafka as worlds
from tests.harness.destinations import kafka_cluster

PARTITIONS, KEYS = 6, 20
LONG_S, SHORT_S = 15.0, 1.5  # of an attempt; the cluster takes 3 s to see that a broker is gone, or longer
LIMIT_S = 300.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[kafka_cluster.Cluster]:
    if missing := kafka_cluster.missing():
        pytest.skip(missing)
    with kafka_cluster.Cluster() as started:
        yield started


async def create_topic(cluster: kafka_cluster.Cluster, topic: str) -> None:
    async def made() -> bool:
        admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(topic, PARTITIONS, kafka_cluster.BROKERS)])
        finally:
            await admin.close()
        return True

    await polling.eventually(made, LIMIT_S)


class Source:
    """Publishes events with keys in turn until it is told to stop, each until it is delivered."""

    def __init__(self, publisher: base.Publisher, attempt_s: float) -> None:
        self._publisher = publisher
        self._attempt_s = attempt_s
        self.delivered = 0
        self.attempts: Counter[str] = Counter()
        self.stopping = False

    async def run(self) -> None:
        await asyncio.gather(*(self._one(key) for key in range(KEYS)))

    async def _one(self, key: int) -> None:
        number = 0
        while not self.stopping:
            data = json.dumps({"key": f"k{key}", "n": number}).encode()
            event = base.Delivery(f"e-{key}-{number}", "order.created", "2026-01-02T03:04:05Z", {}, data, 1)
            await self._deliver(event)
            number += 1

    async def _deliver(self, event: base.Delivery) -> None:
        while True:
            deadline = asyncio.get_running_loop().time() + self._attempt_s
            [outcome] = await self._publisher.send([event], deadline)
            self.attempts[outcome.code] += 1
            if isinstance(outcome, delivery.Delivered):
                self.delivered += 1
                return


@pytest.mark.parametrize("attempt_s", [LONG_S, SHORT_S])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
async def test_each_event_arrives_once_and_in_the_order_of_its_key_while_every_broker_fails_in_turn(
    cluster: kafka_cluster.Cluster, how: signal.Signals, attempt_s: float
):
    """Within one attempt where that is longer than the cluster takes to move what a broker led; else by attempts
    that fail meanwhile."""
    topic = f"orders-{how.name.lower()}-{attempt_s}"
    await create_topic(cluster, topic)
    shared = shared_.Shared(settings_.Settings(destinations_allowed_cidrs=("127.0.0.0/8",)))
    config = {"brokers": cluster.bootstrap, "topic": topic, "sasl_mechanism": "none"}
    config["partition_key_template"] = "data.key"
    publisher = await kafka.build(shared).connect(base.OpenDestination("t", "d", "kafka", config, {}, {}))
    source = Source(publisher, attempt_s)
    running = asyncio.create_task(source.run())

    async def goes_on(count: int = 200) -> None:
        goal = source.delivered + count
        await polling.eventually(lambda: source.delivered >= goal, LIMIT_S)

    await goes_on()
    for broker in cluster.brokers:
        if how == signal.SIGKILL:
            broker.kill()
        else:
            broker.signal(how)
        await goes_on()
        if how == signal.SIGKILL:
            broker.start()
        else:
            broker.signal(signal.SIGCONT)
        await goes_on()
        await asyncio.sleep(LONG_S)  # until it is in sync again, so that two are left when the next one fails
    source.stopping = True
    await running
    await publisher.close()
    await shared.close()
    print(source.delivered, source.attempts)
    arrived = await worlds.read(cluster.brokers[0].port, topic, source.delivered, LIMIT_S)
    numbers: dict[str, list[int]] = defaultdict(list)
    for message in arrived:
        body = json.loads(message.body)
        numbers[body["key"]].append(body["n"])
    assert source.delivered == len(arrived)
    assert all(list(range(len(found))) == found for found in numbers.values())
    assert attempt_s == SHORT_S or {"OK"} == {*source.attempts}
