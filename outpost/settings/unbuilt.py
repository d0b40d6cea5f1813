"""The published variables that set nothing here: accepted without effect, or refused because obeying matters.

What only tunes or decorates is accepted, and `outpost config list` says why it does nothing; what would
change where events come from, where they are kept or what receivers get is refused until it is built.
"""

from __future__ import annotations

from outpost.settings import rules
from outpost.settings.rules import Rule, Variable

# Parts of names whose values may hold a password or a token.
_SECRET_WORDS = (
    "SECRET",
    "PASSWORD",
    "CONNECTION_STRING",
    "CREDENTIALS",
    "SERVER_URL",
    "KEY_ID",
    "DSN",
    "PROXY_URL",
    "HTTP_URL",
    "SOURCE_URL",
)


def _names(env: str, yaml: str | None, names: str) -> list[tuple[str, str]]:
    """Variables that share a prefix, as RABBITMQ_EXCHANGE at mqs.rabbitmq.exchange; None: not in YAML."""
    return [(env + name, "" if yaml is None else yaml + name.lower()) for name in names.split()]


def _idle(reason: str, names: list[tuple[str, str]], rule: Rule | None = None) -> list[Variable]:
    return [Variable(env=env, yaml=yaml, idle=reason, rule=rule, secret=_is_secret(env)) for env, yaml in names]


def _refused(must: str, names: list[tuple[str, str]], *accepted: str) -> list[Variable]:
    return [
        Variable(env=env, yaml=yaml, refused=must, accepted=accepted, secret=_is_secret(env))
        for env, yaml in names
    ]


def _is_secret(env: str) -> bool:
    return any(word in env for word in _SECRET_WORDS)


_PORTAL = "the portal is not built yet"
_ALERTS = "alerts are not built yet"
_OPERATOR_EVENTS = "operator events are not built yet"
_USAGE = "usage data is never sent anywhere"
_OTEL = "OpenTelemetry export is not built yet"
_LOG_QUEUE = "the log is read from its streams and needs no queue"
_CLICKHOUSE = "the log is kept in Postgres"

# Why what whoever sets it may count on has no effect, and will have one.
LATER = (_PORTAL, _ALERTS, _OPERATOR_EVENTS, _OTEL)

IDLE: tuple[Variable, ...] = (
    *_idle("one publish never waits for another: appends are batched", _names("", "", "PUBLISH_MAX_CONCURRENCY")),
    *_idle("each log runner writes one batch at a time, in order", _names("", "", "LOG_MAX_CONCURRENCY")),
    *_idle(
        "a batch is written as soon as the one before it is: none waits for time to pass",
        _names("", "", "LOG_BATCH_THRESHOLD_SECONDS"),
    ),
    *_idle(
        "the scheduler sleeps until the next retry is due",
        _names("", "", "RETRY_POLL_BACKOFF_MS"),
        rules.integer(0, 2**53),
    ),
    *_idle(
        "a lease ends after DELIVERY_TIMEOUT_SECONDS and DELIVERY_LEASE_MARGIN_MS",
        _names("", "", "RETRY_VISIBILITY_TIMEOUT_SECONDS"),
    ),
    *_idle(
        "a delivery is told from its repetition by the log, for ever",
        _names("", "", "DELIVERY_IDEMPOTENCY_KEY_TTL"),
    ),
    *_idle("there is no Gin in here", _names("", "", "GIN_MODE")),
    *_idle("there is no cluster mode yet", _names("REDIS_", "redis.", "DEV_CLUSTER_HOST_OVERRIDE")),
    *_idle(_LOG_QUEUE, _names("RABBITMQ_", "mqs.rabbitmq.", "LOG_QUEUE LOG_DLQ")),
    *_idle(_LOG_QUEUE, _names("AWS_SQS_", "mqs.aws_sqs.", "LOG_QUEUE LOG_DLQ")),
    *_idle(
        _LOG_QUEUE,
        _names("GCP_PUBSUB_", "mqs.gcp_pubsub.", "LOG_TOPIC LOG_SUBSCRIPTION LOG_DLQ_TOPIC LOG_DLQ_SUBSCRIPTION"),
    ),
    *_idle(_LOG_QUEUE, _names("AZURE_SERVICEBUS_", "mqs.azure_servicebus.", "LOG_TOPIC LOG_SUBSCRIPTION")),
    *_idle(_CLICKHOUSE, _names("CLICKHOUSE_", "clickhouse.", "USERNAME PASSWORD DATABASE TLS_ENABLED")),
    *_idle(_CLICKHOUSE, _names("", "", "CLICKHOUSE_LOG_RETENTION_TTL_DAYS")),
    *_idle(
        "the texts of destination types are built in",
        _names("DESTINATIONS_", "destinations.", "METADATA_PATH"),
    ),
    *_idle(
        _PORTAL,
        [
            *_names("PORTAL_", "portal.", "PROXY_URL REFERER_URL REFRESH_URL FAVICON_URL LOGO LOGO_DARK"),
            *_names("PORTAL_", "portal.", "BRAND_COLOR FORCE_THEME DISABLE_OUTPOST_BRANDING"),
            *_names("PORTAL_", "portal.", "ENABLE_DESTINATION_FILTER ENABLE_WEBHOOK_CUSTOM_HEADERS"),
            ("PORTAL_ORGANIZATION_NAME", "portal.org_name"),
        ],
    ),
    *_idle(
        _ALERTS,
        _names(
            "ALERT_",
            "alert.",
            "CONSECUTIVE_FAILURE_COUNT AUTO_DISABLE_DESTINATION EXHAUSTED_RETRIES_WINDOW_SECONDS",
        ),
    ),
    *_idle(
        _OPERATOR_EVENTS,
        [
            *_names("OPERATOR_EVENTS_", "operator_events.", "TOPICS"),
            *_names("OPERATOR_EVENTS_HTTP_", "operator_events.http.", "URL SIGNING_SECRET"),
            *_names(
                "OPERATOR_EVENTS_AWS_SQS_",
                "operator_events.aws_sqs.",
                "QUEUE_URL ACCESS_KEY_ID SECRET_ACCESS_KEY REGION ENDPOINT",
            ),
            *_names(
                "OPERATOR_EVENTS_GCP_PUBSUB_",
                "operator_events.gcp_pubsub.",
                "PROJECT_ID TOPIC_ID CREDENTIALS",
            ),
            *_names("OPERATOR_EVENTS_RABBITMQ_", "operator_events.rabbitmq.", "SERVER_URL EXCHANGE"),
        ],
    ),
    *_idle(_USAGE, _names("", "", "DISABLE_TELEMETRY")),
    *_idle(_USAGE, _names("TELEMETRY_", "telemetry.", "BATCH_SIZE BATCH_INTERVAL HOOKDECK_SOURCE_URL SENTRY_DSN")),
    *_idle(
        _OTEL,
        [
            ("OTEL_SERVICE_NAME", "otel.service_name"),
            *_names("OTEL_", None, "TRACES_EXPORTER METRICS_EXPORTER LOGS_EXPORTER"),
            *_names("OTEL_EXPORTER_OTLP_", None, "ENDPOINT PROTOCOL"),
            *_names("OTEL_EXPORTER_OTLP_TRACES_", None, "ENDPOINT PROTOCOL"),
            *_names("OTEL_EXPORTER_OTLP_METRICS_", None, "ENDPOINT PROTOCOL"),
            *_names("OTEL_EXPORTER_OTLP_LOGS_", None, "ENDPOINT PROTOCOL"),
        ],
    ),
)

_TEMPLATE = "is refused, because templates other than the default are not built yet: unset it"
_WEBHOOK = ("DESTINATIONS_WEBHOOK_", "destinations.webhook.")

REFUSED: tuple[Variable, ...] = (
    *_refused(
        "is refused, because cluster mode is not built yet: unset it and name one server",
        _names("REDIS_", "redis.", "CLUSTER_ENABLED"),
        "false",
        "f",
        "0",
        "no",
        "off",
    ),
    *_refused(
        "is refused, because the log can only be kept in Postgres yet: unset it and set POSTGRES_URL",
        _names("CLICKHOUSE_", "clickhouse.", "ADDR"),
    ),
    *_refused(
        "is refused unless it is default, because standard mode is not built yet: unset it",
        _names(*_WEBHOOK, "MODE"),
        "default",
    ),
    *_refused(
        "is refused, because deliveries through a proxy are not built yet: unset it",
        _names(*_WEBHOOK, "PROXY_URL"),
    ),
    *_refused(_TEMPLATE, _names(*_WEBHOOK, "SIGNATURE_CONTENT_TEMPLATE"), "{{.Body}}"),
    *_refused(_TEMPLATE, _names(*_WEBHOOK, "SIGNATURE_HEADER_TEMPLATE"), 'v0={{.Signatures | join ","}}'),
    *_refused(_TEMPLATE, _names(*_WEBHOOK, "SIGNING_SECRET_TEMPLATE"), "whsec_{{.RandomHex}}"),
)
