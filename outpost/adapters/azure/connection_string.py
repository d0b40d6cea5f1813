"""The connection string of an Azure Service Bus namespace, read once: where it leads, and what it proves.

The names of its parts are taken in any case, as Microsoft's libraries take them. What is wrong is told by the name
of a rule and a sentence, neither of which repeats any of it.
"""

from __future__ import annotations

import re
import urllib.parse

import msgspec

PORT = 5671  # AMQP over TLS
EMULATOR_PORT = 5672
WEB_PORT = 443  # Azure's templates write it behind the host; nothing speaks plain AMQP there

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")
_SIGNED = ("sr=", "sig=", "se=", "skn=")

RULES = {
    "format": "must be name=value pairs with ; between them",
    "endpoint": "must have Endpoint=sb://<host>/",
    "key": "must have SharedAccessKeyName and SharedAccessKey, or SharedAccessSignature, and not both",
    "signature": "has a SharedAccessSignature that lacks sr, sig, se or skn",
    "entity_path": "has an EntityPath that is not the name of the queue or topic",
}


class Namespace(msgspec.Struct, frozen=True):
    """`host` and `port` are where it listens, `tls` unless it is an emulator. Either `key_name` and `key` are set,
    or `signature`."""

    host: str
    port: int
    tls: bool
    key_name: str
    key: str
    signature: str
    entity: str

    def __repr__(self) -> str:
        return f"Namespace({self.host!r})"

    @property
    def label(self) -> str:
        """What people call it: the first label of the host, or the whole of an address."""
        numeric = ":" in self.host or self.host.rpartition(".")[2].isdigit()
        return self.host if numeric else self.host.partition(".")[0]


def parse(text: str) -> Namespace | str:
    """What `text` says, or the name of the rule (in `RULES`) that it breaks."""
    parts: dict[str, str] = {}
    for part in text.strip().strip(";").split(";"):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            return "format"
        parts[name.strip().lower()] = value.strip()
    tls = parts.get("usedevelopmentemulator", "").lower() != "true"
    place = _place(parts.get("endpoint", ""), tls)
    if place is None:
        return "endpoint"
    key_name, key = parts.get("sharedaccesskeyname", ""), parts.get("sharedaccesskey", "")
    signature = parts.get("sharedaccesssignature", "")
    if bool(key_name) != bool(key) or bool(key) == bool(signature):
        return "key"
    if signature and not _is_signature(signature):
        return "signature"
    return Namespace(*place, tls, key_name, key, signature, parts.get("entitypath", ""))


def _is_signature(text: str) -> bool:
    parts = text.partition(" ")[2].split("&")
    ends = [part[3:] for part in parts if part.startswith("se=")]
    return all(any(part.startswith(name) for part in parts) for name in _SIGNED) and ends[0].isdecimal()


def _place(endpoint: str, tls: bool) -> tuple[str, int] | None:
    try:
        url = urllib.parse.urlsplit(endpoint)
        host, port = url.hostname, url.port
    except ValueError:
        return None
    if url.scheme.lower() != "sb" or not host or not _HOST.fullmatch(host) or url.username is not None:
        return None
    if url.path not in ("", "/") or url.query or url.fragment or port == 0:
        return None
    if tls:
        return host, PORT if port in (None, WEB_PORT) else port
    return host, port or EMULATOR_PORT
