"""From a destination's URL to where its requests go: parsed once, its host judged before anything connects.

What stands behind the host goes out byte for byte as it was saved, dot segments, escapes and a lone `?` included:
receivers sign and route by these bytes. Only characters beyond ASCII, which no request line has, are encoded.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import string
import urllib.parse

import msgspec
import yarl

from outpost import errors
from outpost.adapters.egress import guard as egress

MAX_URL_LENGTH = 2048  # characters; longer ones break proxies and log rows

FRAGMENT = errors.Problem(
    "config.url",
    "pattern",
    text="config.url has a fragment, the part from # on, which never reaches a server; leave it out, or write %23"
    " where a # is meant",
)

_SHAPE = re.compile(
    r"(https?)://([^\s\x00-\x1f\x7f/?#]+)([^\s\x00-\x1f\x7f#]*)(?:#[^\s\x00-\x1f\x7f]*)?", re.IGNORECASE
)
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class Endpoint(msgspec.Struct, frozen=True):
    """`url` has a canonical host and neither user nor fragment; `authorization` is what its user meant;
    `refused` if the host is an address that may not be spoken to; `keep_headers` if answers are to have their
    headers; `tenant` is who sends there, on whose account the name is looked up. The rest is worked out of these:
    `literal` if the host is an address, `origin` names the connections that may be used (scheme, host, port, and
    whether they keep headers), `head` is how a request begins: line and Host."""

    url: yarl.URL
    authorization: str | None
    refused: bool
    literal: bool
    tls: bool
    host: str
    port: int
    origin: str
    head: bytes
    keep_headers: bool = False
    tenant: str = ""

    def __repr__(self) -> str:
        return f"Endpoint({self.url.host!r})"


class Parsed(msgspec.Struct, frozen=True):
    """`place` is scheme, user, host and port, with a path of `/`; `target` is what the request line has."""

    place: yarl.URL
    target: str


def parse(text: str) -> Parsed | None:
    """The URL without blanks around it and without a fragment, or None if it is not http or https with a host and
    a port that can exist."""
    text = text.strip()
    found = _SHAPE.fullmatch(text)
    if len(text) > MAX_URL_LENGTH or found is None:
        return None
    scheme, authority, target = found.groups()
    if not target.startswith("/"):
        target = "/" + target
    try:
        url = yarl.URL(f"{scheme.lower()}://{authority}/")
        host, port = url.raw_host, url.port
        target = urllib.parse.quote(target, safe=string.punctuation)
    except ValueError:
        return None
    if not host or not port:
        return None
    return Parsed(url, target) if _is_host(host) else None


def problem(text: str) -> errors.Problem | None:
    """What is wrong with `text` as the URL of a destination that is saved."""
    if parse(text) is None:
        return errors.Problem("config.url", "pattern")
    return FRAGMENT if "#" in text else None


def _is_host(text: str) -> bool:
    if ":" not in text:
        return _NAME.fullmatch(text) is not None
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def judge(text: str, guard: egress.Guard, *, tenant: str = "", keep_headers: bool = False) -> Endpoint:
    """The endpoint of `text` for `tenant`. Raises errors.Invalid if it is no usable URL."""
    parsed = parse(text)
    if parsed is None:
        raise errors.Invalid([errors.Problem("config.url", "pattern")])
    target = parsed.target
    plain = parsed.place.with_user(None)
    authorization = _basic(parsed.place)
    match guard.host(plain.raw_host or ""):
        case egress.Literal(address):
            return _endpoint(plain.with_host(address), target, authorization, tenant, keep_headers, literal=True)
        case egress.Refused():
            return _endpoint(plain, target, authorization, tenant, keep_headers, refused=True)
        case egress.Name():
            return _endpoint(plain, target, authorization, tenant, keep_headers)


def _endpoint(
    url: yarl.URL,
    target: str,
    authorization: str | None,
    tenant: str,
    keep_headers: bool,
    *,
    refused: bool = False,
    literal: bool = False,
) -> Endpoint:
    host, port = url.raw_host, url.port
    assert host
    assert port
    return Endpoint(
        yarl.URL(f"{str(url)[:-1]}{target}", encoded=True),
        authorization,
        refused=refused,
        literal=literal,
        tls=url.scheme == "https",
        host=host,
        port=port,
        origin=f"{url.scheme}://{host}:{port}{' headers' if keep_headers else ''}",
        head=f"POST {target} HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\n".encode("ascii"),
        keep_headers=keep_headers,
        tenant=tenant,
    )


def _basic(url: yarl.URL) -> str | None:
    if url.user is None and url.password is None:
        return None
    pair = f"{url.user or ''}:{url.password or ''}"
    return "Basic " + base64.b64encode(pair.encode()).decode("ascii")
