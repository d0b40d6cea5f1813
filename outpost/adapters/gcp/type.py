"""The Google Cloud Pub/Sub destination type: an event becomes a message, its metadata the attributes.

An `endpoint` is an emulator: no TLS, no token, and no key is asked for. Without one there is only Google, and
nothing that the tenant names is connected to. A key that lacks what signs is saved, as published, and its
deliveries fail with `invalid_credentials`.
"""

from __future__ import annotations

import asyncio
import re
import urllib.parse
from collections.abc import Mapping, Sequence

import msgspec

from outpost import errors
from outpost.adapters import base, codes, declared, extras, fields
from outpost.adapters.gcp import calls as gcp_calls
from outpost.adapters.gcp import key as gcp_key
from outpost.adapters.gcp import publisher as gcp_publisher
from outpost.adapters.shared import resources as shared_
from outpost.adapters.shared import templates, trust
from outpost.domain import delivery

TYPE = "gcp_pubsub"
AUDIENCE = "https://pubsub.googleapis.com/"
GOOGLE = gcp_calls.Service("pubsub.googleapis.com", 443)

TEMPLATE = "ordering_key_template"
PATH = "credentials.service_account_json"
TOPIC = "config.topic must be the name of a topic: a letter and 2 to 254 letters, digits or -._~+% behind it"
PROJECT = "config.topic is in another project than config.project_id"
# https://cloud.google.com/pubsub/docs/pubsub-basics#resource_names; an emulator is less strict
_TOPIC = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}")
_FULL_NAME = re.compile(r"(?:(?:https:)?//pubsub\.googleapis\.com/(?:v1/)?)?projects/([^/\s]+)/topics/([^/\s]+)")
_UNSIGNED = frozenset({"missing_client_email", "missing_private_key"})  # such a key is saved, and signs nothing
_ENDPOINT = re.compile(r"(?:http://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})/?")


class PubSub(declared.Declared):
    """The type; see base.Adapter. `google` is where it is; only a test says another place."""

    # A connection with TLS costs 0.9 MB, most of it the roots, and 7 ms of CPU; without TLS 31 KB and 1 ms. This
    # many hold 180 MB at most, and a destination that had to make room for another one pays the 7 ms again.
    max_open = 200

    def __init__(self, shared: shared_.Shared, google: gcp_calls.Service = GOOGLE) -> None:
        super().__init__(TYPE, shared, extras.missing(TYPE, "google.pubsub_v1", "gcp"))
        self._google = google
        self._library: gcp_calls.Library | None = None

    def completed(
        self, config: dict[str, str], credentials: dict[str, str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Without the blanks that come with pasting; the full name of a topic is taken apart."""
        for key in config.keys() & {"project_id", "topic", "endpoint"}:
            config[key] = config[key].strip()
        full = _FULL_NAME.fullmatch(config.get("topic", ""))
        if full is not None and config.get("project_id", "") in ("", full[1]):
            config["project_id"], config["topic"] = full.groups()
        return config, credentials

    def prepare(self, save: base.Save) -> base.Prepared:
        """As others; an emulator asks for no key."""
        config, credentials = self.completed(dict(save.config), dict(save.credentials))
        found = fields.check(self.description.config_fields, config, "config")
        if not config.get("endpoint"):
            found += fields.check(self.description.credential_fields, credentials, "credentials")
        found = found or self.problems(config, credentials)
        if found:
            return base.Prepared(problems=found)
        rotated = save.previous is not None and save.previous.credentials != credentials
        return base.Prepared(config=config, credentials=credentials, rotated=rotated)

    def problems(self, config: Mapping[str, str], credentials: Mapping[str, str]) -> list[errors.Problem]:
        """The topic and the template; the endpoint, or the key where there is none."""
        found = templates.problems(config, TEMPLATE)
        if _FULL_NAME.fullmatch(config["topic"]):
            found.append(errors.Problem("config.topic", "pattern", text=PROJECT))
        elif "/" in config["topic"] or not (config.get("endpoint") or _TOPIC.fullmatch(config["topic"])):
            found.append(errors.Problem("config.topic", "pattern", text=TOPIC))
        if endpoint := config.get("endpoint"):
            return found if parse_endpoint(endpoint) else [*found, errors.Problem("config.endpoint", "pattern")]
        broken = gcp_key.check(credentials["service_account_json"])
        if set(broken) <= _UNSIGNED:
            return found
        told = [(rule, gcp_key.RULES[rule]) for rule in broken]
        return found + [errors.Problem(PATH, rule, text=text and f"{PATH} {text}") for rule, text in told]

    def target(self, destination: base.OpenDestination) -> tuple[str, str | None]:
        """Project and topic, and the topic's page."""
        project, topic = (destination.config.get(key, "") for key in ("project_id", "topic"))
        page = f"topic/detail/{urllib.parse.quote(topic, safe='')}?project={urllib.parse.quote(project, safe='')}"
        return f"{project}/{topic}", f"https://console.cloud.google.com/cloudpubsub/{page}"

    async def connect(self, destination: base.OpenDestination) -> base.Publisher:
        """A publisher; opens no connection yet. Raises errors.Invalid where the stored endpoint cannot be used."""
        service, tokens = self._google, None
        config, _ = self.completed(dict(destination.config), {})
        if endpoint := config.get("endpoint"):
            parsed = parse_endpoint(endpoint)
            if parsed is None:
                raise errors.Invalid([errors.Problem("config.endpoint", "pattern")])
            service = parsed
        else:
            found = _tokens(destination.credentials.get("service_account_json", ""))
            if isinstance(found, str):
                return Unsigned(codes.failed(codes.Code.INVALID_CREDENTIALS, found))
            tokens = found
        added = trust.added(self._shared.settings.destinations_ca_file) if service.tls else b""
        if added:
            service = msgspec.structs.replace(service, added=added)
        if self._library is None:
            self._library = await asyncio.get_running_loop().run_in_executor(self._shared.threads, gcp_calls.load)
        merger = self._metadata(destination)
        names = self._shared.addresses.for_tenant(destination.tenant)
        template = config.get(TEMPLATE, "")
        return gcp_publisher.Publisher(
            self._library,
            names,
            service,
            tokens,
            config,
            merger,
            templates.compiled(template) if template else None,
            destination.tenant,
        )


class Unsigned:
    """Of a key that signs nothing: every event fails, and Google is not asked. See base.Publisher."""

    max_batch = gcp_publisher.Publisher.max_batch

    def __init__(self, failure: delivery.Failed) -> None:
        self._failure = failure

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        """The same failure for all of them."""
        return [self._failure] * len(batch)

    async def close(self) -> None:
        """Nothing is held."""


def build(shared: shared_.Shared) -> PubSub:
    """The type as the settings want it."""
    return PubSub(shared, GOOGLE)


def parse_endpoint(text: str) -> gcp_calls.Service | None:
    """`host:port` with or without `http://`, or None if it is anything else."""
    found = _ENDPOINT.fullmatch(text)
    if found is None or not 0 < int(found[2]) < 65_536:
        return None
    return gcp_calls.Service(found[1].strip("[]"), int(found[2]), tls=False)


def _tokens(text: str) -> gcp_key.Tokens | str:
    """What signs, or the sentence that says why nothing does."""
    key = gcp_key.parse(text)
    if isinstance(key, gcp_key.Key):
        try:
            return gcp_key.Tokens(key, AUDIENCE)
        except ValueError:
            key = ["invalid_private_key"]
    return "; ".join(f"the service account key {gcp_key.RULES[rule] or 'cannot be read'}" for rule in key)
