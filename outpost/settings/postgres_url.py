"""What `POSTGRES_URL` says: where Postgres is, and which words of its query count.

Providers and drivers write words into it that are theirs. Each is taken, or left out on purpose, or named in the
sentence that refuses the start; none goes to the server as a setting that it would refuse.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from outpost.settings import urls
from outpost.settings.rules import Broken, Rule

MUST = (
    "must be a URL such as postgres://user:password@host:5432/database, "
    "with special characters of user and password percent-encoded (# is %23, / is %2F, ? is %3F, @ is %40)"
)
MAX_CONNECT_TIMEOUT_S = 60
MODES = ("disable", "allow", "prefer", "require", "no-verify", "verify-ca", "verify-full")

# Taken by the driver as they are.
DRIVER = frozenset(
    {"krbsrvname", "gsslib", "passfile", "service", "target_session_attrs", "sslcert", "sslcrl", "sslkey"}
    | {"sslnegotiation", "sslpassword", "sslrootcert", "ssl_min_protocol_version", "ssl_max_protocol_version"}
)
FILES = ("sslcert", "sslcrl", "sslkey", "sslrootcert")
# Left out on purpose: what we do ourselves, what only tunes other drivers, what this driver cannot do.
IGNORED = frozenset(
    # No driver for Python binds channels; sslmode=verify-full is what keeps others from listening.
    {"channel_binding"}
    # Connections are kept alive, and a dead one is found out, in any case.
    | {"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"}
    # Our tables stand in a schema of our own, by DEPLOYMENT_ID.
    | {"schema", "currentSchema"}
    # Pools and statement caches of other drivers: Prisma, pgx, node-postgres, Rails, JDBC, Npgsql.
    | {"connection_limit", "pool_timeout", "socket_timeout", "statement_cache_size", "statement_cache_capacity"}
    | {"description_cache_capacity", "default_query_exec_mode", "pool_max_conns", "pool_min_conns", "pool"}
    | {
        "pool_max_conn_lifetime",
        "pool_max_conn_lifetime_jitter",
        "pool_max_conn_idle_time",
        "pool_health_check_period",
    }
    | {"prepared_statements", "prepareThreshold", "uselibpqcompat", "supa", "workaround", "reconnect"}
    # Of libpq: they choose between things of which we have one.
    | {"client_encoding", "fallback_application_name", "gssencmode", "gssdelegation", "load_balance_hosts"}
    | {"sslcompression", "sslsni", "sslcertmode", "ssl_key_format", "min_protocol_version"}
    | {"max_protocol_version"}
)
_OURS = frozenset(
    {"host", "port", "user", "password", "dbname", "database", "sslmode", "ssl", "sslaccept", "connect_timeout"}
    | {"application_name", "options", "pgbouncer"}
)
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


class PostgresAddress(msgspec.Struct, frozen=True):
    """Where Postgres is and how to speak to it; what is None is left to the driver's defaults.

    `pooled`: the URL says that a connection pooler stands between. `words`: those that the driver takes.
    """

    hosts: tuple[urls.Host, ...]
    user: str | None
    password: str | None
    database: str | None
    mode: str  # one of MODES, or "" where nothing is said
    words: dict[str, str]
    connect_timeout_s: float | None = None
    application_name: str | None = None
    options: str | None = None
    pooled: bool = False

    def __repr__(self) -> str:
        return "PostgresAddress()"


def rule() -> Rule:
    """A URL as libpq and the drivers of other languages take it, several hosts allowed. The value is its text."""

    def of(text: str) -> str | Broken:
        found = parse(text.strip())
        return found if isinstance(found, Broken) else text.strip()

    return Rule(of)


def parse(text: str) -> PostgresAddress | Broken:
    """What the URL says."""
    url = urls.parse(text)
    if url is None or url.scheme not in ("postgres", "postgresql"):
        return Broken(MUST)
    words = url.words
    if unknown := urls.unknown_words(url, DRIVER | IGNORED | _OURS):
        return Broken(unknown)
    hosts = _hosts(url)
    mode = _mode(words)
    timeout = words.get("connect_timeout", "0").strip()
    if hosts is None:
        return Broken("must have hosts and ports that fit together")
    if mode not in (*MODES, ""):
        return Broken(f"must have one of {', '.join(MODES)} as sslmode")
    if not timeout.removeprefix("-").isascii() or not timeout.removeprefix("-").isdigit():
        return Broken("must have a whole number of seconds as connect_timeout")
    if missing := [name for name in FILES if _is_missing(words.get(name, ""))]:
        return Broken(f"must name files that are there: {', '.join(missing)} cannot be read")
    seconds = min(int(timeout[:6]), MAX_CONNECT_TIMEOUT_S)
    return PostgresAddress(
        hosts=hosts,
        user=words.get("user", url.user) or None,
        password=words.get("password", url.password) or None,
        database=words.get("dbname", words.get("database", url.path.removeprefix("/"))) or None,
        mode=mode,
        words={name: value for name, value in words.items() if name in DRIVER and value},
        connect_timeout_s=float(seconds) if seconds > 0 else None,
        application_name=words.get("application_name") or None,
        options=words.get("options") or None,
        pooled=words.get("pgbouncer", "").lower() in _TRUE,
    )


def _hosts(url: urls.Url) -> tuple[urls.Host, ...] | None:
    hosts = url.hosts
    if (named := url.words.get("host", "")) and not hosts:
        hosts = tuple(urls.Host(name) for name in named.split(","))
    if ports := url.words.get("port", ""):
        numbers = [int(port) for port in ports.split(",") if port.isascii() and port.isdigit() and len(port) < 6]
        if len(numbers) != len(ports.split(",")) or not all(0 < number <= urls.MAX_PORT for number in numbers):
            return None
        if not hosts:
            hosts = (urls.Host("localhost"),)
        if len(numbers) == 1:
            numbers *= len(hosts)
        if len(numbers) != len(hosts):
            return None
        hosts = tuple(urls.Host(host.name, host.port or port) for host, port in zip(hosts, numbers, strict=True))
    return hosts


def _mode(words: dict[str, str]) -> str:
    said = words.get("sslmode", "").lower().replace("_", "-")
    if not said and (ssl := words.get("ssl", "").lower()):
        said = "require" if ssl in _TRUE else "disable" if ssl in _FALSE else ssl
    if words.get("sslaccept") == "strict" and said != "verify-ca":
        return "verify-full"
    return "verify-full" if words.get("sslrootcert") == "system" and said != "verify-ca" else said


def _is_missing(file: str) -> bool:
    return bool(file) and file != "system" and not Path(file).is_file()
