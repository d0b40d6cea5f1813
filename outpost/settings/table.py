"""Every variable that sets a field, by its published name; those that are ours have no published counterpart.

The order is that of `outpost config list`. What is accepted without effect or refused stands in
`settings_unbuilt`, and moves here when the thing it is about is built.
"""

from __future__ import annotations

from outpost.settings import postgres_url, queue_table, redis_url, rules
from outpost.settings import unbuilt as settings_unbuilt
from outpost.settings.rules import Empty, Rule, Variable

# The published maximum, about 115 days.
_MAX_DELAY_SECONDS = 9_999_999


def _sets(
    field: str, env: str, rule: Rule, *, yaml: str = "", secret: bool = False, empty: Empty = "never"
) -> Variable:
    """Where no place in YAML is given, it is the name in lower case."""
    return Variable(env=env, yaml=yaml or env.lower(), field=field, rule=rule, secret=secret, empty=empty)


_DEPLOYMENT = rules.text(r"[a-zA-Z0-9_-]{1,64}", "must be at most 64 letters, digits, - and _")
_ID_PREFIX = rules.text(r"[a-zA-Z0-9_.:-]{0,64}", "must be at most 64 letters, digits, -, _, . and :")
# One colon would be a port; two make an IPv6 address.
_HOST = rules.text(r"[^\s:/@]+|[0-9a-fA-F.]*:[0-9a-fA-F.]*:[0-9a-fA-F:.]*", "must be a host or an address alone")
_USER = rules.text(r"[^\x00-\x20]+", "must not contain blanks")
_AGENT = rules.text(r"[\x20-\x7e]{1,255}", "must be at most 255 printable ASCII characters")
_DURABILITY = rules.choice("always", "accept-loss", "always-by-provider")
_SOCKET = rules.text(r"/[^\x00]+", "must be an absolute path")
_KEY = rules.text(r"[\x21-\x7e]+", "must be visible ASCII characters without blanks", strip=False)

_PROCESS = [
    _sets("service", "SERVICE", rules.choice("all", "api", "delivery", "log")),
    _sets("workers", "WORKERS", rules.integer(1, 64)),
    _sets("log_level", "LOG_LEVEL", rules.choice("debug", "info", "warn", "error", trace="debug", warning="warn")),
    _sets("deployment_id", "DEPLOYMENT_ID", _DEPLOYMENT),
    _sets("aes_encryption_secret", "AES_ENCRYPTION_SECRET", rules.secret(), secret=True),
    _sets("api_host", "API_HOST", _HOST),
    _sets("api_port", "API_PORT", rules.own_port()),
    _sets("api_key", "API_KEY", _KEY, secret=True),
    _sets("api_jwt_secret", "API_JWT_SECRET", rules.secret(), secret=True),
    _sets("api_max_body_bytes", "API_MAX_BODY_BYTES", rules.integer(1_024, 67_108_864)),
    _sets("api_max_body_bytes_in_flight", "API_MAX_BODY_BYTES_IN_FLIGHT", rules.integer(67_108_864, 2**40)),
    _sets("api_max_head_bytes", "API_MAX_HEAD_BYTES", rules.integer(1_024, 1_048_576)),
    _sets("api_max_url_bytes", "API_MAX_URL_BYTES", rules.integer(256, 65_536)),
    _sets("api_max_headers", "API_MAX_HEADERS", rules.integer(10, 1_000)),
    _sets("api_head_timeout_ms", "API_HEAD_TIMEOUT_SECONDS", rules.seconds(1, 300)),
    _sets("api_body_timeout_ms", "API_BODY_TIMEOUT_SECONDS", rules.seconds(1, 300)),
    _sets("api_body_min_bytes_per_second", "API_BODY_MIN_BYTES_PER_SECOND", rules.integer(1, 2**30)),
    _sets("api_write_timeout_ms", "API_WRITE_TIMEOUT_SECONDS", rules.seconds(1, 300)),
    _sets("api_keep_alive_ms", "API_KEEP_ALIVE_SECONDS", rules.seconds(1, 3_600)),
    _sets("api_max_connections", "API_MAX_CONNECTIONS", rules.integer(10, 1_000_000)),
    _sets("api_max_connections_per_address", "API_MAX_CONNECTIONS_PER_ADDRESS", rules.integer(1, 1_000_000)),
    _sets("api_max_page_bytes", "API_MAX_PAGE_BYTES", rules.integer(1_024, 67_108_864)),
    _sets("api_max_read_bytes_in_flight", "API_MAX_READ_BYTES_IN_FLIGHT", rules.integer(1_048_576, 2**40)),
    _sets("api_max_pipelined_requests", "API_MAX_PIPELINED_REQUESTS", rules.integer(1, 10_000)),
    _sets("api_unknown_fields", "API_UNKNOWN_FIELDS", rules.choice("refuse", "ignore")),
    _sets("insecure", "OUTPOST_INSECURE", rules.boolean()),
]

_EVENTS = [
    _sets("topics", "TOPICS", rules.topics()),
    _sets("topics_allow_wildcards", "TOPICS_ALLOW_WILDCARDS", rules.boolean()),
    _sets("max_destinations_per_tenant", "MAX_DESTINATIONS_PER_TENANT", rules.integer(1, 10_000)),
    # The dedupe marks of the whole window are in memory: a week of them is the most that can be meant.
    _sets("publish_idempotency_ttl_ms", "PUBLISH_IDEMPOTENCY_KEY_TTL", rules.seconds(10, 604_800)),
    _sets("idgen_type", "IDGEN_TYPE", rules.choice("uuidv4", "uuidv7", "nanoid"), yaml="idgen.type"),
    _sets("idgen_event_prefix", "IDGEN_EVENT_PREFIX", _ID_PREFIX, yaml="idgen.event_prefix"),
    _sets("idgen_destination_prefix", "IDGEN_DESTINATION_PREFIX", _ID_PREFIX, yaml="idgen.destination_prefix"),
    _sets("idgen_attempt_prefix", "IDGEN_ATTEMPT_PREFIX", _ID_PREFIX, yaml="idgen.attempt_prefix"),
]

_DELIVERY = [
    _sets("delivery_timeout_ms", "DELIVERY_TIMEOUT_SECONDS", rules.seconds(0, 300, zero_means=5)),
    _sets("delivery_max_concurrency", "DELIVERY_MAX_CONCURRENCY", rules.integer(1, 100_000)),
    _sets("delivery_watchdog_ms", "DELIVERY_WATCHDOG_MS", rules.integer(100, 3_600_000)),
    _sets("delivery_lease_margin_ms", "DELIVERY_LEASE_MARGIN_MS", rules.integer(100, 600_000)),
    _sets("retry_schedule_ms", "RETRY_SCHEDULE", rules.seconds_list(1, _MAX_DELAY_SECONDS)),
    _sets("retry_interval_ms", "RETRY_INTERVAL_SECONDS", rules.seconds(1, _MAX_DELAY_SECONDS)),
    _sets("retry_max_limit", "MAX_RETRY_LIMIT", rules.integer(0, 1_000), yaml="retry_max_limit"),
    _sets("retry_jitter", "RETRY_JITTER", rules.fraction()),
    _sets("retry_after_max_ms", "RETRY_AFTER_MAX_SECONDS", rules.seconds(1, _MAX_DELAY_SECONDS, zero_means=0)),
]

_STORES = [
    _sets("log_batch_size", "LOG_BATCH_SIZE", rules.integer(1, 10_000)),
    # A year: what stays in Redis is bounded by its memory long before.
    _sets("stream_retention_ms", "STREAM_RETENTION_SECONDS", rules.seconds(20, 31_536_000)),
    _sets("redis_url", "REDIS_URL", redis_url.rule(), secret=True, yaml="redis.url"),
    _sets("redis_host", "REDIS_HOST", _HOST, yaml="redis.host"),
    _sets("redis_port", "REDIS_PORT", rules.port(), yaml="redis.port"),
    _sets("redis_unix_socket", "REDIS_UNIX_SOCKET", _SOCKET, yaml="redis.unix_socket"),
    _sets("redis_username", "REDIS_USERNAME", _USER, yaml="redis.username"),
    _sets("redis_password", "REDIS_PASSWORD", rules.secret(), secret=True, yaml="redis.password"),
    _sets("redis_database", "REDIS_DATABASE", rules.integer(0, 9_999), yaml="redis.database"),
    _sets("redis_tls_enabled", "REDIS_TLS_ENABLED", rules.boolean(), yaml="redis.tls_enabled"),
    _sets("redis_tls_verify", "REDIS_TLS_VERIFY", rules.boolean(), yaml="redis.tls_verify"),
    _sets("redis_durability", "REDIS_DURABILITY", _DURABILITY, yaml="redis.durability"),
    _sets(
        "redis_memory_budget_bytes",
        "REDIS_MEMORY_BUDGET_BYTES",
        rules.integer(0, 2**50),
        yaml="redis.memory_budget_bytes",
    ),
    _sets("postgres_url", "POSTGRES_URL", postgres_url.rule(), secret=True, yaml="postgres"),
]


def _header(kind: str) -> list[Variable]:
    upper, field = kind.upper(), f"webhook_{kind}_header"
    name = f"DESTINATIONS_WEBHOOK_{upper}_HEADER_NAME"
    switch = f"DESTINATIONS_WEBHOOK_DISABLE_DEFAULT_{upper}_HEADER"
    yaml = "destinations.webhook."
    return [
        _sets(field, name, rules.header_name(), yaml=f"{yaml}{kind}_header_name", empty="always"),
        # Deprecated. It stands behind the name, which wins over it.
        _sets(field, switch, rules.header_switch(), yaml=f"{yaml}disable_default_{kind}_header"),
    ]


_REQUESTS = [
    _sets("http_user_agent", "HTTP_USER_AGENT", _AGENT),
    _sets(
        "destinations_allowed_cidrs",
        "DESTINATIONS_ALLOWED_CIDRS",
        rules.cidrs(),
        yaml="destinations.allowed_cidrs",
    ),
    _sets(
        "destinations_allowed_hosts",
        "DESTINATIONS_ALLOWED_HOSTS",
        rules.hosts(),
        yaml="destinations.allowed_hosts",
    ),
    _sets("destinations_ca_file", "DESTINATIONS_CA_FILE", rules.ca_file(), yaml="destinations.ca_file"),
    _sets(
        "include_millisecond_timestamp",
        "DESTINATIONS_INCLUDE_MILLISECOND_TIMESTAMP",
        rules.boolean(),
        yaml="destinations.include_millisecond_timestamp",
    ),
    _sets(
        "webhook_header_prefix",
        "DESTINATIONS_WEBHOOK_HEADER_PREFIX",
        rules.header_name(),
        empty="yaml",
        yaml="destinations.webhook.header_prefix",
    ),
    *_header("event_id"),
    *_header("signature"),
    *_header("timestamp"),
    *_header("topic"),
    _sets(
        "webhook_signature_encoding",
        "DESTINATIONS_WEBHOOK_SIGNATURE_ENCODING",
        rules.choice("hex", "base64"),
        yaml="destinations.webhook.signature_encoding",
    ),
    _sets(
        "webhook_signature_algorithm",
        "DESTINATIONS_WEBHOOK_SIGNATURE_ALGORITHM",
        rules.choice("hmac-sha256", "hmac-sha1"),
        yaml="destinations.webhook.signature_algorithm",
    ),
    # The body is kept in the log, whose entries stand in Redis: "unlimited" has a limit here.
    _sets(
        "webhook_max_response_body_bytes",
        "DESTINATIONS_WEBHOOK_MAX_RESPONSE_BODY_BYTES",
        rules.cap(1_048_576),
        yaml="destinations.webhook.max_response_body_bytes",
    ),
    _sets(
        "hookdeck_api_url",
        "DESTINATIONS_HOOKDECK_API_URL",
        rules.base_url(),
        yaml="destinations.hookdeck.api_url",
    ),
    _sets(
        "hookdeck_events_url",
        "DESTINATIONS_HOOKDECK_EVENTS_URL",
        rules.base_url(),
        yaml="destinations.hookdeck.events_url",
    ),
    _sets(
        "kinesis_metadata_in_payload",
        "DESTINATIONS_AWS_KINESIS_METADATA_IN_PAYLOAD",
        rules.boolean(),
        yaml="destinations.aws_kinesis.metadata_in_payload",
    ),
    _sets(
        "eventbridge_source",
        "DESTINATIONS_EVENTBRIDGE_SOURCE",
        rules.text(r"(?!aws\.)[^\x00-\x1f\x7f]{1,256}", "must be 1 to 256 characters that do not begin with aws."),
        yaml="destinations.eventbridge.source",
    ),
]

VARIABLES: tuple[Variable, ...] = (
    *_PROCESS,
    *_EVENTS,
    *_DELIVERY,
    *_STORES,
    *queue_table.VARIABLES,
    *_REQUESTS,
    *settings_unbuilt.IDLE,
    *settings_unbuilt.REFUSED,
)
