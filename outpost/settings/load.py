"""Fills `Settings` from the environment, one file and the defaults, and reports every problem at once.

`load` is for a process that is to start, `resolve` for `outpost config list`, which shows what is wrong beside
what is right. Neither connects to anything nor changes the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from outpost import errors
from outpost.settings import RESERVED_HEADERS, Settings, queues, redis_url, unbuilt
from outpost.settings import sources as settings_sources
from outpost.settings import table as settings_table
from outpost.settings.rules import Broken, Variable
from outpost.settings.sources import ConfigFile, Given

# What every webhook may carry, by the key that metadata has for it.
_SYSTEM_HEADERS = {
    "EVENT_ID": ("event-id", "webhook_event_id_header"),
    "SIGNATURE": ("signature", "webhook_signature_header"),
    "TIMESTAMP": ("timestamp", "webhook_timestamp_header"),
    "TOPIC": ("topic", "webhook_topic_header"),
}
# What REDIS_URL comes to where it says nothing of it: a single variable may say more.
_LEFT_OPEN = {("redis_database", 0), ("redis_tls_enabled", False)}
# Longer values are cut where a sentence repeats them.
_SHOWN_CHARACTERS = 40


class Resolved(msgspec.Struct, frozen=True):
    """`settings` has the default wherever the given text is broken; it is to be used only without `problems`.

    `given` and `broken` are by variable name; `unknown` are the keys of the file that mean nothing.
    """

    settings: Settings
    given: dict[str, Given]
    broken: frozenset[str]
    problems: tuple[str, ...]
    unknown: tuple[str, ...]
    file: ConfigFile


def checked(
    environ: Mapping[str, str], config_path: str | None, service: str | None, *, embedded: bool = False
) -> Resolved:
    """As `load`, with all that is known of them."""
    resolved = resolve(environ, config_path, service, embedded=embedded)
    if resolved.problems:
        raise errors.ConfigurationError(list(resolved.problems))
    return resolved


def load(
    environ: Mapping[str, str], config_path: str | None, service: str | None, *, embedded: bool = False
) -> Settings:
    """The settings of this process. `service` is the command line's and must not contradict SERVICE.

    `embedded`: the stores are started by this process, which fills in where they are afterwards. Raises
    ConfigurationError with every problem.
    """
    return checked(environ, config_path, service, embedded=embedded).settings


def later(resolved: Resolved) -> list[str]:
    """A sentence for each thing that is not built yet and whose settings are given, which it names."""
    given = [variable for variable in settings_table.VARIABLES if variable.env in resolved.given]
    return [
        f"{reason}, so these have no effect: {', '.join(names)}"
        for reason in unbuilt.LATER
        if (names := [variable.env for variable in given if variable.idle == reason])
    ]


def resolve(
    environ: Mapping[str, str], config_path: str | None, service: str | None, *, embedded: bool = False
) -> Resolved:
    """What `load` knows, problems included."""
    file = settings_sources.read_file(environ, config_path)
    known = settings_table.VARIABLES
    given = {
        variable.env: found
        for variable in known
        if (found := settings_sources.given(variable, environ, file)) is not None
    }
    values: dict[str, Any] = {}
    problems = list(file.problems)
    broken: set[str] = set()
    for variable in known:
        if variable.env in given and (problem := _take(variable, given[variable.env].text, values)):
            problems.append(problem)
            broken.add(variable.env)
    problems += _take_service(service, values, broken)
    if values.get("retry_schedule_ms"):
        values["retry_max_limit"] = len(values["retry_schedule_ms"])
    problems += _take_redis_url(values, set(given) - broken)
    settings = Settings(**values)
    problems += _missing(settings, broken, embedded=embedded)
    problems += _contradictions(settings, embedded=embedded)
    problems += queues.problems(settings)
    problems += _header_problems(settings, broken)
    names = {variable.env if file.dotenv else variable.yaml for variable in known}
    unknown = tuple(sorted(set(file.values) - names))
    return Resolved(settings, given, frozenset(broken), tuple(problems), unknown, file)


def _take(variable: Variable, text: str, values: dict[str, Any]) -> str:
    """Puts what the text means into `values`; answers the problem with it, or nothing."""
    if variable.refused:
        accepted = text.strip().lower() in {value.lower() for value in variable.accepted}
        return "" if accepted else f"{variable.env} {variable.refused}"
    if variable.rule is None:
        return ""
    value = variable.rule.parse(text)
    if isinstance(value, Broken):
        return f"{variable.env} {value.must}{_not_this(variable, text)}"
    # The first variable of a field wins; None is a deprecated switch that says nothing.
    if variable.field and value is not None:
        values.setdefault(variable.field, value)
    return ""


def _not_this(variable: Variable, text: str) -> str:
    """The text that broke the rule, unless it is a secret or looks like an address that may hold one."""
    if variable.secret or variable.env.endswith("_URL") or "@" in text or "//" in text:
        return ""
    return f", not {text[:_SHOWN_CHARACTERS]!r}"


def _take_service(service: str | None, values: dict[str, Any], broken: set[str]) -> list[str]:
    if not service:
        return []
    rule = next(variable.rule for variable in settings_table.VARIABLES if variable.env == "SERVICE")
    wanted = rule.parse(service) if rule else service
    if isinstance(wanted, Broken):
        return [f"--service {wanted.must}, not {service[:_SHOWN_CHARACTERS]!r}"]
    if "SERVICE" not in broken and values.setdefault("service", wanted) != wanted:
        return [f"SERVICE is {values['service']} and --service is {wanted}: leave one of them out"]
    return []


def _take_redis_url(values: dict[str, Any], given: set[str]) -> list[str]:
    """Puts what REDIS_URL says into the fields of the single variables, which may say the same or what it leaves
    out. Kubernetes sets REDIS_PORT unasked, so that the URL wins over it."""
    said = redis_url.parse(values["redis_url"]) if values.get("redis_url") else {}
    if isinstance(said, Broken):
        return []
    problems = []
    for variable in settings_table.VARIABLES:
        wanted = said.get(variable.field)
        if wanted is None or variable.env == "REDIS_PORT" or variable.env not in given:
            continue
        if values.get(variable.field) != wanted and (variable.field, wanted) not in _LEFT_OPEN:
            problems.append(f"REDIS_URL and {variable.env} must not say different things: leave one of them out")
        else:
            said[variable.field] = values[variable.field]
    values |= said
    return problems


def _missing(settings: Settings, broken: set[str], *, embedded: bool) -> list[str]:
    problems = []
    if not settings.aes_encryption_secret and "AES_ENCRYPTION_SECRET" not in broken:
        problems.append("AES_ENCRYPTION_SECRET must be set: the credentials of destinations are sealed with it")
    serves_api = settings.service in {"all", "api"}
    if serves_api and not settings.api_key and not settings.insecure and "API_KEY" not in broken:
        problems.append("API_KEY must be set; OUTPOST_INSECURE=1 starts an API that is open to everybody")
    if embedded:
        return problems
    located = settings.redis_host or settings.redis_unix_socket
    if not located and not broken & {"REDIS_HOST", "REDIS_UNIX_SOCKET", "REDIS_URL"}:
        problems.append("REDIS_HOST must be set, or REDIS_URL or REDIS_UNIX_SOCKET: there is no default")
    if not settings.postgres_url and "POSTGRES_URL" not in broken:
        problems.append("POSTGRES_URL must be set: there is no default")
    return problems


def _contradictions(settings: Settings, *, embedded: bool) -> list[str]:
    problems = []
    if settings.redis_unix_socket and settings.redis_tls_enabled:
        problems.append("REDIS_TLS_ENABLED must not be true with REDIS_UNIX_SOCKET: nothing leaves the machine")
    if settings.redis_unix_socket and settings.redis_host:
        problems.append("REDIS_HOST and REDIS_UNIX_SOCKET must not both be set: they may name two servers")
    if embedded and settings.service != "all":
        problems.append("SERVICE must be all with embedded stores: one process runs every role")
    return problems


def _header_problems(settings: Settings, broken: set[str]) -> list[str]:
    """Every system header that is sent needs a name of its own that is not reserved."""
    prefix = settings.webhook_header_prefix
    names: dict[str, str] = {}
    for word, (key, field) in _SYSTEM_HEADERS.items():
        variable = f"DESTINATIONS_WEBHOOK_{word}_HEADER_NAME"
        name = getattr(settings, field)
        if variable not in broken and name != "":
            names[variable] = (prefix + key if name is None else name).lower()
    if settings.include_millisecond_timestamp:
        names["DESTINATIONS_INCLUDE_MILLISECOND_TIMESTAMP"] = f"{prefix}timestamp-ms".lower()
    problems = []
    first: dict[str, str] = {}
    for variable, name in names.items():
        if name in RESERVED_HEADERS:
            problems.append(f"{variable} must not be the reserved header {name}")
        elif (other := first.setdefault(name, variable)) != variable:
            problems.append(f"{variable} and {other} must not both be the header {name}")
    return problems
