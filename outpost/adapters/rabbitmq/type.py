"""The rabbitmq destination type: an event becomes a persistent message, published to an exchange under its topic.

Delivered means that the broker has confirmed the message and had a queue for it. The libraries stand in
`rabbitmq_publisher` and `rabbitmq_wire`, which are imported when the first destination connects.
"""

from __future__ import annotations

import re
import ssl
import urllib.parse
from collections.abc import Mapping

import msgspec

from outpost import errors
from outpost.adapters import base, declared, extras
from outpost.adapters.shared import resources as shared_
from outpost.adapters.shared import trust

TYPE = "rabbitmq"
PORT, TLS_PORT = 5672, 5671
LONGEST_NAME_BYTES = 255  # of a virtual host: AMQP's short string
_MOST_PORT = 65_535
_PLACE = re.compile(
    r"""(?P<host> \[ [0-9A-Fa-f:.]+ \] | [^\s:/@?\#\[\]]+ )
        (?: : (?P<port> [0-9]{1,5} ) )?
        (?: / (?P<vhost> [^?\#]* ) )?""",
    re.VERBOSE,
)


class Place(msgspec.Struct, frozen=True):
    """What `server_url` names. `port` is None where it is the protocol's own; `vhost` is decoded."""

    host: str
    port: int | None
    vhost: str


def parse(server_url: str) -> Place | None:
    """`host[:port][/vhost]`, an IPv6 address in brackets, the virtual host percent-encoded as in AMQP URLs; None
    for anything else, such as a scheme, credentials or parameters."""
    found = _PLACE.fullmatch(server_url)
    if found is None:
        return None
    port = int(found["port"]) if found["port"] else None
    vhost = urllib.parse.unquote(found["vhost"] or "") or "/"
    if port == 0 or (port or 0) > _MOST_PORT or len(vhost.encode()) > LONGEST_NAME_BYTES:
        return None
    return Place(found["host"], port, vhost)


class RabbitMQ(declared.Declared):
    """The type; see base.Adapter. `context` takes the place of the system's authorities."""

    # Each is a connection: 40 KB and a file descriptor here, some 130 KB at the broker. What counts are the
    # descriptors: many systems give a process 1,024, and webhooks and stores need theirs.
    max_open = 500

    def __init__(
        self, shared: shared_.Shared, unavailable: str = "", context: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(TYPE, shared, unavailable)
        self._context = context

    def completed(
        self, config: dict[str, str], credentials: dict[str, str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """`tls` is "true" or "false"; a ticked box may say "on", and what is left out is "false"."""
        tls = config.get("tls", "false")
        return {**config, "tls": "true" if tls == "on" else tls}, credentials

    def problems(self, config: Mapping[str, str], credentials: Mapping[str, str]) -> list[errors.Problem]:
        """A server that cannot be parsed, a `tls` that is neither."""
        found = [] if parse(config["server_url"]) else [errors.Problem("config.server_url", "pattern")]
        if config["tls"] not in ("true", "false"):
            found.append(errors.Problem("config.tls", "invalid"))
        return found

    def target(self, destination: base.OpenDestination) -> tuple[str, str | None]:
        """Exchange and topics."""
        return f"{destination.config.get('exchange', '')} -> {', '.join(destination.topics)}", None

    async def connect(self, destination: base.OpenDestination) -> base.Publisher:
        """A publisher; opens no connection yet. Raises errors.Invalid where what is stored cannot be used."""
        await self._shared.imported("outpost.adapters.rabbitmq.publisher")
        from outpost.adapters.rabbitmq import publisher as rabbitmq_publisher
        from outpost.adapters.rabbitmq import wire as rabbitmq_wire

        config = destination.config
        place = parse(config.get("server_url", ""))
        if place is None:
            raise errors.Invalid([errors.Problem("config.server_url", "pattern")])
        tls = config.get("tls") == "true"
        login = rabbitmq_wire.Login(
            host=place.host,
            port=place.port or (TLS_PORT if tls else PORT),
            vhost=place.vhost,
            username=destination.credentials.get("username", ""),
            password=destination.credentials.get("password", ""),
            tls=(self._context or trust.plain(self._shared.settings.destinations_ca_file)) if tls else None,
        )
        return rabbitmq_publisher.Publisher(
            login,
            config.get("exchange", ""),
            self._metadata(destination),
            self._shared.addresses.for_tenant(destination.tenant),
            limit_s=self._shared.settings.delivery_timeout_ms / 1_000,
        )


def build(shared: shared_.Shared) -> RabbitMQ:
    """The type as the settings want it."""
    return RabbitMQ(shared, extras.missing(TYPE, "aiormq", "rabbitmq"))
