"""What each variable that sets something is for, for `docs/configuration.md`.

Units stand in the names of the variables. Those that are accepted without effect or refused say why in `unbuilt`.
"""

from __future__ import annotations

from outpost.settings import queue_table

ABOUT = {
    "SERVICE": "The roles of this process: `all`, `api`, `delivery` or `log`.",
    "WORKERS": "How many processes share `API_PORT`; one uses about one core.",
    "LOG_LEVEL": "What is logged: `debug`, `info`, `warn` (or `warning`) or `error`.",
    "DEPLOYMENT_ID": "Keeps deployments apart that share a Redis and a Postgres.",
    "AES_ENCRYPTION_SECRET": "The secret under which config and credentials are sealed. It must be set and kept.",
    "API_HOST": (
        "The address that the API listens on: every IPv4 one if empty (with embedded stores loopback), `::` for "
        "all of both families."
    ),
    "API_PORT": "The port of the API, and of the health routes in every role.",
    "API_KEY": "The bearer token of clients. It must be set unless `OUTPOST_INSECURE` is.",
    "API_JWT_SECRET": "The secret of tenant tokens, which are not built yet.",
    "API_MAX_BODY_BYTES": "The largest request body; a larger one is answered 413.",
    "API_MAX_BODY_BYTES_IN_FLIGHT": (
        "The bodies of all clients that one process holds at once; beyond it requests are answered 503."
    ),
    "API_MAX_HEAD_BYTES": "The largest head of a request; a larger one is answered 431.",
    "API_MAX_URL_BYTES": "The longest URL; a longer one is answered 414.",
    "API_MAX_HEADERS": "The most headers of a request; more are answered 431.",
    "API_HEAD_TIMEOUT_SECONDS": "The time for the head of a request; then it is answered 408.",
    "API_BODY_TIMEOUT_SECONDS": (
        "The time for the body of a request, to which the next setting adds; then it is answered 408."
    ),
    "API_BODY_MIN_BYTES_PER_SECOND": "How many bytes of a body earn a second more.",
    "API_WRITE_TIMEOUT_SECONDS": (
        "The time in which a client has to take what it was sent; then its connection is closed."
    ),
    "API_KEEP_ALIVE_SECONDS": (
        "How long an idle connection stays open; let it be longer than the load balancer's."
    ),
    "API_MAX_CONNECTIONS": (
        "The most connections of one process, lowered to what its descriptors allow. Beyond it the longest "
        "idle one is closed, or a new one is answered 503; health checks still get their answer."
    ),
    "API_MAX_CONNECTIONS_PER_ADDRESS": (
        "The most connections of one address. A proxy is one address: raise it to `API_MAX_CONNECTIONS` "
        "where all clients come through one."
    ),
    "API_MAX_PAGE_BYTES": (
        "A page of a list ends before the row that would make it larger; its `next` goes on from there."
    ),
    "API_MAX_READ_BYTES_IN_FLIGHT": (
        "The answers to reads of tenants, events and attempts that one process holds at once, half of it "
        "for one client or tenant. Who finds no room within 5 s is answered 503."
    ),
    "API_MAX_PIPELINED_REQUESTS": (
        "How many requests a client may send ahead of their answers; then its connection is closed."
    ),
    "API_UNKNOWN_FIELDS": (
        "What becomes of a request with a field or query parameter that is not known: `refuse` answers 422 and "
        "names it, `ignore` does what the rest says."
    ),
    "OUTPOST_INSECURE": "Lets a server start without an `API_KEY`: everybody is admin.",
    "TOPICS": "The topics that may be published and subscribed to, with commas between them; any if empty or `*`.",
    "TOPICS_ALLOW_WILDCARDS": "Lets destinations subscribe to patterns such as `order.*`.",
    "MAX_DESTINATIONS_PER_TENANT": "How many destinations a tenant may have.",
    "PUBLISH_IDEMPOTENCY_KEY_TTL": "For how long an event id is remembered, in seconds; 180 bytes of Redis each.",
    "IDGEN_TYPE": "The form of ids that are made here: `uuidv4`, `uuidv7` or `nanoid`.",
    "IDGEN_EVENT_PREFIX": "What ids of events begin with.",
    "IDGEN_DESTINATION_PREFIX": "What ids of destinations begin with.",
    "IDGEN_ATTEMPT_PREFIX": "What ids of attempts begin with.",
    "DELIVERY_TIMEOUT_SECONDS": "The deadline of one attempt.",
    "DELIVERY_MAX_CONCURRENCY": "How many sends one process makes at once.",
    "DELIVERY_WATCHDOG_MS": "After how long a task that a dead process held in memory is taken over.",
    "DELIVERY_LEASE_MARGIN_MS": "How much longer than the deadline of an attempt its lease lasts.",
    "RETRY_SCHEDULE": "The delays before each retry, with commas between them, instead of the next two.",
    "RETRY_INTERVAL_SECONDS": "The delay before the first retry; each further one is twice as long.",
    "MAX_RETRY_LIMIT": "How many retries follow a failed first attempt.",
    "RETRY_JITTER": "The part of a delay, from 0 to 1, by which it may be shorter or longer.",
    "RETRY_AFTER_MAX_SECONDS": "The longest `Retry-After` of a receiver that is granted; 0 does not listen to it.",
    "LOG_BATCH_SIZE": "The most rows that one transaction writes to Postgres.",
    "STREAM_RETENTION_SECONDS": "How long events and attempts stay in Redis at least; 20 or more.",
    "REDIS_URL": (
        "Where Redis is, as one URL: `rediss://user:password@host:6379/0` with TLS, `redis://` without, "
        "`unix:///path`; instead of the next ones."
    ),
    "REDIS_HOST": "The host of Redis. It must be set, or `REDIS_URL` or `REDIS_UNIX_SOCKET`.",
    "REDIS_PORT": "The port of Redis; `tcp://host:port`, as Kubernetes sets it, stands for its port.",
    "REDIS_UNIX_SOCKET": "The path of a socket of Redis, instead of host and port.",
    "REDIS_USERNAME": "The user of Redis, where it has users.",
    "REDIS_PASSWORD": "The password of Redis.",
    "REDIS_DATABASE": "The number of the database in Redis.",
    "REDIS_TLS_ENABLED": "Speaks TLS to Redis.",
    "REDIS_TLS_VERIFY": (
        "Verifies the certificate of Redis. `false` is for providers that sign their own, and lets others listen; "
        "a private authority goes into `SSL_CERT_FILE`."
    ),
    "REDIS_DURABILITY": "What is demanded of Redis: see [streams.md](../streams.md#durability).",
    "REDIS_MEMORY_BUDGET_BYTES": "The memory beyond which publish answers 503; 0 stands for 80 % of `maxmemory`.",
    "POSTGRES_URL": "The URL of the Postgres database. It must be set.",
    **queue_table.ABOUT,
    "HTTP_USER_AGENT": "The `User-Agent` of deliveries.",
    "DESTINATIONS_ALLOWED_CIDRS": "Private networks to which deliveries may go, with commas between them.",
    "DESTINATIONS_ALLOWED_HOSTS": "Names that are trusted whatever address they resolve to.",
    "DESTINATIONS_CA_FILE": (
        "A file of authorities (PEM) that TLS to destinations of every type believes beside the system's."
    ),
    "DESTINATIONS_INCLUDE_MILLISECOND_TIMESTAMP": "Adds a time in milliseconds to the metadata of deliveries.",
    "DESTINATIONS_WEBHOOK_HEADER_PREFIX": "What the names of our headers begin with.",
    "DESTINATIONS_WEBHOOK_SIGNATURE_ENCODING": "The encoding of signatures: `hex` or `base64`.",
    "DESTINATIONS_WEBHOOK_SIGNATURE_ALGORITHM": "The algorithm of signatures.",
    "DESTINATIONS_WEBHOOK_MAX_RESPONSE_BODY_BYTES": "How much of an answer an attempt keeps; 0: 1 MiB, the most.",
    "DESTINATIONS_HOOKDECK_API_URL": "Where tokens of `hookdeck` destinations are verified.",
    "DESTINATIONS_HOOKDECK_EVENTS_URL": "Where events of `hookdeck` destinations go.",
    "DESTINATIONS_AWS_KINESIS_METADATA_IN_PAYLOAD": "Puts data and metadata into a record, not the data alone.",
    "DESTINATIONS_EVENTBRIDGE_SOURCE": "The `source` of events on EventBridge.",
}
_HEADERS = {"EVENT_ID": "event id", "SIGNATURE": "signature", "TIMESTAMP": "time", "TOPIC": "topic"}
for _kind, _words in _HEADERS.items():
    ABOUT[f"DESTINATIONS_WEBHOOK_{_kind}_HEADER_NAME"] = (
        f"The name of the header with the {_words}; empty leaves it out."
    )
    ABOUT[f"DESTINATIONS_WEBHOOK_DISABLE_DEFAULT_{_kind}_HEADER"] = (
        f"Leaves out the header with the {_words} (deprecated)."
    )
