"""What a tenant may save for a webhook, and the life of its secret: made here, replaced with a grace period.

A webhook always has a secret afterwards: where the published server would leave one without, a new one is made.
"""

from __future__ import annotations

import secrets

from outpost import errors
from outpost.adapters import base, fields
from outpost.adapters.http import endpoint
from outpost.adapters.webhook import headers as webhook_headers
from outpost.adapters.webhook import signing

SECRET, PREVIOUS, PREVIOUS_UNTIL = "secret", "previous_secret", "previous_secret_invalid_at"
ROTATE = "rotate_secret"  # asks for a new secret, is never stored
KEPT = (SECRET, PREVIOUS, PREVIOUS_UNTIL)
GRACE_MS = 24 * 3600 * 1000  # how long a replaced secret signs on, unless the request says otherwise
SECRET_BYTES = 32
TRUTHY = frozenset({"true", "1", "on", "yes"})


def new_secret() -> str:
    """`whsec_` and 64 hex digits."""
    return "whsec_" + secrets.token_hex(SECRET_BYTES)


def prepare(save: base.Save, config_fields: list[base.Field]) -> base.Prepared:
    """Checks config and credentials, all problems at once, and completes the credentials."""
    config = dict(save.config)
    if "url" in config:
        config["url"] = config["url"].strip()  # what comes with it from a clipboard
    problems = _check_config(config, config_fields)
    if save.credentials.get(ROTATE, "").lower() in TRUTHY:
        credentials, wrong = _rotate(save)
    elif save.admin:
        credentials, wrong = _set(save)
    else:
        credentials, wrong = _keep(save)
    problems += wrong
    if problems:
        return base.Prepared(problems=problems)
    before = save.previous.credentials.get(SECRET) if save.previous else None
    return base.Prepared(
        config=config,
        credentials=credentials,
        rotated=save.previous is not None and before != credentials[SECRET],
    )


def shown(credentials: dict[str, str], now_ms: int) -> dict[str, str]:
    """Secrets in clear, without a previous one whose time is over."""
    kept = {key: credentials[key] for key in KEPT if credentials.get(key)}
    until_ms = signing.rfc3339_ms(kept.get(PREVIOUS_UNTIL, ""))
    if until_ms is None or now_ms > until_ms:
        return {key: value for key, value in kept.items() if key == SECRET}
    return kept


def _check_config(config: dict[str, str], config_fields: list[base.Field]) -> list[errors.Problem]:
    problems = fields.check(config_fields, config, "config")
    url = config.get("url", "")
    if url and not any(problem.path == "config.url" for problem in problems):
        found = endpoint.problem(url)
        problems += [found] if found is not None else []
    return problems + webhook_headers.parse_custom(config.get("custom_headers", ""))[1]


def _rotate(save: base.Save) -> tuple[dict[str, str], list[errors.Problem]]:
    """The stored secret becomes the previous one; what else the request says of secrets does not count, but for
    the end of the grace period."""
    if save.previous is None:
        return {}, [errors.Problem(f"credentials.{ROTATE}", "invalid")]
    problems = [] if save.admin else _forbidden(save)
    current = save.previous.credentials.get(SECRET, "")
    if not current:
        problems.append(_problem(SECRET, "required"))
    until = (save.requested.get(PREVIOUS_UNTIL) or "") if save.admin else ""
    if until and signing.rfc3339_ms(until) is None:
        problems.append(_problem(PREVIOUS_UNTIL, "pattern"))
    return {
        SECRET: new_secret(),
        PREVIOUS: current,
        PREVIOUS_UNTIL: until or signing.rfc3339(save.now_ms + GRACE_MS),
    }, problems


def _set(save: base.Save) -> tuple[dict[str, str], list[errors.Problem]]:
    """What the API key may do: anything, as long as it fits together."""
    given = {key: save.credentials[key] for key in KEPT if save.credentials.get(key)}
    requested = {key: save.requested[key] for key in KEPT if key in save.requested}
    problems: list[errors.Problem] = []
    if PREVIOUS in requested and not requested[PREVIOUS]:
        given.pop(PREVIOUS, None)
        given.pop(PREVIOUS_UNTIL, None)
    sets_previous = any(requested.get(key) and key in given for key in (PREVIOUS, PREVIOUS_UNTIL))
    # A stored secret is replaced by another one or rotated; without it signatures would change from one event to
    # the next. On create null is the same as nothing.
    taken_away = SECRET in requested and not requested[SECRET] and (save.previous or requested[SECRET] == "")
    if taken_away or (SECRET not in given and sets_previous):
        problems.append(_problem(SECRET, "required"))
    stored = save.previous.credentials if save.previous else {}
    if PREVIOUS_UNTIL not in requested and given.get(PREVIOUS) != stored.get(PREVIOUS):
        given.pop(PREVIOUS_UNTIL, None)  # an end that was meant for another secret
    if PREVIOUS in given:
        given.setdefault(PREVIOUS_UNTIL, signing.rfc3339(save.now_ms + GRACE_MS))
    elif PREVIOUS_UNTIL in given:
        problems.append(_problem(PREVIOUS, "required"))
    if PREVIOUS_UNTIL in given and signing.rfc3339_ms(given[PREVIOUS_UNTIL]) is None:
        problems.append(_problem(PREVIOUS_UNTIL, "pattern"))
    given.setdefault(SECRET, new_secret())
    return given, problems


def _keep(save: base.Save) -> tuple[dict[str, str], list[errors.Problem]]:
    """What a tenant's token may do: nothing, so what is stored stays."""
    stored = save.previous.credentials if save.previous else {}
    kept = {key: stored[key] for key in KEPT if stored.get(key)}
    kept.setdefault(SECRET, new_secret())
    return kept, _forbidden(save)


def _forbidden(save: base.Save) -> list[errors.Problem]:
    """Repeating a stored value is tolerated: clients send back what they were shown."""
    stored = save.previous.credentials if save.previous else {}
    return [
        _problem(key, "forbidden")
        for key in KEPT
        if (asked := save.requested.get(key)) and asked != stored.get(key)
    ]


def _problem(key: str, rule: str) -> errors.Problem:
    return errors.Problem(f"credentials.{key}", rule)
