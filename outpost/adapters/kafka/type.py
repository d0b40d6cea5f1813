"""The Kafka destination type: an event becomes a record of a topic, confirmed by all replicas.

The key comes from a template of the tenant's or is the event's id, the value is the event's data, the metadata are
headers. This file is what needs no library; `kafka_publisher` and what it uses do.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Callable, Mapping

from outpost import errors
from outpost.adapters import base, declared, extras, fields
from outpost.adapters.shared import resources as shared_
from outpost.adapters.shared import templates, trust

TYPE = "kafka"
DEFAULT_PORT = 9092
MOST_PORT = 65_535
MECHANISMS = {"plain": "PLAIN", "scram-sha-256": "SCRAM-SHA-256", "scram-sha-512": "SCRAM-SHA-512"}
NO_LOGIN = "none"
PARTITIONERS = ("fnv1a", "murmur2")  # the first is what is left out
LOGIN = ("username", "password")
TLS = {"on": "true", "true": "true", "false": "false", "": "false"}  # as sent -> as stored
_BROKER = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s\[\]:/@?#]+))(?::([0-9]{1,5}))?")

Broker = tuple[str, int]  # host and port


class Kafka(declared.Declared):
    """The type; see base.Adapter. `trust` is whom TLS believes."""

    # A publisher in use has a connection to each broker that leads a partition it writes to, three as a rule:
    # 14 KB each, 300 KB with TLS (asyncio's buffer). So the most is 270 MB and 900 file descriptors, where most
    # systems give 1,024; a destination that comes after another one's eviction pays two handshakes.
    max_open = 300

    def __init__(self, shared: shared_.Shared, unavailable: str = "") -> None:
        super().__init__(TYPE, shared, unavailable)
        self.trust: Callable[[], ssl.SSLContext] = lambda: trust.plain(shared.settings.destinations_ca_file)

    def completed(
        self, config: dict[str, str], credentials: dict[str, str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Brokers without blanks, `tls` as `true` or `false`."""
        if "brokers" in config:
            config["brokers"] = ",".join(_listed(config["brokers"]))
        tls = config.get("tls", "")
        config["tls"] = TLS.get(tls, tls)
        return config, credentials

    def prepare(self, save: base.Save) -> base.Prepared:
        """Every problem at once: a login is not declared as required, since there is a mechanism without one."""
        config, credentials = self.completed(dict(save.config), dict(save.credentials))
        if found := self._found(config, credentials):
            return base.Prepared(problems=found)
        rotated = save.previous is not None and save.previous.credentials != credentials
        return base.Prepared(config=config, credentials=credentials, rotated=rotated)

    def _found(self, config: Mapping[str, str], credentials: Mapping[str, str]) -> list[errors.Problem]:
        """Beside the declared rules: brokers that are none, a mechanism, a partitioner or a TLS switch that
        does not exist, a template that does not compile, a login without a name or a password."""
        found = fields.check(self.description.config_fields, config, "config")
        if any(_broker(text) is None for text in _listed(config.get("brokers", ""))):
            found.append(errors.Problem("config.brokers", "pattern"))
        if config["tls"] not in TLS.values():
            found.append(errors.Problem("config.tls", "invalid"))
        found += templates.problems(config, "partition_key_template")
        if config.get("partitioner", "") not in {*PARTITIONERS, ""}:
            found.append(errors.Problem("config.partitioner", "invalid"))
        mechanism = config.get("sasl_mechanism", "")
        if mechanism and mechanism not in {*MECHANISMS, NO_LOGIN}:
            found.append(errors.Problem("config.sasl_mechanism", "invalid"))
        if mechanism != NO_LOGIN:
            found += [
                errors.Problem(f"credentials.{key}", "required") for key in LOGIN if not credentials.get(key)
            ]
        return found

    def target(self, destination: base.OpenDestination) -> tuple[str, str | None]:
        """The first broker and the topic; there is no page to show."""
        first = next(iter(_listed(destination.config.get("brokers", ""))), "")
        return f"{first} / {destination.config.get('topic', '')}", None

    async def connect(self, destination: base.OpenDestination) -> base.Publisher:
        """A publisher; opens no connection yet. Raises errors.Invalid where what is stored cannot be used."""
        config, credentials = self.completed(dict(destination.config), dict(destination.credentials))
        if found := self._found(config, credentials):
            raise errors.Invalid(found)
        await self._shared.imported("outpost.adapters.kafka.publisher")
        from outpost.adapters.kafka import partitioners
        from outpost.adapters.kafka import publisher as kafka_publisher
        from outpost.adapters.kafka import wire as kafka_wire  # only here the library is needed

        access = kafka_wire.Access(
            addresses=self._shared.addresses.for_tenant(destination.tenant),
            trust=self.trust() if config["tls"] == "true" else None,
            mechanism=MECHANISMS.get(config["sasl_mechanism"], ""),
            username=credentials.get("username", ""),
            password=credentials.get("password", ""),
            limit_s=self._shared.settings.delivery_timeout_ms / 1000,
        )
        template = config.get("partition_key_template", "")
        brokers = [broker for text in _listed(config["brokers"]) if (broker := _broker(text)) is not None]
        return kafka_publisher.Publisher(
            brokers,
            config["topic"],
            access,
            self._metadata(destination),
            templates.compiled(template) if template else None,
            partitioners.BY_NAME[config.get("partitioner") or PARTITIONERS[0]],
        )


def build(shared: shared_.Shared) -> Kafka:
    """The type; says what to install where the library is missing."""
    return Kafka(shared, extras.missing(TYPE, "aiokafka", "kafka"))


def _listed(brokers: str) -> list[str]:
    """The parts of the comma-separated list that say something."""
    return [text for part in brokers.split(",") if (text := part.strip())]


def _broker(text: str) -> Broker | None:
    """Host and port of `host`, `host:port`, an IPv6 address or `[address]:port`; None if it is none of them.
    Whether the host may be spoken to is judged when it is."""
    try:
        return str(ipaddress.IPv6Address(text)), DEFAULT_PORT
    except ValueError:
        parts = _BROKER.fullmatch(text)
    if parts is None:
        return None
    address, name, port = parts.groups()
    number = int(port) if port else DEFAULT_PORT
    return (address or name, number) if 0 < number <= MOST_PORT else None
