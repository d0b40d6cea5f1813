"""The brokers that the published variables name: which one is chosen, under which names, and what is refused."""

from __future__ import annotations

import pytest
from rich.pretty import pretty_repr

from outpost.settings import Settings, load, queue_table, queues

NEEDED = {
    "API_KEY": "key-of-the-api",
    "AES_ENCRYPTION_SECRET": "aes",
    "REDIS_HOST": "localhost",
    "POSTGRES_URL": "postgres://h/o",
}
AZURE = "Endpoint=sb://acme.servicebus.windows.net/;SharedAccessKeyName=k;SharedAccessKey=hunter2"
GUID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
SIX = {
    "AZURE_SERVICEBUS_TENANT_ID": GUID,
    "AZURE_SERVICEBUS_CLIENT_ID": GUID,
    "AZURE_SERVICEBUS_CLIENT_SECRET": "hunter2",
    "AZURE_SERVICEBUS_SUBSCRIPTION_ID": GUID,
    "AZURE_SERVICEBUS_RESOURCE_GROUP": "acme",
    "AZURE_SERVICEBUS_NAMESPACE": "acme-events",
}
RABBITMQ = {"RABBITMQ_SERVER_URL": "amqp://guest:hunter2@mq:5672/prod"}


def loaded(**environ: str) -> Settings:
    return load.load(NEEDED | environ, None, None)


def problems(**environ: str) -> list[str]:
    return list(load.resolve(NEEDED | environ, None, None).problems)


def test_without_a_broker_the_queue_is_in_process() -> None:
    assert (None, None) == (queues.delivery(loaded()), queues.source(loaded()))
    assert [] == queues.warnings(loaded())


DELIVERY = {
    "rabbitmq": (
        RABBITMQ,
        queues.RabbitMQ(
            server_url="amqp://guest:hunter2@mq:5672/prod",
            exchange="outpost",
            queue="outpost-delivery",
            dead_letters="outpost-delivery.dlq",
        ),
    ),
    "rabbitmq, names": (
        {
            "RABBITMQ_SERVER_URL": "AMQPS://mq",
            "RABBITMQ_EXCHANGE": "e",
            "RABBITMQ_DELIVERY_QUEUE": "q",
            "RABBITMQ_DELIVERY_DLQ": "d",
        },
        queues.RabbitMQ(server_url="AMQPS://mq", exchange="e", queue="q", dead_letters="d"),
    ),
    "sqs": (
        {"AWS_SQS_REGION": "eu-central-1"},
        queues.SQS(
            region="eu-central-1",
            endpoint="",
            access_key_id="",
            secret_access_key="",
            queue="outpost-delivery",
            dead_letters="outpost-delivery-dlq",
        ),
    ),
    "sqs, names": (
        {
            "AWS_SQS_REGION": "us-gov-west-1",
            "AWS_SQS_ENDPOINT": "http://localhost:4566",
            "AWS_SQS_ACCESS_KEY_ID": "a",
            "AWS_SQS_SECRET_ACCESS_KEY": "s",
            "AWS_SQS_DELIVERY_QUEUE": "http://localhost:4566/000000000000/q",
            "AWS_SQS_DELIVERY_DLQ": "d",
        },
        queues.SQS(
            region="us-gov-west-1",
            endpoint="http://localhost:4566",
            access_key_id="a",
            secret_access_key="s",
            queue="http://localhost:4566/000000000000/q",
            dead_letters="d",
        ),
    ),
    "pubsub": (
        {"GCP_PUBSUB_PROJECT": "acme-1", "GCP_PUBSUB_DELIVERY_DLQ_TOPIC": "dead"},
        queues.PubSub(
            project="acme-1",
            credentials="",
            topic="outpost-delivery",
            subscription="outpost-delivery-sub",
            dead_letter_topic="dead",
            dead_letter_subscription="dead-sub",
        ),
    ),
    "service bus": (
        {"AZURE_SERVICEBUS_CONNECTION_STRING": AZURE},
        queues.ServiceBus(connection_string=AZURE, topic="outpost-delivery", subscription="outpost-delivery-sub"),
    ),
    "service bus, six values": (
        SIX,
        queues.ServiceBus(
            connection_string="",
            topic="outpost-delivery",
            subscription="outpost-delivery-sub",
            tenant_id=GUID,
            client_id=GUID,
            client_secret="hunter2",
            subscription_id=GUID,
            resource_group="acme",
            namespace="acme-events",
        ),
    ),
}


@pytest.mark.parametrize(("environ", "named"), DELIVERY.values(), ids=DELIVERY)
def test_the_published_variables_name_the_broker_of_deliveries(
    environ: dict[str, str], named: queues.Named
) -> None:
    assert named == queues.delivery(loaded(**environ))


SOURCES = {
    "rabbitmq": (
        {"PUBLISH_RABBITMQ_SERVER_URL": "amqp://mq", "PUBLISH_RABBITMQ_QUEUE": "p"},
        queues.RabbitMQ(server_url="amqp://mq", exchange="", queue="p"),
    ),
    "sqs": (
        {"PUBLISH_AWS_SQS_REGION": "eu-central-1", "PUBLISH_AWS_SQS_QUEUE": "p.fifo"},
        queues.SQS(
            region="eu-central-1",
            endpoint="",
            access_key_id="",
            secret_access_key="",
            queue="p.fifo",
            variable="PUBLISH_AWS_SQS_QUEUE",
        ),
    ),
    "pubsub": (
        {"PUBLISH_GCP_PUBSUB_PROJECT": "acme-1", "PUBLISH_GCP_PUBSUB_SUBSCRIPTION": "sub"},
        queues.PubSub(
            project="acme-1", credentials="", topic="", subscription="sub", prefix="PUBLISH_GCP_PUBSUB_"
        ),
    ),
    "service bus": (
        {
            "PUBLISH_AZURE_SERVICEBUS_CONNECTION_STRING": AZURE,
            "PUBLISH_AZURE_SERVICEBUS_TOPIC": "t",
            "PUBLISH_AZURE_SERVICEBUS_SUBSCRIPTION": "s",
        },
        queues.ServiceBus(connection_string=AZURE, topic="t", subscription="s", source=True),
    ),
}


@pytest.mark.parametrize(("environ", "named"), SOURCES.values(), ids=SOURCES)
def test_the_published_variables_name_the_broker_of_the_publish_queue(
    environ: dict[str, str], named: queues.Named
) -> None:
    settings = loaded(**environ)
    assert (None, named) == (queues.delivery(settings), queues.source(settings))


def test_the_published_order_decides_between_several_and_says_so() -> None:
    all_four = {"AWS_SQS_REGION": "eu-central-1", "GCP_PUBSUB_PROJECT": "acme-1", **SIX, **RABBITMQ}
    assert isinstance(queues.delivery(loaded(**all_four)), queues.SQS)
    (warning,) = queues.warnings(loaded(**all_four))
    assert "AWS_SQS_REGION" in warning
    assert "AZURE_SERVICEBUS_NAMESPACE, GCP_PUBSUB_PROJECT, RABBITMQ_SERVER_URL" in warning
    del all_four["AWS_SQS_REGION"]
    assert isinstance(queues.delivery(loaded(**all_four)), queues.ServiceBus)
    two = {"GCP_PUBSUB_PROJECT": "acme-1", **RABBITMQ}
    assert isinstance(queues.delivery(loaded(**two)), queues.PubSub)


def test_a_short_watchdog_beside_a_broker_is_told() -> None:
    (warning,) = queues.warnings(loaded(DELIVERY_WATCHDOG_MS="9999", **RABBITMQ))
    assert "DELIVERY_WATCHDOG_MS" in warning
    assert [] == queues.warnings(loaded(DELIVERY_WATCHDOG_MS="9999"))


REFUSED = {
    "half a pair": ({"AWS_SQS_REGION": "eu-central-1", "AWS_SQS_ACCESS_KEY_ID": "a"}, "AWS_SQS_SECRET_ACCESS_KEY"),
    "the other half": (
        {"PUBLISH_AWS_SQS_SECRET_ACCESS_KEY": "hunter2"},
        "PUBLISH_AWS_SQS_ACCESS_KEY_ID must be set with PUBLISH_AWS_SQS_SECRET_ACCESS_KEY",
    ),
    "some of the six": (
        {k: v for k, v in SIX.items() if k not in ("AZURE_SERVICEBUS_NAMESPACE", "AZURE_SERVICEBUS_CLIENT_ID")},
        "AZURE_SERVICEBUS_CLIENT_ID, AZURE_SERVICEBUS_NAMESPACE must be set",
    ),
    "another scheme": ({"RABBITMQ_SERVER_URL": "http://u:hunter2@mq"}, "RABBITMQ_SERVER_URL must be a URL"),
    "no host": ({"RABBITMQ_SERVER_URL": "amqp://"}, "RABBITMQ_SERVER_URL must be a URL"),
    "an unescaped password": (
        {"RABBITMQ_SERVER_URL": "amqp://u:hun#ter2@mq"},
        "RABBITMQ_SERVER_URL must be a URL",
    ),
    "no region": ({"AWS_SQS_REGION": "europe"}, "AWS_SQS_REGION must be a region"),
    "a FIFO queue": (
        {"AWS_SQS_REGION": "eu-central-1", "AWS_SQS_DELIVERY_QUEUE": "q.fifo"},
        "AWS_SQS_DELIVERY_QUEUE must not be a FIFO queue",
    ),
    "a name out of its alphabet": (
        {"AWS_SQS_REGION": "eu-central-1", "AWS_SQS_DELIVERY_QUEUE": "my queue"},
        "AWS_SQS_DELIVERY_QUEUE must be the name of a queue",
    ),
    "one queue for both": (
        RABBITMQ
        | {"PUBLISH_RABBITMQ_SERVER_URL": "amqp://x@mq:5672/prod", "PUBLISH_RABBITMQ_QUEUE": "outpost-delivery"},
        "must not be the same queue",
    ),
    "a publish broker without its queue": (
        {"PUBLISH_RABBITMQ_SERVER_URL": "amqp://mq"},
        "PUBLISH_RABBITMQ_QUEUE must be set",
    ),
    "another one": ({"PUBLISH_GCP_PUBSUB_PROJECT": "acme-1"}, "PUBLISH_GCP_PUBSUB_SUBSCRIPTION must be set"),
}


@pytest.mark.parametrize(("environ", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_with_the_variable_and_without_the_value(
    environ: dict[str, str], sentence: str
) -> None:
    (problem,) = problems(**environ)
    assert sentence in problem
    assert "hunter2" not in problem
    assert "hun#" not in problem


def test_every_problem_of_queues_is_told_at_once() -> None:
    found = problems(
        RABBITMQ_SERVER_URL="http://mq",
        AWS_SQS_REGION="x",
        PUBLISH_AWS_SQS_ACCESS_KEY_ID="a",
        MQS_AUTO_PROVISION="?",
    )
    assert 4 == len(found)


def test_the_published_names_of_the_log_queue_are_accepted() -> None:
    loaded(RABBITMQ_LOG_QUEUE="x", AWS_SQS_LOG_DLQ="y", GCP_PUBSUB_LOG_TOPIC="z", AZURE_SERVICEBUS_LOG_TOPIC="t")


@pytest.mark.parametrize("named", [named for _, named in DELIVERY.values()], ids=DELIVERY)
def test_no_printed_form_shows_a_secret(named: queues.Named) -> None:
    assert "hunter2" not in repr(named) + str(named) + pretty_repr(named)


def test_every_variable_is_explained_and_secret_ones_are_known() -> None:
    assert {variable.env for variable in queue_table.VARIABLES} == set(queue_table.ABOUT)
    settings = loaded(**RABBITMQ, **SIX, AWS_SQS_REGION="eu-central-1")
    assert "hunter2" not in repr(settings) + pretty_repr(settings)


# What the published sample of the environment says (.env.example of hookdeck/outpost), a broker after the other.
SAMPLE = {
    "rabbitmq": {
        "RABBITMQ_SERVER_URL": "amqp://guest:guest@rabbitmq:5672",
        "RABBITMQ_EXCHANGE": "outpost",
        "RABBITMQ_DELIVERY_QUEUE": "outpost-delivery",
        "RABBITMQ_LOG_QUEUE": "outpost-log",
        "PUBLISH_RABBITMQ_SERVER_URL": "amqp://guest:guest@rabbitmq:5672",
        "PUBLISH_RABBITMQ_QUEUE": "publish",
        "PUBLISH_RABBITMQ_EXCHANGE": "outpost",
    },
    "sqs": {
        "AWS_SQS_ENDPOINT": "http://aws:4566",
        "AWS_SQS_REGION": "eu-central-1",
        "AWS_SQS_ACCESS_KEY_ID": "test",
        "AWS_SQS_SECRET_ACCESS_KEY": "test",
        "AWS_SQS_DELIVERY_QUEUE": "outpost-delivery",
        "AWS_SQS_LOG_QUEUE": "outpost-log",
        "PUBLISH_AWS_SQS_ENDPOINT": "http://aws:4566",
        "PUBLISH_AWS_SQS_REGION": "eu-central-1",
        "PUBLISH_AWS_SQS_ACCESS_KEY_ID": "test",
        "PUBLISH_AWS_SQS_SECRET_ACCESS_KEY": "test",
        "PUBLISH_AWS_SQS_QUEUE": "publish_sqs_queue",
    },
    "pubsub": {
        "GCP_PUBSUB_PROJECT": "test",
        "GCP_PUBSUB_SERVICE_ACCOUNT_CREDENTIALS": "",
        "GCP_PUBSUB_DELIVERY_TOPIC": "outpost-delivery",
        "GCP_PUBSUB_DELIVERY_SUBSCRIPTION": "outpost-delivery-sub",
        "GCP_PUBSUB_LOG_TOPIC": "outpost-log",
        "GCP_PUBSUB_LOG_SUBSCRIPTION": "outpost-log-sub",
        "PUBLISH_GCP_PUBSUB_PROJECT": "test",
        "PUBLISH_GCP_PUBSUB_SERVICE_ACCOUNT_CREDENTIALS": "",
        "PUBLISH_GCP_PUBSUB_TOPIC": "outpost-publish",
        "PUBLISH_GCP_PUBSUB_SUBSCRIPTION": "outpost-publish-sub",
    },
    "service bus": {
        "AZURE_SERVICEBUS_TENANT_ID": "",
        "AZURE_SERVICEBUS_CLIENT_ID": "",
        "AZURE_SERVICEBUS_CLIENT_SECRET": "",
        "AZURE_SERVICEBUS_SUBSCRIPTION_ID": "",
        "AZURE_SERVICEBUS_RESOURCE_GROUP": "",
        "AZURE_SERVICEBUS_NAMESPACE": "",
        "AZURE_SERVICEBUS_DELIVERY_TOPIC": "outpost-delivery",
        "AZURE_SERVICEBUS_DELIVERY_SUBSCRIPTION": "outpost-delivery-sub",
        "AZURE_SERVICEBUS_LOG_TOPIC": "outpost-log",
        "AZURE_SERVICEBUS_LOG_SUBSCRIPTION": "outpost-log-sub",
        "AZURE_SERVICEBUS_CONNECTION_STRING": AZURE,
        "PUBLISH_AZURE_SERVICEBUS_CONNECTION_STRING": AZURE,
        "PUBLISH_AZURE_SERVICEBUS_TOPIC": "outpost-publish",
        "PUBLISH_AZURE_SERVICEBUS_SUBSCRIPTION": "outpost-publish-sub",
    },
}
SAMPLE_OF_THE_REST = {
    "API_PORT": "3333",
    "API_KEY": "apikey",
    "API_JWT_SECRET": "jwtsecret",
    "AES_ENCRYPTION_SECRET": "encryptionsecret",
    "TOPICS": "user.created,user.updated,user.deleted",
    "REDIS_HOST": "redis",
    "REDIS_PORT": "6379",
    "REDIS_PASSWORD": "password",
    "REDIS_DATABASE": "0",
    "REDIS_TLS_ENABLED": "false",
    "REDIS_CLUSTER_ENABLED": "false",
    "POSTGRES_URL": "postgres://outpost:outpost@postgres:5432/outpost?sslmode=disable",
    "PORTAL_ORGANIZATION_NAME": "Acme",
    "DESTINATIONS_WEBHOOK_HEADER_PREFIX": "x-outpost-",
    "DESTINATIONS_WEBHOOK_DISABLE_DEFAULT_TOPIC_HEADER": "false",
    "DESTINATIONS_WEBHOOK_SIGNATURE_CONTENT_TEMPLATE": "{{.Body}}",
    "DESTINATIONS_WEBHOOK_SIGNATURE_HEADER_TEMPLATE": 'v0={{.Signatures | join ","}}',
    "DESTINATIONS_WEBHOOK_SIGNATURE_ENCODING": "hex",
    "DESTINATIONS_WEBHOOK_SIGNATURE_ALGORITHM": "hmac-sha256",
    "DISABLE_TELEMETRY": "true",
    "OTEL_SERVICE_NAME": "outpost",
}


@pytest.mark.parametrize("broker", SAMPLE)
def test_the_published_sample_of_the_environment_is_taken_as_it_is(broker: str) -> None:
    settings = load.load(SAMPLE_OF_THE_REST | SAMPLE[broker], None, None)
    assert queues.delivery(settings) is not None
    assert type(queues.delivery(settings)) is type(queues.source(settings))
    assert [] == queues.warnings(settings)
