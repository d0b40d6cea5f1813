"""What a tenant may save for hookdeck: a token of which Hookdeck itself says that it is good.

A token is the base64 of `<source id>:<key>`. Hookdeck is asked about one that is not stored yet; what it says of
the source is kept in the config, where no request can write it.
"""

from __future__ import annotations

import asyncio
import base64
import re

import msgspec

from outpost import errors
from outpost.adapters import base
from outpost.adapters.shared import trust

CREDENTIAL = "token"
NAME, ID = "source_name", "source_id"  # what is kept of the source
MOST_TOKEN = 1_024  # characters; those in use have about a hundred
MOST_NAME = 255  # characters of the name of a source that are kept
MOST_ANSWER_BYTES = 65_536  # of what Hookdeck says of a source: a few hundred
LATER = 429

_ID = re.compile(rb"[A-Za-z0-9_-]{1,128}")  # it becomes a part of two paths
_UNSAID = (
    "credentials.token failed token_verification_failed validation:"
    " Hookdeck could not be reached or did not answer; try again later"
)


class _Source(msgspec.Struct, frozen=True):
    name: str


def source_of(token: str) -> str | None:
    """The id of the source in `token`; None if it is no token. Further colons belong to the key."""
    if len(token) > MOST_TOKEN:
        return None
    try:
        source, colon, _ = base64.b64decode(token, validate=True).partition(b":")
    except ValueError:  # not base64, or not even ASCII
        return None
    return source.decode("ascii") if colon and _ID.fullmatch(source) else None


async def verify(save: base.Save, api_url: str, ca_file: str = "") -> base.Verified:
    """What Hookdeck says of a token that is not the stored one. `ca_file`: see trust.http."""
    token = save.credentials.get(CREDENTIAL, "")
    source = source_of(token)
    if source is None or _stored(save, token):
        return base.NOT_VERIFIED
    try:
        async with asyncio.timeout(base.VERIFY_S):
            name = await _name(f"{api_url}/2025-01-01/sources/{source}/managed/verify", token, ca_file)
    except TimeoutError:
        name = _unverified(_UNSAID)
    if isinstance(name, errors.Problem):
        return base.Verified(problems=[name])
    return base.Verified({NAME: name[:MOST_NAME], ID: source})


def prepare(save: base.Save) -> base.Prepared:
    """The token, and the config with what is known of its source."""
    token = save.credentials.get(CREDENTIAL, "")
    if not token:
        return base.Prepared(problems=[problem("token_required")])
    source = source_of(token)
    if source is None:
        return base.Prepared(problems=[problem("invalid_token_format")])
    stored = _stored(save, token)
    if not stored and save.verified.problems:
        return base.Prepared(problems=save.verified.problems)
    if (
        not stored and save.verified.config.get(ID) != source
    ):  # another one was stored when Hookdeck was to be asked
        return base.Prepared(problems=[_unverified(_UNSAID)])
    known = save.previous.config if stored and save.previous else save.verified.config
    config = {key: value for key, value in save.config.items() if key not in (NAME, ID)}
    config |= {key: known[key] for key in (NAME, ID) if key in known}
    return base.Prepared(config, save.credentials, rotated=save.previous is not None and not stored)


def problem(rule: str) -> errors.Problem:
    """What is wrong with the token, in the published words."""
    return errors.Problem(f"credentials.{CREDENTIAL}", rule)


async def _name(url: str, token: str, ca_file: str) -> str | errors.Problem:
    """What Hookdeck calls the source, or why `token` cannot be saved. The caller ends it at its deadline."""
    import httpx  # takes 100 ms, and few processes save a token

    headers = {"X-Hookdeck-Source-Token": token, "Accept-Encoding": "identity"}
    said = b""
    try:
        async with (
            httpx.AsyncClient(trust_env=False, verify=trust.http(ca_file), timeout=base.VERIFY_S) as http,
            http.stream("GET", url, headers=headers) as answer,
        ):
            if answer.is_client_error and answer.status_code != LATER:
                return _unverified()
            if answer.status_code != httpx.codes.OK:
                return _unverified(_UNSAID)
            async for part in answer.aiter_raw():
                said += part
                if len(said) > MOST_ANSWER_BYTES:
                    return _unverified(_UNSAID)
        return msgspec.json.decode(said, type=_Source).name
    except (httpx.HTTPError, httpx.InvalidURL, msgspec.MsgspecError, UnicodeDecodeError, OSError):
        return _unverified(_UNSAID)


def _stored(save: base.Save, token: str) -> bool:
    return save.previous is not None and save.previous.credentials.get(CREDENTIAL) == token


def _unverified(text: str | None = None) -> errors.Problem:
    return errors.Problem(f"credentials.{CREDENTIAL}", "token_verification_failed", text=text)
