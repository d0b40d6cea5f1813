"""The variables of the delivery queue and of the publish queue, by their published names, and what each is for."""

from __future__ import annotations

from outpost.settings import rules
from outpost.settings.rules import Rule, Variable

_SECRET = {
    "SERVER_URL",
    "ACCESS_KEY_ID",
    "SECRET_ACCESS_KEY",
    "SERVICE_ACCOUNT_CREDENTIALS",
    "CONNECTION_STRING",
    "CLIENT_SECRET",
}

_AMQP = rules.url(
    ("amqp", "amqps"),
    "must be a URL such as amqp://user:password@host:5672/vhost, with special characters percent-encoded",
)
_REGION = rules.text(r"[a-z]{2,}(?:-[a-z]+)+-[0-9]{1,2}", "must be a region such as eu-central-1")
_ENDPOINT = rules.text(r"https?://[^\s/?#@]+/?", "must be an http or https URL without a path")
_SQS_QUEUE = rules.text(
    r"[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo|https?://\S+/[A-Za-z0-9_.-]{1,80}",
    "must be the name of a queue, at most 80 letters, digits, - and _, or its URL",
)
_AMQP_NAME = rules.text(r"[^\x00-\x1f\x7f]{1,255}", "must be at most 255 characters without control characters")
_PROJECT = rules.text(r"[a-z0-9.:-]{4,63}", "must be the id of a project, as my-project-1")
_PUBSUB_NAME = rules.text(
    r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}", "must be 3 to 255 letters, digits and .-_~+%, a letter first"
)
_AZURE_NAME = rules.text(
    r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,258}[A-Za-z0-9])?", "must be at most 260 letters, digits, ., -, _ and /"
)
_AZURE_SUBSCRIPTION = rules.text(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,48}[A-Za-z0-9])?", "must be at most 50 letters, digits, ., - and _"
)
_GUID = rules.text(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", "must be a GUID")

_RABBITMQ: dict[str, tuple[Rule, str]] = {
    "SERVER_URL": (_AMQP, "The URL of RabbitMQ, with its login and virtual host."),
    "EXCHANGE": (_AMQP_NAME, "The exchange."),
}
_SQS: dict[str, tuple[Rule, str]] = {
    "ACCESS_KEY_ID": (rules.secret(), "The key id for SQS; without a pair the chain of the AWS SDK is asked."),
    "SECRET_ACCESS_KEY": (rules.secret(), "The secret key for SQS."),
    "REGION": (_REGION, "The region of SQS, which chooses SQS."),
    "ENDPOINT": (_ENDPOINT, "Another endpoint than that of AWS."),
}
_PUBSUB: dict[str, tuple[Rule, str]] = {
    "PROJECT": (_PROJECT, "The project of Pub/Sub, which chooses Pub/Sub."),
    "SERVICE_ACCOUNT_CREDENTIALS": (
        rules.secret(),
        "The JSON of a service account's key, or the path of a file with it; else the default credentials.",
    ),
}
_SERVICEBUS: dict[str, tuple[Rule, str]] = {
    "CONNECTION_STRING": (rules.secret(), "The connection string of Service Bus, which chooses Service Bus."),
}
_AAD: dict[str, tuple[Rule, str]] = {
    "TENANT_ID": (_GUID, "The directory, of the six values that stand for a connection string."),
    "CLIENT_ID": (_GUID, "The application, of those six."),
    "CLIENT_SECRET": (rules.secret(), "Its secret, of those six."),
    "SUBSCRIPTION_ID": (_GUID, "The Azure subscription, of those six."),
    "RESOURCE_GROUP": (rules.text(r"[-\w.()]{1,90}", "must be a resource group"), "Of those six."),
    "NAMESPACE": (
        rules.text(r"[A-Za-z][A-Za-z0-9-]{4,48}[A-Za-z0-9]", "must be the name of a namespace, without a domain"),
        "The namespace of Service Bus, of those six.",
    ),
}
_DLQ = "Where messages go that are given up; <queue>{} if empty."

# Prefix of the environment, prefix in YAML, and what stands behind both.
_GROUPS: list[tuple[str, str, dict[str, tuple[Rule, str]]]] = [
    (
        "RABBITMQ_",
        "mqs.rabbitmq.",
        _RABBITMQ
        | {
            "DELIVERY_QUEUE": (_AMQP_NAME, "The delivery queue."),
            "DELIVERY_DLQ": (_AMQP_NAME, _DLQ.format(".dlq")),
        },
    ),
    (
        "AWS_SQS_",
        "mqs.aws_sqs.",
        _SQS
        | {
            "DELIVERY_QUEUE": (_SQS_QUEUE, "The delivery queue, by name or URL."),
            "DELIVERY_DLQ": (_SQS_QUEUE, _DLQ.format("-dlq")),
        },
    ),
    (
        "GCP_PUBSUB_",
        "mqs.gcp_pubsub.",
        _PUBSUB
        | {
            "DELIVERY_TOPIC": (_PUBSUB_NAME, "The topic of deliveries."),
            "DELIVERY_SUBSCRIPTION": (_PUBSUB_NAME, "Its subscription."),
            "DELIVERY_DLQ_TOPIC": (_PUBSUB_NAME, "The topic of dead letters; <topic>-dlq if empty."),
            "DELIVERY_DLQ_SUBSCRIPTION": (_PUBSUB_NAME, "Its subscription; <dead-letter topic>-sub if empty."),
        },
    ),
    (
        "AZURE_SERVICEBUS_",
        "mqs.azure_servicebus.",
        _SERVICEBUS
        | _AAD
        | {
            "DELIVERY_TOPIC": (_AZURE_NAME, "The topic of deliveries."),
            "DELIVERY_SUBSCRIPTION": (_AZURE_SUBSCRIPTION, "Its subscription."),
        },
    ),
    (
        "PUBLISH_RABBITMQ_",
        "publishmq.rabbitmq.",
        _RABBITMQ | {"QUEUE": (_AMQP_NAME, "The queue that producers publish to.")},
    ),
    (
        "PUBLISH_AWS_SQS_",
        "publishmq.aws_sqs.",
        _SQS | {"QUEUE": (_SQS_QUEUE, "The queue that producers publish to, by name or URL.")},
    ),
    (
        "PUBLISH_GCP_PUBSUB_",
        "publishmq.gcp_pubsub.",
        _PUBSUB
        | {
            "TOPIC": (_PUBSUB_NAME, "The topic that producers publish to."),
            "SUBSCRIPTION": (_PUBSUB_NAME, "Its subscription."),
        },
    ),
    (
        "PUBLISH_AZURE_SERVICEBUS_",
        "publishmq.azure_servicebus.",
        _SERVICEBUS
        | {
            "TOPIC": (_AZURE_NAME, "The topic that producers publish to."),
            "SUBSCRIPTION": (_AZURE_SUBSCRIPTION, "Its subscription."),
        },
    ),
]

VARIABLES: list[Variable] = [
    Variable(
        env="MQS_AUTO_PROVISION", yaml="mqs.auto_provision", field="mqs_auto_provision", rule=rules.boolean()
    ),
    Variable(
        env="QUEUE_INLINE_MAX_BYTES",
        yaml="queue.inline_max_bytes",
        field="queue_inline_max_bytes",
        rule=rules.integer(0, 65_536),
    ),
    *(
        Variable(
            env=env + word, yaml=yaml + word.lower(), field=(env + word).lower(), rule=rule, secret=word in _SECRET
        )
        for env, yaml, words in _GROUPS
        for word, (rule, _) in words.items()
    ),
]

ABOUT: dict[str, str] = {
    "MQS_AUTO_PROVISION": "Makes what is missing of the delivery queue; false only looks whether it is there.",
    "QUEUE_INLINE_MAX_BYTES": (
        "How large the payload of an event may be that travels through the delivery queue; larger ones are read "
        "from Redis. 0 keeps all of them there."
    ),
} | {env + word: text for env, _, words in _GROUPS for word, (_, text) in words.items()}
