"""Settings: where values come from, what each variable refuses, and that no secret is ever shown."""

from __future__ import annotations

import io
import itertools
import os
import re

import certifi
import pytest
import rich.console

from outpost import errors
from outpost.cli import config
from outpost.process.roles import delivery as delivery_role
from outpost.settings import SECRET_FIELDS, Settings, queue_table
from outpost.settings import load as settings_load
from outpost.settings import table as settings_table

NEEDED = {
    "API_KEY": "key-of-the-api",
    "AES_ENCRYPTION_SECRET": "aes-hunter2",
    "REDIS_HOST": "localhost",
    "POSTGRES_URL": "postgres://outpost:hunter2@db:5432/outpost",
}
HEADER = "DESTINATIONS_WEBHOOK_{}_HEADER_NAME"
TOPIC_HEADER, EVENT_ID_HEADER = HEADER.format("TOPIC"), HEADER.format("EVENT_ID")
PREFIX = "DESTINATIONS_WEBHOOK_HEADER_PREFIX"
SECRETS = {
    "API_KEY": "hunter2a",
    "API_JWT_SECRET": "hunter2b",
    "AES_ENCRYPTION_SECRET": "hunter2c",
    "REDIS_PASSWORD": "hunter2d",
    "POSTGRES_URL": "postgres://u:hunter2e@db/outpost?sslpassword=hunter2f",
    "RABBITMQ_SERVER_URL": "amqp://u:hunter2g@mq",
    "AWS_SQS_SECRET_ACCESS_KEY": "hunter2h",
    "AWS_SQS_ACCESS_KEY_ID": "hunter2i",
    "AZURE_SERVICEBUS_CONNECTION_STRING": "hunter2j",
    "GCP_PUBSUB_SERVICE_ACCOUNT_CREDENTIALS": "hunter2k",
    "OPERATOR_EVENTS_HTTP_SIGNING_SECRET": "hunter2l",
    "DESTINATIONS_WEBHOOK_PROXY_URL": "http://u:hunter2m@proxy",
    "TELEMETRY_SENTRY_DSN": "https://hunter2n@sentry",
    "CLICKHOUSE_PASSWORD": "hunter2o",
    "REDIS_HOST": "redis://:hunter2p@host",
    "PORTAL_REFERER_URL": "https://u:hunter2q@portal",
}


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """A folder of its own, so that no configuration file of the machine is found."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(given=None, path=None, service=None, **more) -> Settings:
    return settings_load.load(NEEDED | (given or {}), path, service, **more)


def problems(given=None, path=None, service=None, **more) -> list[str]:
    return list(settings_load.resolve(NEEDED | (given or {}), path, service, **more).problems)


def listed(environ, path=None) -> str:
    out = io.StringIO()
    assert config.list_settings(environ, path, out) == 0
    return out.getvalue()


def test_the_needed_variables_are_enough_and_the_rest_has_the_published_defaults():
    assert load() == Settings(
        api_key="key-of-the-api",
        aes_encryption_secret="aes-hunter2",
        redis_host="localhost",
        postgres_url=NEEDED["POSTGRES_URL"],
    )


EXAMPLES = [
    ("SERVICE", "delivery", "service", "delivery"),
    ("WORKERS", "4", "workers", 4),
    ("LOG_LEVEL", "WARN", "log_level", "warn"),
    ("LOG_LEVEL", "trace", "log_level", "debug"),
    ("LOG_LEVEL", "Warning", "log_level", "warn"),
    ("DEPLOYMENT_ID", "eu_1-a", "deployment_id", "eu_1-a"),
    ("AES_ENCRYPTION_SECRET", " blanks count ", "aes_encryption_secret", " blanks count "),
    ("API_HOST", "::", "api_host", "::"),
    ("API_PORT", "8080", "api_port", 8080),
    ("API_KEY", "other", "api_key", "other"),
    ("API_JWT_SECRET", "jwt", "api_jwt_secret", "jwt"),
    ("API_UNKNOWN_FIELDS", "ignore", "api_unknown_fields", "ignore"),
    ("API_MAX_BODY_BYTES", "2048", "api_max_body_bytes", 2048),
    ("API_MAX_BODY_BYTES_IN_FLIGHT", "268435456", "api_max_body_bytes_in_flight", 268_435_456),
    ("API_MAX_HEAD_BYTES", "65536", "api_max_head_bytes", 65_536),
    ("API_MAX_URL_BYTES", "4096", "api_max_url_bytes", 4_096),
    ("API_MAX_HEADERS", "50", "api_max_headers", 50),
    ("API_HEAD_TIMEOUT_SECONDS", "5", "api_head_timeout_ms", 5_000),
    ("API_BODY_TIMEOUT_SECONDS", "60", "api_body_timeout_ms", 60_000),
    ("API_BODY_MIN_BYTES_PER_SECOND", "500", "api_body_min_bytes_per_second", 500),
    ("API_WRITE_TIMEOUT_SECONDS", "10", "api_write_timeout_ms", 10_000),
    ("API_KEEP_ALIVE_SECONDS", "650", "api_keep_alive_ms", 650_000),
    ("API_MAX_CONNECTIONS", "500", "api_max_connections", 500),
    ("API_MAX_CONNECTIONS_PER_ADDRESS", "50", "api_max_connections_per_address", 50),
    ("API_MAX_PAGE_BYTES", "65536", "api_max_page_bytes", 65_536),
    ("API_MAX_READ_BYTES_IN_FLIGHT", "16777216", "api_max_read_bytes_in_flight", 16_777_216),
    ("API_MAX_PIPELINED_REQUESTS", "1", "api_max_pipelined_requests", 1),
    ("OUTPOST_INSECURE", "1", "insecure", True),
    ("TOPICS", " user.created, user.deleted ,,user.created", "topics", ("user.created", "user.deleted")),
    ("TOPICS", " * ", "topics", ()),
    ("TOPICS_ALLOW_WILDCARDS", "true", "topics_allow_wildcards", True),
    ("MAX_DESTINATIONS_PER_TENANT", "3", "max_destinations_per_tenant", 3),
    ("PUBLISH_IDEMPOTENCY_KEY_TTL", "60", "publish_idempotency_ttl_ms", 60_000),
    ("IDGEN_TYPE", "nanoid", "idgen_type", "nanoid"),
    ("IDGEN_EVENT_PREFIX", "evt_", "idgen_event_prefix", "evt_"),
    ("IDGEN_DESTINATION_PREFIX", "des_", "idgen_destination_prefix", "des_"),
    ("IDGEN_ATTEMPT_PREFIX", "att_", "idgen_attempt_prefix", "att_"),
    ("DELIVERY_TIMEOUT_SECONDS", "7", "delivery_timeout_ms", 7_000),
    ("DELIVERY_TIMEOUT_SECONDS", "0.25", "delivery_timeout_ms", 250),
    ("DELIVERY_TIMEOUT_SECONDS", "0", "delivery_timeout_ms", 5_000),
    ("DELIVERY_MAX_CONCURRENCY", "64", "delivery_max_concurrency", 64),
    ("DELIVERY_WATCHDOG_MS", "2000", "delivery_watchdog_ms", 2_000),
    ("DELIVERY_LEASE_MARGIN_MS", "1000", "delivery_lease_margin_ms", 1_000),
    ("RETRY_SCHEDULE", "2, 4,8.5", "retry_schedule_ms", (2_000, 4_000, 8_500)),
    ("RETRY_INTERVAL_SECONDS", "1", "retry_interval_ms", 1_000),
    ("MAX_RETRY_LIMIT", "0", "retry_max_limit", 0),
    ("RETRY_JITTER", "0.25", "retry_jitter", 0.25),
    ("RETRY_AFTER_MAX_SECONDS", "60", "retry_after_max_ms", 60_000),
    ("RETRY_AFTER_MAX_SECONDS", "0", "retry_after_max_ms", 0),
    ("LOG_BATCH_SIZE", "10", "log_batch_size", 10),
    ("STREAM_RETENTION_SECONDS", "20", "stream_retention_ms", 20_000),
    ("REDIS_URL", "redis://localhost", "redis_url", "redis://localhost"),
    ("REDIS_HOST", "::1", "redis_host", "::1"),
    ("REDIS_PORT", "6380", "redis_port", 6380),
    ("REDIS_PORT", "tcp://10.43.0.7:6381", "redis_port", 6381),
    ("REDIS_PORT", "tcp://[fd00::7]:6381", "redis_port", 6381),
    ("REDIS_USERNAME", "outpost", "redis_username", "outpost"),
    ("REDIS_PASSWORD", "p w", "redis_password", "p w"),
    ("REDIS_DATABASE", "2", "redis_database", 2),
    ("REDIS_TLS_ENABLED", "yes", "redis_tls_enabled", True),
    ("REDIS_TLS_VERIFY", "0", "redis_tls_verify", False),
    ("REDIS_DURABILITY", "accept-loss", "redis_durability", "accept-loss"),
    ("REDIS_MEMORY_BUDGET_BYTES", "8589934592", "redis_memory_budget_bytes", 8_589_934_592),
    ("POSTGRES_URL", "postgresql:///o?host=/run", "postgres_url", "postgresql:///o?host=/run"),
    ("HTTP_USER_AGENT", "Acme/2 (hooks)", "http_user_agent", "Acme/2 (hooks)"),
    ("DESTINATIONS_ALLOWED_CIDRS", "10.0.0.0/8, ::1", "destinations_allowed_cidrs", ("10.0.0.0/8", "::1/128")),
    ("DESTINATIONS_ALLOWED_HOSTS", "Broker.internal, b", "destinations_allowed_hosts", ("broker.internal", "b")),
    ("DESTINATIONS_CA_FILE", f" {certifi.where()}\n", "destinations_ca_file", certifi.where()),
    ("DESTINATIONS_INCLUDE_MILLISECOND_TIMESTAMP", "t", "include_millisecond_timestamp", True),
    (PREFIX, "acme-", "webhook_header_prefix", "acme-"),
    (EVENT_ID_HEADER, "X-Id", "webhook_event_id_header", "X-Id"),
    (HEADER.format("SIGNATURE"), "X-Sig", "webhook_signature_header", "X-Sig"),
    (HEADER.format("TIMESTAMP"), "X-Time", "webhook_timestamp_header", "X-Time"),
    (TOPIC_HEADER, "X-Topic", "webhook_topic_header", "X-Topic"),
    ("DESTINATIONS_WEBHOOK_DISABLE_DEFAULT_EVENT_ID_HEADER", "true", "webhook_event_id_header", ""),
    ("DESTINATIONS_WEBHOOK_DISABLE_DEFAULT_SIGNATURE_HEADER", "true", "webhook_signature_header", ""),
    ("DESTINATIONS_WEBHOOK_DISABLE_DEFAULT_TIMESTAMP_HEADER", "true", "webhook_timestamp_header", ""),
    ("DESTINATIONS_WEBHOOK_DISABLE_DEFAULT_TOPIC_HEADER", "false", "webhook_topic_header", None),
    ("DESTINATIONS_WEBHOOK_SIGNATURE_ENCODING", "base64", "webhook_signature_encoding", "base64"),
    ("DESTINATIONS_WEBHOOK_SIGNATURE_ALGORITHM", "hmac-sha1", "webhook_signature_algorithm", "hmac-sha1"),
    ("DESTINATIONS_WEBHOOK_MAX_RESPONSE_BODY_BYTES", "10", "webhook_max_response_body_bytes", 10),
    ("DESTINATIONS_WEBHOOK_MAX_RESPONSE_BODY_BYTES", "0", "webhook_max_response_body_bytes", 1_048_576),
    ("DESTINATIONS_WEBHOOK_MAX_RESPONSE_BODY_BYTES", "1048576", "webhook_max_response_body_bytes", 1_048_576),
    ("DESTINATIONS_HOOKDECK_API_URL", "http://127.0.0.1:1", "hookdeck_api_url", "http://127.0.0.1:1"),
    ("DESTINATIONS_HOOKDECK_EVENTS_URL", "https://e.test/x", "hookdeck_events_url", "https://e.test/x"),
    ("DESTINATIONS_AWS_KINESIS_METADATA_IN_PAYLOAD", "false", "kinesis_metadata_in_payload", False),
    ("DESTINATIONS_EVENTBRIDGE_SOURCE", "acme.events", "eventbridge_source", "acme.events"),
]
BY_ENV = {variable.env: variable for variable in settings_table.VARIABLES}


@pytest.mark.parametrize(("env", "text", "field", "value"), EXAMPLES)
def test_a_variable_sets_its_field(env, text, field, value):
    assert value == getattr(load({env: text}), field)


@pytest.mark.parametrize(("env", "text", "field", "value"), EXAMPLES)
def test_the_same_stands_in_yaml_under_the_published_path(nowhere, env, text, field, value):
    *above, key = BY_ENV[env].yaml.split(".")
    quoted = "'" + text.replace("'", "''") + "'"
    lines = [f"{'  ' * depth}{name}:" for depth, name in enumerate(above)]
    (nowhere / ".outpost.yaml").write_text("\n".join([*lines, f"{'  ' * len(above)}{key}: {quoted}"]))
    environ = {name: given for name, given in NEEDED.items() if name != env}
    assert value == getattr(settings_load.load(environ, None, None), field)


def test_the_examples_leave_no_variable_and_no_field_out():
    shown = {env for env, *_ in EXAMPLES} | {variable.env for variable in queue_table.VARIABLES}
    assert {variable.env for variable in settings_table.VARIABLES if variable.field} - shown == {
        "REDIS_UNIX_SOCKET"
    }
    fields = {variable.field for variable in settings_table.VARIABLES if variable.field}
    assert fields == set(Settings.__struct_fields__)


def test_no_variable_and_no_yaml_path_stands_twice_in_the_table():
    names = [variable.env for variable in settings_table.VARIABLES]
    paths = [variable.yaml for variable in settings_table.VARIABLES if variable.yaml]
    assert len(names) == len(set(names))
    assert len(paths) == len(set(paths))
    kinds = [bool(variable.field) + bool(variable.idle) + bool(variable.refused) for variable in BY_ENV.values()]
    assert set(kinds) == {1}


@pytest.mark.parametrize(
    ("env", "text"),
    [
        *(("SERVICE", "web"), ("LOG_LEVEL", "loud"), ("DEPLOYMENT_ID", "a b"), ("DEPLOYMENT_ID", "a" * 65)),
        *(("API_PORT", "0"), ("API_PORT", "65536"), ("API_PORT", "-1"), ("API_PORT", "x"), ("API_PORT", "1.5")),
        *(("API_HOST", "two hosts"), ("REDIS_PORT", "tcp://10.43.0.7:65536"), ("REDIS_PORT", "http://h:1")),
        *(("API_PORT", "\u0663"), ("API_PORT", "9" * 5000), ("API_MAX_BODY_BYTES", "1")),
        *(("OUTPOST_INSECURE", "maybe"), ("TOPICS", "a,*"), ("TOPICS", "a\tb"), ("TOPICS", "\u00e9" * 128)),
        *(("MAX_DESTINATIONS_PER_TENANT", "0"), ("PUBLISH_IDEMPOTENCY_KEY_TTL", "9.9"), ("IDGEN_TYPE", "ulid")),
        *(("IDGEN_EVENT_PREFIX", "a/b"), ("IDGEN_EVENT_PREFIX", "a" * 65), ("DELIVERY_TIMEOUT_SECONDS", "-1")),
        *(("DELIVERY_TIMEOUT_SECONDS", "301"), ("DELIVERY_TIMEOUT_SECONDS", "1e3"), ("LOG_BATCH_SIZE", "0")),
        *(("DELIVERY_MAX_CONCURRENCY", "0"), ("DELIVERY_WATCHDOG_MS", "0"), ("DELIVERY_LEASE_MARGIN_MS", "0")),
        *(
            ("STREAM_RETENTION_SECONDS", "19.9"),
            ("RETRY_SCHEDULE", "5,0"),
            ("RETRY_SCHEDULE", "5;6"),
            ("RETRY_INTERVAL_SECONDS", "0"),
        ),
        *(("RETRY_JITTER", "1.001"), ("RETRY_JITTER", "-0.1"), ("RETRY_AFTER_MAX_SECONDS", "0.5")),
        *(("RETRY_SCHEDULE", "0.999"), ("RETRY_SCHEDULE", "10000000"), ("RETRY_INTERVAL_SECONDS", "0.9")),
        *(("RETRY_POLL_BACKOFF_MS", "-1"), ("MAX_RETRY_LIMIT", "-1"), ("REDIS_HOST", "host:6379")),
        *(("REDIS_HOST", "two hosts"), ("REDIS_PORT", "tcp"), ("REDIS_UNIX_SOCKET", "relative.sock")),
        *(("REDIS_DATABASE", "-1"), ("REDIS_TLS_ENABLED", "2"), ("REDIS_DURABILITY", "never")),
        *(("POSTGRES_URL", "mysql://db"), ("POSTGRES_URL", "db"), ("HTTP_USER_AGENT", "a\nb")),
        *(("DESTINATIONS_ALLOWED_CIDRS", "10.0.0.1/8"), ("DESTINATIONS_ALLOWED_CIDRS", "localhost")),
        *((PREFIX, "x outpost-"), (PREFIX, "-x"), (TOPIC_HEADER, "x topic"), (TOPIC_HEADER, "x:topic")),
        *((TOPIC_HEADER, "_x"), ("API_KEY", "two words"), ("API_KEY", "k\n"), ("API_KEY", "schl\u00fcssel")),
        *(
            ("DESTINATIONS_WEBHOOK_SIGNATURE_ENCODING", "hexa"),
            ("DESTINATIONS_WEBHOOK_SIGNATURE_ALGORITHM", "md5"),
        ),
        *(
            ("DESTINATIONS_WEBHOOK_MAX_RESPONSE_BODY_BYTES", "-1"),
            ("DESTINATIONS_WEBHOOK_MAX_RESPONSE_BODY_BYTES", "1048577"),
            ("REDIS_CLUSTER_ENABLED", "true"),
        ),
        *(("DESTINATIONS_WEBHOOK_MODE", "standard"), ("DESTINATIONS_WEBHOOK_PROXY_URL", "http://proxy:8080")),
        *(
            ("DESTINATIONS_WEBHOOK_SIGNATURE_CONTENT_TEMPLATE", "{{.EventID}}.{{.Body}}"),
            ("CLICKHOUSE_ADDR", "c:1"),
        ),
        *(("DESTINATIONS_WEBHOOK_SIGNATURE_HEADER_TEMPLATE", "v1={{.Signatures}}"), ("AWS_SQS_REGION", "eu")),
        *(("DESTINATIONS_WEBHOOK_SIGNING_SECRET_TEMPLATE", "{{"), ("RABBITMQ_EXCHANGE", "a\nb")),
        *(("GCP_PUBSUB_PROJECT", "p"), ("AZURE_SERVICEBUS_NAMESPACE", "n"), ("PUBLISH_AWS_SQS_ENDPOINT", "q")),
    ],
)
def test_what_breaks_a_rule_is_one_sentence_that_begins_with_the_variable(env, text):
    (problem,) = problems({env: text})
    assert re.match(rf"{env} (must|is refused)", problem)
    assert len(problem) < 250


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ("REDIS_CLUSTER_ENABLED", "False"),
        ("DESTINATIONS_WEBHOOK_MODE", "default"),
        ("DESTINATIONS_WEBHOOK_SIGNATURE_CONTENT_TEMPLATE", "{{.Body}}"),
        ("RABBITMQ_SERVER_URL", ""),
        ("GIN_MODE", "anything"),
        ("PUBLISH_MAX_CONCURRENCY", "many"),
    ],
)
def test_what_says_the_truth_or_has_no_effect_is_accepted(env, text):
    assert load() == load({env: text})


def test_what_will_have_an_effect_later_is_named_and_nothing_else(nowhere):
    def later(**given: str) -> list[str]:
        return settings_load.later(settings_load.checked(NEEDED | given, None, None))

    assert [] == later(
        GIN_MODE="debug", LOG_MAX_CONCURRENCY="3", DISABLE_TELEMETRY="true", CLICKHOUSE_DATABASE="d"
    )
    assert [] == later(PORTAL_LOGO="")
    named = {
        "the portal is not built yet": ["PORTAL_REFERER_URL", "PORTAL_ORGANIZATION_NAME"],
        "alerts are not built yet": ["ALERT_CONSECUTIVE_FAILURE_COUNT"],
        "operator events are not built yet": ["OPERATOR_EVENTS_TOPICS", "OPERATOR_EVENTS_HTTP_SIGNING_SECRET"],
        "OpenTelemetry export is not built yet": ["OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_ENDPOINT"],
    }
    given = {name: "hunter2" for names in named.values() for name in names}
    expected = [f"{reason}, so these have no effect: {', '.join(names)}" for reason, names in named.items()]
    assert expected == later(**given)
    reasons = {variable.idle for variable in settings_table.VARIABLES if "not built yet" in variable.idle}
    assert reasons == set(named)


def test_every_problem_is_reported_at_once():
    given = {"API_PORT": "x", "RETRY_SCHEDULE": "0", "RABBITMQ_SERVER_URL": "http://q", "REDIS_PORT": "0"}
    with pytest.raises(errors.ConfigurationError) as caught:
        settings_load.load(given, "missing.yaml", "web")
    named = sorted(problem.split()[0] for problem in caught.value.problems)
    assert named == sorted(
        [*given, "AES_ENCRYPTION_SECRET", "API_KEY", "REDIS_HOST", "POSTGRES_URL", "--service", "the"]
    )


def test_a_variable_whose_text_is_broken_is_not_reported_as_missing_too():
    environ = {"API_KEY": "a b", "AES_ENCRYPTION_SECRET": "a\0", "REDIS_HOST": "a:1", "POSTGRES_URL": "db"}
    resolved = settings_load.resolve(environ, None, None)
    assert [problem.split()[0] for problem in resolved.problems] == [
        "AES_ENCRYPTION_SECRET", "API_KEY", "REDIS_HOST", "POSTGRES_URL",
    ]  # fmt: skip


def test_an_empty_api_key_starts_only_an_api_that_is_meant_to_be_open():
    assert [problem.split()[0] for problem in problems({"API_KEY": ""})] == ["API_KEY"]
    assert load({"API_KEY": "", "OUTPOST_INSECURE": "1"}).insecure
    assert load({"API_KEY": ""}, service="delivery").api_key == ""


def test_a_socket_takes_the_place_of_the_redis_host():
    assert load({"REDIS_HOST": "", "REDIS_UNIX_SOCKET": "/run/redis.sock"}).redis_unix_socket == "/run/redis.sock"
    both = problems({"REDIS_UNIX_SOCKET": "/run/redis.sock", "REDIS_TLS_ENABLED": "1"})
    assert [problem.split()[0] for problem in both] == ["REDIS_TLS_ENABLED", "REDIS_HOST"]


def test_embedded_stores_need_no_addresses_but_every_role():
    environ = {"API_KEY": "k", "AES_ENCRYPTION_SECRET": "s"}
    assert settings_load.load(environ, None, None, embedded=True).redis_host == ""
    (problem,) = settings_load.resolve(environ, None, "api", embedded=True).problems
    assert problem.startswith("SERVICE must be all")


def test_the_service_of_the_command_line_must_not_contradict_the_variable():
    assert load(service="log").service == "log"
    assert load({"SERVICE": "log"}, service="log").service == "log"
    (problem,) = problems({"SERVICE": "api"}, service="log")
    assert "SERVICE is api and --service is log" in problem


@pytest.mark.case(31)
@pytest.mark.parametrize("link", ["tcp://10.43.0.7:6379", "tcp://[fd00::7]:6379", " tcp://redis:6379 "])
def test_what_kubernetes_sets_for_a_service_is_no_riddle(link):
    assert 6379 == load({"REDIS_PORT": link}).redis_port
    (problem,) = problems({"API_PORT": link})
    assert re.match("API_PORT must .* Kubernetes .* enableServiceLinks", problem)


@pytest.mark.behaviour(93)
def test_the_policy_of_the_defaults_is_the_published_one():
    """Ten retries after 30 s, doubling: the last comes 8 h 31 min after the first failure."""
    policy = delivery_role.retry_policy(load())
    delays = [policy.delay_ms(n) for n in range(1, 11)]
    assert [0, 30, 90, 210, 450, 930, 1890, 3810, 7650, 15330, 30690] == [
        total // 1000 for total in itertools.accumulate(delays, initial=0)
    ]
    assert policy.delay_ms(11) is None


@pytest.mark.behaviour(92)
@pytest.mark.behaviour(93)
def test_the_policy_is_what_the_variables_say():
    given = {"RETRY_INTERVAL_SECONDS": "1", "MAX_RETRY_LIMIT": "2"}
    assert [1_000, 2_000, None] == [delivery_role.retry_policy(load(given)).delay_ms(n) for n in (1, 2, 3)]
    assert delivery_role.retry_policy(load({"MAX_RETRY_LIMIT": "0"})).delay_ms(1) is None
    given |= {"RETRY_SCHEDULE": "5,7,9"}
    assert [5_000, 7_000, 9_000, None] == [
        delivery_role.retry_policy(load(given)).delay_ms(n) for n in (1, 2, 3, 4)
    ]
    policy = delivery_role.retry_policy(load({"RETRY_JITTER": "0.5", "RETRY_AFTER_MAX_SECONDS": "60"}))
    assert (15_000, 45_000) == (policy.delay_ms(1, chance=0.0), policy.delay_ms(1, chance=1.0))
    assert 60_000 == policy.delay_ms(1, 3_600_000, chance=0.0)
    assert 30_000 == delivery_role.retry_policy(load({"RETRY_AFTER_MAX_SECONDS": "0"})).delay_ms(1, 3_600_000)


@pytest.mark.behaviour(93)
def test_a_retry_schedule_sets_the_limit_to_its_length():
    assert load({"RETRY_SCHEDULE": "2,4", "MAX_RETRY_LIMIT": "9"}).retry_max_limit == 2


# Sources


def test_the_environment_beats_the_file_and_the_file_the_default(nowhere):
    (nowhere / "my.yaml").write_text("api_port: 1000\nlog_batch_size: 7\n")
    settings = load({"API_PORT": "2000"}, "my.yaml")
    assert (settings.api_port, settings.log_batch_size, settings.redis_port) == (2000, 7, 6379)


def test_an_empty_variable_counts_as_not_set(nowhere):
    (nowhere / "my.yaml").write_text("api_port: 1000\n")
    assert load({"API_PORT": ""}, "my.yaml").api_port == 1000


@pytest.mark.parametrize("name", ["CONFIG", "--config"])
def test_the_file_can_be_named_in_the_environment_or_on_the_command_line(nowhere, name):
    (nowhere / ".env").write_text("API_PORT=1\n")
    (nowhere / "my.yaml").write_text("api_port: 1000\n")
    settings = load({"CONFIG": "my.yaml"}) if name == "CONFIG" else load({"CONFIG": "my.yaml"}, "my.yaml")
    assert settings.api_port == 1000


def test_two_different_files_are_a_problem():
    (problem,) = problems({"CONFIG": "a.yaml"}, "b.yaml")
    assert problem.startswith("CONFIG and --config name different files")


def test_without_a_name_the_first_file_of_the_list_is_read(nowhere):
    (nowhere / "config" / "outpost").mkdir(parents=True)
    (nowhere / "config" / "outpost" / ".env").write_text("API_PORT=3\n")
    assert load().api_port == 3
    (nowhere / "config" / "outpost.yaml").write_text("api_port: 2\n")
    assert load().api_port == 2
    (nowhere / ".env").write_text("API_PORT=1\n")
    assert load().api_port == 1


def test_yaml_takes_lists_and_keeps_every_text_as_it_is_written(nowhere):
    text = "topics: [user.created, 'user.deleted']\nretry_schedule:\n- 1\n- 2\napi_key: 0123\nwho: {knows: 1}\n"
    (nowhere / "my.yaml").write_text(text)
    settings = settings_load.load({**NEEDED, "API_KEY": ""}, "my.yaml", None)
    assert settings.topics == ("user.created", "user.deleted")
    assert (settings.retry_schedule_ms, settings.api_key) == ((1000, 2000), "0123")


DOTENV = """
# a comment
export API_PORT = 8080   # behind a value
TOPICS=a,b#c
API_KEY='with$dollar#hash'
REDIS_PASSWORD="a \\"quoted\\" one # no comment"
HTTP_USER_AGENT=Acme Hooks
LOG_BATCH_SIZE=
DESTINATIONS_WEBHOOK_TOPIC_HEADER_NAME=
"""


def test_a_dotenv_file_holds_variables_with_quotes_and_comments(nowhere):
    (nowhere / "my.env").write_text(DOTENV)
    settings = settings_load.load({**NEEDED, "API_KEY": ""}, "my.env", None)
    assert (settings.api_port, settings.topics, settings.api_key) == (8080, ("a", "b#c"), "with$dollar#hash")
    assert settings.redis_password == 'a "quoted" one # no comment'
    assert (settings.http_user_agent, settings.log_batch_size) == ("Acme Hooks", 4000)
    # A sample file lists names with nothing behind them, which is not to turn a header off.
    assert settings.webhook_topic_header is None


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (r'"a\$b"', "a$b"),
        (r'"a\qb"', "aqb"),
        (r'"a\nb"', "a\nb"),
        (r'"a\\nb"', r"a\nb"),
        (r"'a\nb'", r"a\nb"),
        (r"a\nb", r"a\nb"),
        ("a#b # c", "a#b"),
    ],
)
def test_a_dotenv_file_is_read_as_the_published_server_reads_it(nowhere, written, value):
    """It uses joho/godotenv."""
    (nowhere / ".env").write_text(f"REDIS_PASSWORD={written}\n")
    assert value == load().redis_password


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.yaml", b"api_key: *hunter2\n", "is not valid YAML in line 1"),
        ("a.yaml", b"a: [hunter2\nb: c: d\n", "is not valid YAML"),
        ("a.yaml", b"- hunter2\n", "must hold keys and values"),
        ("a.yaml", b"api_key: a\napi_key: hunter2\n", "has the key api_key twice"),
        ("a.yaml", b"topics: [[hunter2]]\n", "has a list at topics"),
        ("a.yaml", b"topics: ['hunter2,b']\n", "has a list at topics"),
        ("a.yaml", b"api_key: \xff\n", "is not UTF-8"),
        ("a.yaml", b"#" * 1_048_577, "is larger than"),
        ("a.env", b"API_KEY='hunter2\n", "is broken in line 1"),
        ("a.env", b"A=1\nhunter2\n", "is broken in line 2"),
        ("a.env", b"API_KEY=${hunter2}\n", "uses ${..} in line 1"),
        (".", None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_problem_that_shows_nothing_of_it(nowhere, name, content, says):
    if content is not None:
        (nowhere / name).write_bytes(content)
    (problem,) = problems(path=name)
    assert says in problem
    assert "hunter2" not in problem


def test_a_yaml_file_that_holds_itself_ends(nowhere):
    (nowhere / "a.yaml").write_text("api_port: 5\na: &a {b: *a, c: 1}\n")
    assert load(path="a.yaml").api_port == 5


# The names of webhook headers


@pytest.mark.behaviour(81)
def test_a_default_header_is_disabled_by_an_empty_or_blank_name(nowhere):
    (nowhere / ".outpost.yaml").write_text('destinations: {webhook: {event_id_header_name: ""}}\n')
    settings = load({TOPIC_HEADER: "", HEADER.format("TIMESTAMP"): "  "})
    assert (settings.webhook_event_id_header, settings.webhook_topic_header) == ("", "")
    assert (settings.webhook_timestamp_header, settings.webhook_signature_header) == ("", None)


def test_in_yaml_a_key_without_a_value_says_nothing(nowhere):
    (nowhere / ".outpost.yaml").write_text("destinations: {webhook: {event_id_header_name: }}\n")
    assert load().webhook_event_id_header is None


@pytest.mark.behaviour(81)
def test_a_blank_prefix_means_none_and_an_empty_one_too_where_it_can_be_written(nowhere):
    assert load({PREFIX: " "}).webhook_header_prefix == ""
    (nowhere / ".outpost.yaml").write_text('destinations: {webhook: {header_prefix: ""}}\n')
    assert load().webhook_header_prefix == ""


def test_the_name_of_a_header_beats_the_deprecated_switch():
    switch = "DESTINATIONS_WEBHOOK_DISABLE_DEFAULT_TOPIC_HEADER"
    assert load({switch: "1", TOPIC_HEADER: "X-Topic"}).webhook_topic_header == "X-Topic"


@pytest.mark.behaviour(81)
@pytest.mark.parametrize("name", ["Content-Type", "content-length", "HOST", "User-Agent", "Connection"])
def test_a_reserved_header_stops_the_start(name):
    (problem,) = problems({TOPIC_HEADER: name})
    assert problem == f"{TOPIC_HEADER} must not be the reserved header {name.lower()}"


@pytest.mark.behaviour(81)
@pytest.mark.parametrize(
    "given",
    [
        {TOPIC_HEADER: "X-Same", EVENT_ID_HEADER: "x-SAME"},
        {TOPIC_HEADER: "X-Outpost-Event-ID"},
        {PREFIX: "acme-", TOPIC_HEADER: "acme-signature"},
        {PREFIX: " ", TOPIC_HEADER: "event-id"},
        {TOPIC_HEADER: "x-outpost-timestamp-ms", "DESTINATIONS_INCLUDE_MILLISECOND_TIMESTAMP": "1"},
    ],
)
def test_two_headers_of_one_name_stop_the_start(given):
    (problem,) = problems(given)
    assert "must not both be the header" in problem


@pytest.mark.behaviour(81)
def test_a_disabled_header_cannot_collide():
    assert load({TOPIC_HEADER: "x-outpost-event-id", EVENT_ID_HEADER: ""}).webhook_event_id_header == ""


# Secrets, and `outpost config list`


def test_no_printed_form_of_the_settings_shows_a_secret():
    settings = Settings(**dict.fromkeys(SECRET_FIELDS, "hunter2"))
    out = io.StringIO()
    rich.console.Console(file=out, width=200).print(settings)
    for text in (repr(settings), str(settings), f"{settings}", out.getvalue()):
        assert "hunter2" not in text
        assert "api_key=<set>" in text
    assert "api_key=''" in repr(Settings())


def test_neither_the_list_nor_a_problem_shows_any_character_of_a_secret():
    shown = listed(SECRETS)
    assert "hunter2" not in shown
    assert not [problem for problem in problems(SECRETS) if "hunter2" in problem]
    for env in ("API_KEY", "API_JWT_SECRET", "AES_ENCRYPTION_SECRET", "REDIS_PASSWORD", "RABBITMQ_SERVER_URL"):
        assert re.search(rf"^{env} +set +env", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgres://u:hunter2@db:5432/outpost", "postgres://u:***@db:5432/outpost"),
        ("postgres://u@db/outpost?password=hunter2", "postgres://u@db/outpost"),
        ("postgres://u:hunter2/x@db/outpost", "(invalid)"),
        ("postgres://u:1?hunter2@db/outpost", "(invalid)"),
        ("postgres://u:1#hunter2@db/outpost", "(invalid)"),
        ("postgres://u:hunt@er2@db/outpost", "(invalid)"),
        ("postgres://[hunter2", "(invalid)"),
    ],
)
def test_the_list_shows_where_postgres_is_without_the_password(url, shown):
    assert re.search(rf"^POSTGRES_URL +{re.escape(shown)} +env$", listed({"POSTGRES_URL": url}), re.MULTILINE)


def test_the_list_names_every_variable_with_value_and_source(nowhere):
    (nowhere / ".outpost.yaml").write_text("log_batch_size: 7\nredis: {prot: 1}\n")
    shown = listed(NEEDED | {"DELIVERY_TIMEOUT_SECONDS": "2.5", "GIN_MODE": "debug", "TOPICS": "a,b"})
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line.strip()}
    assert {variable.env for variable in settings_table.VARIABLES} <= set(lines)
    assert lines["LOG_BATCH_SIZE"][1:] == ["7", "file"]
    assert lines["DELIVERY_TIMEOUT_SECONDS"][1:] == ["2.5", "env"]
    assert lines["API_PORT"][1:] == ["3333", "default"]
    assert lines["TOPICS"][1:] == ["a,b", "env"]
    assert lines["GIN_MODE"][1:5] == ["debug", "env", "no", "effect:"]
    assert "configuration file: .outpost.yaml" in shown
    assert "mean nothing here: redis.prot" in shown
    assert "problem" not in shown


@pytest.mark.parametrize(
    "env",
    [
        *("PUBLISH_MAX_CONCURRENCY", "LOG_MAX_CONCURRENCY", "LOG_BATCH_THRESHOLD_SECONDS"),
        *("RETRY_POLL_BACKOFF_MS", "RETRY_VISIBILITY_TIMEOUT_SECONDS", "DELIVERY_IDEMPOTENCY_KEY_TTL", "GIN_MODE"),
    ],
)
def test_the_list_says_which_variables_have_no_effect_and_why(env):
    assert re.search(rf"^{env} .*no effect: \w+", listed(NEEDED), re.MULTILINE)


def test_the_list_ends_with_the_problems_and_still_succeeds():
    shown = listed({"API_PORT": "x", "CLICKHOUSE_ADDR": "e"})
    assert re.search(r"^API_PORT +\(invalid\) +env", shown, re.MULTILINE)
    assert re.search(r"^CLICKHOUSE_ADDR +e +env +refused", shown, re.MULTILINE)
    assert "6 problem(s)" in shown
    assert shown.index("\n- API_PORT must be") > shown.index("\nTOPICS ")


def test_on_a_terminal_the_list_is_a_table():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    assert config.list_settings(SECRETS, None, out) == 0
    assert "API_PORT" in out.getvalue()
    assert "\x1b[" in out.getvalue()
    assert "hunter2" not in out.getvalue()


def test_the_environment_is_only_read():
    before = dict(os.environ)
    load()
    assert before == dict(os.environ)


@pytest.mark.parametrize("held", [None, b"", b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"])
def test_a_file_of_authorities_is_read_at_the_start(held, tmp_path):
    path = tmp_path / "authorities.pem"
    if held is not None:
        path.write_bytes(held)
    with pytest.raises(errors.ConfigurationError) as refused:
        load({"DESTINATIONS_CA_FILE": str(path)})
    [problem] = [each for each in refused.value.problems if "CA_FILE" in each]
    assert "DESTINATIONS_CA_FILE must be a file that can be read and has certificates in PEM" in problem
