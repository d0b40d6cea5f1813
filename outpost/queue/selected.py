"""The brokers that the settings name, opened: for the delivery queue and for the publish queue.

A module for each service has `open_broker(named)`; it is imported when it is named, and the library that it needs
then. Nothing connects before `prepare`.
"""

from __future__ import annotations

import importlib

from outpost import errors
from outpost.adapters import extras
from outpost.queue import broker
from outpost.settings import Settings, queues

# The module of each service, and the library that has to be there, with the extra that brings it.
_SERVICES: dict[type[queues.Named], tuple[str, str, str]] = {
    queues.RabbitMQ: ("outpost.queue.rabbitmq", "aiormq", "rabbitmq"),
    queues.SQS: ("outpost.queue.sqs", "botocore", "aws"),
    queues.PubSub: ("outpost.queue.pubsub", "grpc", "gcp"),
    queues.ServiceBus: ("outpost.queue.servicebus", "azure.servicebus", "azure"),
}


def delivery_broker(settings: Settings) -> broker.Broker | None:
    """None: the queue is in process. Raises errors.StartRefused."""
    named = queues.delivery(settings)
    return None if named is None else _opened(named)


def dead_letters_broker(settings: Settings) -> broker.Broker | None:
    """The dead letters of the delivery queue, as a queue of their own. Raises errors.StartRefused."""
    named = queues.delivery_dead_letters(settings)
    return None if named is None else _opened(named)


def source_broker(settings: Settings) -> broker.Broker | None:
    """None: events are published over HTTP alone. Raises errors.StartRefused."""
    named = queues.source(settings)
    return None if named is None else _opened(named)


def _opened(named: queues.Named) -> broker.Broker:
    module, library, extra = _SERVICES[type(named)]
    if sentence := extras.missing(f"the queue on {type(named).__name__}", library, extra):
        raise errors.StartRefused(sentence)
    opened: broker.Broker = importlib.import_module(module).open_broker(named)
    return opened
