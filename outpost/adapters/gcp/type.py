"""The Google Cloud Pub/Sub destination type: an event becomes a message, its metadata the attributes.

An `endpoint` is an emulator: no TLS, no token, and the key is not looked at. Without one there is only Google, and
nothing that the tenant names is connected to.
"""

from __future__ import annotations

import asyncio
import re
import urllib.parse
from collections.abc import Mapping

import msgspec

from outpost import errors
from outpost.adapters import base, declared, extras
from outpost.adapters.gcp import calls as gcp_calls
from outpost.adapters.gcp import key as gcp_key
from outpost.adapters.gcp import publisher as gcp_publisher
from outpost.adapters.shared import resources as shared_
from outpost.adapters.shared import trust

TYPE = "gcp_pubsub"
AUDIENCE = "https://pubsub.googleapis.com/"
GOOGLE = gcp_calls.Service("pubsub.googleapis.com", 443)

_ENDPOINT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


class PubSub(declared.Declared):
    """The type; see base.Adapter. `google` is where it is; only a test says another place."""

    # A connection with TLS costs 0.9 MB, most of it the roots, and 7 ms of CPU; without TLS 31 KB and 1 ms. This
    # many hold 180 MB at most, and a destination that had to make room for another one pays the 7 ms again.
    max_open = 200

    def __init__(self, shared: shared_.Shared, google: gcp_calls.Service = GOOGLE) -> None:
        super().__init__(TYPE, shared, extras.missing(TYPE, "google.pubsub_v1", "gcp"))
        self._google = google
        self._library: gcp_calls.Library | None = None

    def problems(self, config: Mapping[str, str], credentials: Mapping[str, str]) -> list[errors.Problem]:
        """The endpoint, or the key where there is none: an emulator asks for nothing."""
        if endpoint := config.get("endpoint"):
            return [] if parse_endpoint(endpoint) else [errors.Problem("config.endpoint", "pattern")]
        path = "credentials.service_account_json"
        return [
            errors.Problem(path, rule, text=(text := gcp_key.RULES[rule]) and f"{path} {text}")
            for rule in gcp_key.check(credentials["service_account_json"])
        ]

    def target(self, destination: base.OpenDestination) -> tuple[str, str | None]:
        """Project and topic, and the topic's page."""
        project, topic = (destination.config.get(key, "") for key in ("project_id", "topic"))
        page = f"topic/detail/{urllib.parse.quote(topic, safe='')}?project={urllib.parse.quote(project, safe='')}"
        return f"{project}/{topic}", f"https://console.cloud.google.com/cloudpubsub/{page}"

    async def connect(self, destination: base.OpenDestination) -> gcp_publisher.Publisher:
        """A publisher; opens no connection yet. Raises errors.Invalid where what is stored cannot be used."""
        service, tokens = self._google, None
        if endpoint := destination.config.get("endpoint"):
            parsed = parse_endpoint(endpoint)
            if parsed is None:
                raise errors.Invalid([errors.Problem("config.endpoint", "pattern")])
            service = parsed
        else:
            tokens = _tokens(destination.credentials.get("service_account_json", ""))
        added = trust.added(self._shared.settings.destinations_ca_file) if service.tls else b""
        if added:
            service = msgspec.structs.replace(service, added=added)
        if self._library is None:
            self._library = await asyncio.get_running_loop().run_in_executor(self._shared.threads, gcp_calls.load)
        merger = self._metadata(destination)
        names = self._shared.addresses.for_tenant(destination.tenant)
        return gcp_publisher.Publisher(self._library, names, service, tokens, destination.config, merger)


def build(shared: shared_.Shared) -> PubSub:
    """The type as the settings want it."""
    return PubSub(shared, GOOGLE)


def parse_endpoint(text: str) -> gcp_calls.Service | None:
    """`host:port`, or None if it is anything else."""
    found = _ENDPOINT.fullmatch(text)
    if found is None or not 0 < int(found[2]) < 65_536:
        return None
    return gcp_calls.Service(found[1].strip("[]"), int(found[2]), tls=False)


def _tokens(text: str) -> gcp_key.Tokens:
    key = gcp_key.parse(text)
    if isinstance(key, gcp_key.Key):
        try:
            return gcp_key.Tokens(key, AUDIENCE)
        except ValueError:
            key = ["invalid_private_key"]
    raise errors.Invalid([errors.Problem("credentials.service_account_json", rule) for rule in key])
