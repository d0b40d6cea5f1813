"""The settings of one process: a frozen struct with units in its names, which holds the defaults too.

`settings_load.load` is the one place that fills it from environment and file and checks it; nothing reads the
environment after that. Its printed forms never show a secret.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec

from outpost.ids import IdType

VERSION = version("outpost-events")

SECRET_FIELDS = frozenset(
    {"api_key", "api_jwt_secret", "aes_encryption_secret", "redis_password", "redis_url", "postgres_url"}
    | {f"{source}rabbitmq_server_url" for source in ("", "publish_")}
    | {f"{source}aws_sqs_{key}" for source in ("", "publish_") for key in ("access_key_id", "secret_access_key")}
    | {f"{source}gcp_pubsub_service_account_credentials" for source in ("", "publish_")}
    | {f"{source}azure_servicebus_connection_string" for source in ("", "publish_")}
    | {"azure_servicebus_client_secret"}
)

# Those that frame the request or that its client sets.
RESERVED_HEADERS = frozenset(
    {"connection", "content-length", "content-type", "expect", "host", "keep-alive", "te", "trailer"}
    | {"proxy-connection", "transfer-encoding", "upgrade", "user-agent"}
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every field is checked by `settings_load.load`; a struct built by hand is taken at its word.

    `""` stands for "not set", except in the four `webhook_*_header` fields, where None is "not set" and `""`
    is "do not send this header".
    """

    # The process: which roles it runs, `all`, `api`, `delivery` or `log`, and how many of its kind there are.
    service: str = "all"
    workers: int = 1
    log_level: str = "info"
    deployment_id: str = ""
    aes_encryption_secret: str = ""

    # HTTP. `insecure` lets an empty `api_key` start.
    # An empty `api_host` is every IPv4 address, with embedded stores loopback alone.
    api_host: str = ""
    api_port: int = 3333
    api_key: str = ""
    api_jwt_secret: str = ""
    api_max_body_bytes: int = 1_048_576
    api_max_body_bytes_in_flight: int = 67_108_864  # of all clients together
    api_max_head_bytes: int = 32_768
    api_max_url_bytes: int = 8_192
    api_max_headers: int = 100
    api_head_timeout_ms: int = 10_000
    api_body_timeout_ms: int = 20_000  # for the first byte; every further one adds its share of the least rate
    api_body_min_bytes_per_second: int = 4_096
    api_write_timeout_ms: int = 30_000  # in which a client has to take what it was sent
    api_keep_alive_ms: int = 75_000  # longer than the 60 s of common load balancers, so that they close first
    api_max_connections: int = 10_000
    api_max_connections_per_address: int = 5_000
    api_max_page_bytes: int = 8_388_608
    api_max_read_bytes_in_flight: int = 33_554_432  # of all clients together
    api_max_pipelined_requests: int = 100
    api_unknown_fields: str = "refuse"  # or "ignore"
    insecure: bool = False

    # Tenants, destinations, events. No `topics` means that any topic is allowed.
    topics: tuple[str, ...] = ()
    topics_allow_wildcards: bool = False
    max_destinations_per_tenant: int = 20
    publish_idempotency_ttl_ms: int = 3_600_000
    idgen_type: IdType = "uuidv4"
    idgen_event_prefix: str = ""
    idgen_destination_prefix: str = ""
    idgen_attempt_prefix: str = ""

    # Delivery. `delivery_max_concurrency` is the number of send slots of this process. A `retry_jitter` of 0.1
    # makes a delay up to a tenth shorter or longer. A `retry_after_max_ms` of 0 does not listen to Retry-After.
    delivery_timeout_ms: int = 5_000
    delivery_max_concurrency: int = 1_000
    delivery_watchdog_ms: int = 30_000
    delivery_lease_margin_ms: int = 5_000
    retry_schedule_ms: tuple[int, ...] = ()
    retry_interval_ms: int = 30_000
    retry_max_limit: int = 10
    retry_jitter: float = 0.0
    retry_after_max_ms: int = 3_600_000

    # The log and its stores. A `redis_unix_socket` takes the place of host and port.
    # Entries stay in Redis for `stream_retention_ms` at least. A `redis_memory_budget_bytes` of 0 takes most of
    # what the server has by its maxmemory.
    log_batch_size: int = 4_000
    stream_retention_ms: int = 600_000
    redis_url: str = ""  # what it says stands in the fields below
    redis_host: str = ""
    redis_port: int = 6379
    redis_unix_socket: str = ""
    redis_username: str = ""
    redis_password: str = ""
    redis_database: int = 0
    redis_tls_enabled: bool = False
    redis_tls_verify: bool = True
    redis_durability: str = "always"
    redis_memory_budget_bytes: int = 0
    postgres_url: str = ""

    # The delivery queue: in process unless a broker is named. `queue_inline_max_bytes` bounds the payload of one
    # event that travels in it.
    mqs_auto_provision: bool = True
    queue_inline_max_bytes: int = 16_384
    rabbitmq_server_url: str = ""
    rabbitmq_exchange: str = "outpost"
    rabbitmq_delivery_queue: str = "outpost-delivery"
    rabbitmq_delivery_dlq: str = ""
    aws_sqs_access_key_id: str = ""
    aws_sqs_secret_access_key: str = ""
    aws_sqs_region: str = ""
    aws_sqs_endpoint: str = ""
    aws_sqs_delivery_queue: str = "outpost-delivery"
    aws_sqs_delivery_dlq: str = ""
    gcp_pubsub_project: str = ""
    gcp_pubsub_service_account_credentials: str = ""
    gcp_pubsub_delivery_topic: str = "outpost-delivery"
    gcp_pubsub_delivery_subscription: str = "outpost-delivery-sub"
    gcp_pubsub_delivery_dlq_topic: str = ""
    gcp_pubsub_delivery_dlq_subscription: str = ""
    azure_servicebus_connection_string: str = ""
    azure_servicebus_tenant_id: str = ""
    azure_servicebus_client_id: str = ""
    azure_servicebus_client_secret: str = ""
    azure_servicebus_subscription_id: str = ""
    azure_servicebus_resource_group: str = ""
    azure_servicebus_namespace: str = ""
    azure_servicebus_delivery_topic: str = "outpost-delivery"
    azure_servicebus_delivery_subscription: str = "outpost-delivery-sub"

    # The publish queue: no broker, no such queue.
    publish_rabbitmq_server_url: str = ""
    publish_rabbitmq_exchange: str = ""
    publish_rabbitmq_queue: str = ""
    publish_aws_sqs_access_key_id: str = ""
    publish_aws_sqs_secret_access_key: str = ""
    publish_aws_sqs_region: str = ""
    publish_aws_sqs_endpoint: str = ""
    publish_aws_sqs_queue: str = ""
    publish_gcp_pubsub_project: str = ""
    publish_gcp_pubsub_topic: str = ""
    publish_gcp_pubsub_subscription: str = ""
    publish_gcp_pubsub_service_account_credentials: str = ""
    publish_azure_servicebus_connection_string: str = ""
    publish_azure_servicebus_topic: str = ""
    publish_azure_servicebus_subscription: str = ""

    # Outgoing requests. CIDRs as text, in the form that `ipaddress` prints.
    http_user_agent: str = f"Outpost/{VERSION}"
    destinations_allowed_cidrs: tuple[str, ...] = ()
    destinations_allowed_hosts: tuple[str, ...] = ()  # names that are trusted whatever they resolve to
    destinations_ca_file: str = ""  # authorities that TLS believes beside the system's
    include_millisecond_timestamp: bool = False
    webhook_header_prefix: str = "x-outpost-"
    webhook_event_id_header: str | None = None
    webhook_signature_header: str | None = None
    webhook_timestamp_header: str | None = None
    webhook_topic_header: str | None = None
    webhook_signature_encoding: str = "hex"
    webhook_signature_algorithm: str = "hmac-sha256"
    webhook_max_response_body_bytes: int = 131_072
    hookdeck_api_url: str = "https://api.hookdeck.com"
    hookdeck_events_url: str = "https://hkdk.events"
    kinesis_metadata_in_payload: bool = True
    eventbridge_source: str = "outpost"

    def __repr__(self) -> str:
        """The fields, with `<set>` in the place of a secret."""
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What rich prints; msgspec's own would show every secret."""
        values = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return [(name, _Masked() if name in SECRET_FIELDS and value else value) for name, value in values]


class _Masked:
    __slots__ = ()

    def __repr__(self) -> str:
        return "<set>"
