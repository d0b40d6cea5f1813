"""Which brokers the settings name: for the delivery queue and for the publish queue, at most one each.

The published order decides where several are named: SQS, Service Bus, Pub/Sub, RabbitMQ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from outpost.settings import Settings

_AAD = ("tenant_id", "client_id", "client_secret", "subscription_id", "resource_group", "namespace")
WATCHDOG_WITH_BROKER_MS = 10_000  # with less, chunks are stale before they arrive


class _Masked(msgspec.Struct, frozen=True, kw_only=True):
    def __repr__(self) -> str:
        """The type alone: the fields hold secrets."""
        return f"{type(self).__name__}(..)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """The same, for rich."""
        return []


class RabbitMQ(_Masked, frozen=True, kw_only=True):
    """`dead_letters` "": the queue's own, if it has any."""

    server_url: str
    exchange: str
    queue: str
    dead_letters: str = ""


class SQS(_Masked, frozen=True, kw_only=True):
    """`queue` and `dead_letters` are names or URLs. Without keys the chain of the SDK is asked. `variable` names
    the queue."""

    region: str
    endpoint: str
    access_key_id: str
    secret_access_key: str
    queue: str
    dead_letters: str = ""
    variable: str = "AWS_SQS_DELIVERY_QUEUE"


class PubSub(_Masked, frozen=True, kw_only=True):
    """`credentials`: the JSON of a key, a path, or "" for the default credentials. `prefix`: of the variables that
    name topic and subscription."""

    project: str
    credentials: str
    topic: str
    subscription: str
    dead_letter_topic: str = ""
    dead_letter_subscription: str = ""
    prefix: str = "GCP_PUBSUB_DELIVERY_"


class ServiceBus(_Masked, frozen=True, kw_only=True):
    """Either `connection_string` or the six values of an application. `source`: others send there, not we."""

    connection_string: str
    topic: str
    subscription: str
    source: bool = False
    tenant_id: str = ""
    client_id: str = ""
    client_secret: str = ""
    subscription_id: str = ""
    resource_group: str = ""
    namespace: str = ""


Named = RabbitMQ | SQS | PubSub | ServiceBus


def delivery(settings: Settings) -> Named | None:
    """The broker of the delivery queue; None: the queue is in process."""
    return next((found for _, found in _delivery(settings)), None)


def delivery_dead_letters(settings: Settings) -> Named | None:
    """The dead letters of the delivery queue, as a queue of their own."""
    match delivery(settings):
        case RabbitMQ() as named:
            return msgspec.structs.replace(named, queue=named.dead_letters, dead_letters="")
        case SQS() as named:
            variable = "AWS_SQS_DELIVERY_DLQ"
            return msgspec.structs.replace(named, queue=named.dead_letters, dead_letters="", variable=variable)
        case PubSub() as named:
            return msgspec.structs.replace(
                named,
                topic=named.dead_letter_topic,
                subscription=named.dead_letter_subscription,
                dead_letter_topic="",
                dead_letter_subscription="",
                prefix="GCP_PUBSUB_DELIVERY_DLQ_",
            )
        case ServiceBus() as named:
            return msgspec.structs.replace(named, subscription=f"{named.subscription}/$DeadLetterQueue")
    return None


def source(settings: Settings) -> Named | None:
    """The broker that events are published through; None: over HTTP alone."""
    return next((found for _, found in _source(settings)), None)


def problems(settings: Settings) -> list[str]:
    """What contradicts itself, a sentence each."""
    found = [*_halves(settings), *_unnamed(settings)]
    carries, comes_from = delivery(settings), source(settings)
    if isinstance(carries, SQS) and carries.queue.endswith(".fifo"):
        found.append("AWS_SQS_DELIVERY_QUEUE must not be a FIFO queue: one group would wait for its first message")
    if carries is not None and comes_from is not None and _place(carries) == _place(comes_from):
        found.append("the delivery queue and the publish queue must not be the same queue")
    return found


def warnings(settings: Settings) -> list[str]:
    """What works and may surprise, a sentence each."""
    found = []
    for what, named in (("delivery", list(_delivery(settings))), ("publish", list(_source(settings)))):
        if len(named) > 1:
            others = ", ".join(variable for variable, _ in named[1:])
            found.append(f"the {what} queue is that of {named[0][0]}: {others} is set as well and not used")
    if delivery(settings) is not None and settings.delivery_watchdog_ms < WATCHDOG_WITH_BROKER_MS:
        found.append(
            "DELIVERY_WATCHDOG_MS is below 10000: tasks come due before the messages that carry them arrive"
        )
    return found


def _delivery(s: Settings) -> Iterator[tuple[str, Named]]:
    """In the published order, each with the variable that chooses it."""
    if s.aws_sqs_region:
        yield (
            "AWS_SQS_REGION",
            SQS(
                region=s.aws_sqs_region,
                endpoint=s.aws_sqs_endpoint,
                access_key_id=s.aws_sqs_access_key_id,
                secret_access_key=s.aws_sqs_secret_access_key,
                queue=s.aws_sqs_delivery_queue,
                dead_letters=s.aws_sqs_delivery_dlq or f"{s.aws_sqs_delivery_queue.rpartition('/')[2]}-dlq",
            ),
        )
    if s.azure_servicebus_connection_string or all(getattr(s, f"azure_servicebus_{word}") for word in _AAD):
        yield (
            "AZURE_SERVICEBUS_CONNECTION_STRING"
            if s.azure_servicebus_connection_string
            else "AZURE_SERVICEBUS_NAMESPACE",
            ServiceBus(
                connection_string=s.azure_servicebus_connection_string,
                topic=s.azure_servicebus_delivery_topic,
                subscription=s.azure_servicebus_delivery_subscription,
                **{word: getattr(s, f"azure_servicebus_{word}") for word in _AAD},
            ),
        )
    if s.gcp_pubsub_project:
        letters = s.gcp_pubsub_delivery_dlq_topic or f"{s.gcp_pubsub_delivery_topic}-dlq"
        yield (
            "GCP_PUBSUB_PROJECT",
            PubSub(
                project=s.gcp_pubsub_project,
                credentials=s.gcp_pubsub_service_account_credentials,
                topic=s.gcp_pubsub_delivery_topic,
                subscription=s.gcp_pubsub_delivery_subscription,
                dead_letter_topic=letters,
                dead_letter_subscription=s.gcp_pubsub_delivery_dlq_subscription or f"{letters}-sub",
            ),
        )
    if s.rabbitmq_server_url:
        yield (
            "RABBITMQ_SERVER_URL",
            RabbitMQ(
                server_url=s.rabbitmq_server_url,
                exchange=s.rabbitmq_exchange,
                queue=s.rabbitmq_delivery_queue,
                dead_letters=s.rabbitmq_delivery_dlq or f"{s.rabbitmq_delivery_queue}.dlq",
            ),
        )


def _source(s: Settings) -> Iterator[tuple[str, Named]]:
    if s.publish_aws_sqs_region:
        yield (
            "PUBLISH_AWS_SQS_REGION",
            SQS(
                region=s.publish_aws_sqs_region,
                endpoint=s.publish_aws_sqs_endpoint,
                access_key_id=s.publish_aws_sqs_access_key_id,
                secret_access_key=s.publish_aws_sqs_secret_access_key,
                queue=s.publish_aws_sqs_queue,
                variable="PUBLISH_AWS_SQS_QUEUE",
            ),
        )
    if s.publish_azure_servicebus_connection_string:
        yield (
            "PUBLISH_AZURE_SERVICEBUS_CONNECTION_STRING",
            ServiceBus(
                connection_string=s.publish_azure_servicebus_connection_string,
                topic=s.publish_azure_servicebus_topic,
                subscription=s.publish_azure_servicebus_subscription,
                source=True,
            ),
        )
    if s.publish_gcp_pubsub_project:
        yield (
            "PUBLISH_GCP_PUBSUB_PROJECT",
            PubSub(
                project=s.publish_gcp_pubsub_project,
                credentials=s.publish_gcp_pubsub_service_account_credentials,
                topic=s.publish_gcp_pubsub_topic,
                subscription=s.publish_gcp_pubsub_subscription,
                prefix="PUBLISH_GCP_PUBSUB_",
            ),
        )
    if s.publish_rabbitmq_server_url:
        yield (
            "PUBLISH_RABBITMQ_SERVER_URL",
            RabbitMQ(
                server_url=s.publish_rabbitmq_server_url,
                exchange=s.publish_rabbitmq_exchange,
                queue=s.publish_rabbitmq_queue,
            ),
        )


def _halves(s: Settings) -> Iterator[str]:
    """A part of what only works as a whole."""
    for prefix in ("AWS_SQS_", "PUBLISH_AWS_SQS_"):
        names = [f"{prefix}ACCESS_KEY_ID", f"{prefix}SECRET_ACCESS_KEY"]
        there = [name for name in names if getattr(s, name.lower())]
        if len(there) == 1:
            (missing,) = set(names) - set(there)
            yield f"{missing} must be set with {there[0]}, or neither of them"
    missing_of_six = [word for word in _AAD if not getattr(s, f"azure_servicebus_{word}")]
    if 0 < len(missing_of_six) < len(_AAD) and not s.azure_servicebus_connection_string:
        names = [f"AZURE_SERVICEBUS_{word.upper()}" for word in missing_of_six]
        yield f"{', '.join(names)} must be set with the others of the six, or AZURE_SERVICEBUS_CONNECTION_STRING"


def _unnamed(s: Settings) -> Iterator[str]:
    """A publish queue has no default name."""
    servicebus = "PUBLISH_AZURE_SERVICEBUS_"
    needs = {
        "PUBLISH_AWS_SQS_REGION": ["PUBLISH_AWS_SQS_QUEUE"],
        f"{servicebus}CONNECTION_STRING": [f"{servicebus}TOPIC", f"{servicebus}SUBSCRIPTION"],
        "PUBLISH_GCP_PUBSUB_PROJECT": ["PUBLISH_GCP_PUBSUB_SUBSCRIPTION"],
        "PUBLISH_RABBITMQ_SERVER_URL": ["PUBLISH_RABBITMQ_QUEUE"],
    }
    for chooses, names in needs.items():
        for name in names:
            if getattr(s, chooses.lower()) and not getattr(s, name.lower()):
                yield f"{name} must be set with {chooses}: there is no default"


def _place(named: Named) -> tuple[str, ...]:
    """What two queues share that are the same one."""
    match named:
        case RabbitMQ():
            return ("rabbitmq", named.server_url.rpartition("@")[2].lower(), named.queue)
        case SQS():
            return ("sqs", named.region, named.endpoint, named.queue.rpartition("/")[2])
        case PubSub():
            return ("pubsub", named.project, named.topic)
        case ServiceBus():
            return ("servicebus", named.connection_string.partition(";")[0].lower(), named.topic)
