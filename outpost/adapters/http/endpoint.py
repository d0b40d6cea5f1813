"""From a destination's URL to where its requests go: parsed once, its host judged before anything connects."""

from __future__ import annotations

import base64
import ipaddress
import re

import msgspec
import yarl

from outpost import errors
from outpost.adapters.egress import guard as egress

MAX_URL_LENGTH = 2048  # characters; longer ones break proxies and log rows

_SHAPE = re.compile(r"https?://[^\s\x00-\x1f\x7f]+")
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


def parse(text: str) -> yarl.URL | None:
    """The URL, or None if it is not http or https with a host and a port that can exist."""
    if len(text) > MAX_URL_LENGTH or not _SHAPE.fullmatch(text):
        return None
    try:
        url = yarl.URL(text)
        host, port = url.raw_host, url.port
    except ValueError:
        return None
    if not host or not port:
        return None
    return url if _is_host(host) else None


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
    url = parse(text)
    if url is None:
        raise errors.Invalid([errors.Problem("config.url", "pattern")])
    plain = url.with_user(None).with_fragment(None)
    authorization = _basic(url)
    match guard.host(url.raw_host or ""):
        case egress.Literal(address):
            return _endpoint(plain.with_host(address), authorization, tenant, keep_headers, literal=True)
        case egress.Refused():
            return _endpoint(plain, authorization, tenant, keep_headers, refused=True)
        case egress.Name():
            return _endpoint(plain, authorization, tenant, keep_headers)


def _endpoint(
    url: yarl.URL,
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
        url,
        authorization,
        refused=refused,
        literal=literal,
        tls=url.scheme == "https",
        host=host,
        port=port,
        origin=f"{url.scheme}://{host}:{port}{' headers' if keep_headers else ''}",
        head=f"POST {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\n".encode("ascii"),
        keep_headers=keep_headers,
        tenant=tenant,
    )


def _basic(url: yarl.URL) -> str | None:
    if url.user is None and url.password is None:
        return None
    pair = f"{url.user or ''}:{url.password or ''}"
    return "Basic " + base64.b64encode(pair.encode()).decode("ascii")
