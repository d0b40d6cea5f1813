"""What `REDIS_URL` says, in the forms of redis-py, go-redis and the providers: `redis://`, `rediss://` with TLS,
and `unix://` with the path of a socket."""

from __future__ import annotations

from typing import Any

from outpost.settings import urls
from outpost.settings.rules import Broken, Rule

MUST = (
    "must be a URL such as rediss://user:password@host:6379/0, redis:// without TLS or unix:///path, "
    "with special characters of user and password percent-encoded (# is %23, / is %2F, @ is %40)"
)
PORT = 6379
_MAX_DATABASE = 9_999
# They tune other clients; none changes which server is meant or how it is spoken to.
IGNORED = frozenset(
    {
        "protocol",
        "family",
        "timeout",
        "socket_timeout",
        "socket_connect_timeout",
        "socket_keepalive",
        "client_name",
    }
    | {"health_check_interval", "retry_on_timeout", "max_connections", "pool_size", "pool_timeout", "dial_timeout"}
    | {"read_timeout", "write_timeout", "min_idle_conns", "max_retries", "decode_responses", "socket_keepalive"}
)
_KNOWN = frozenset({"db", "ssl_cert_reqs", "skip_verify"})
_UNVERIFIED = {"ssl_cert_reqs": ("none", "cert_none"), "skip_verify": ("true", "1")}


def rule() -> Rule:
    """The value is the text of the URL."""

    def of(text: str) -> str | Broken:
        found = parse(text.strip())
        return found if isinstance(found, Broken) else text.strip()

    return Rule(of)


def parse(text: str) -> dict[str, Any] | Broken:
    """The fields of Settings that the URL says, by their names."""
    url = urls.parse(text)
    if url is None or url.scheme not in ("redis", "rediss", "unix"):
        return Broken(MUST)
    if unknown := urls.unknown_words(url, IGNORED | _KNOWN):
        return Broken(unknown)
    socket = url.scheme == "unix"
    database = url.words.get("db", "" if socket else url.path.strip("/")) or "0"
    if not database.isascii() or not database.isdigit() or len(database) > 4 or int(database) > _MAX_DATABASE:
        return Broken("must end in the number of a database, such as /0")
    said: dict[str, Any] = {"redis_database": int(database)}
    if url.user:
        said["redis_username"] = url.user
    if url.password:
        said["redis_password"] = url.password
    if socket:
        return (
            said | {"redis_unix_socket": url.path} if url.path.startswith("/") and not url.hosts else Broken(MUST)
        )
    if len(url.hosts) != 1:
        return Broken(MUST)
    if any(url.words.get(word, "").lower() in values for word, values in _UNVERIFIED.items()):
        said["redis_tls_verify"] = False
    host = url.hosts[0]
    return said | {
        "redis_host": host.name,
        "redis_port": host.port or PORT,
        "redis_tls_enabled": url.scheme == "rediss",
    }
