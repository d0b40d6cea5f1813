"""Every false service of the destination types that are not plain HTTP."""

from __future__ import annotations

from tests.hostile.attackers import (
    brokers_aws,
    brokers_kafka,
    brokers_pubsub,
    brokers_rabbitmq,
    brokers_servicebus,
)
from tests.hostile.attackers.brokers import FalseService

SERVICES: list[FalseService] = [
    *brokers_aws.SERVICES,
    *brokers_kafka.SERVICES,
    *brokers_pubsub.SERVICES,
    *brokers_rabbitmq.SERVICES,
    *brokers_servicebus.SERVICES,
]
