"""gRPC channels to judged addresses, and what their failures mean. Imports grpc, which only some types need.

gRPC is never given a name to resolve: it gets literal addresses, and the name only as what TLS checks and the
request says. A channel shares no connection with another one, tries nothing again, and takes no proxy from the
environment: `grpc.enable_http_proxy` is about `https_proxy` and its kin, the empty list of addresses about
GRPC_ADDRESS_HTTP_PROXY, which the former does not cover.
"""

from __future__ import annotations

import functools
import importlib.resources
import ipaddress
import re
from collections.abc import Sequence

import grpc
import grpc.aio

from outpost.adapters import codes

MAX_ANSWER_BYTES = 262_144  # of one message; the ids of a thousand published ones take some 20 kB
# Of the head and the trailers of one answer, with the text of an error: gRPC refuses ever more of those that are
# between these two sizes, and all beyond the second.
METADATA_BYTES, MAX_METADATA_BYTES = 8_192, 16_384
KEEPALIVE_MS = 60_000  # longer than any call, so that no ping is ever sent; what it does is to switch on the next
UNREAD_MS = (
    10_000  # how long a peer may leave unread what was sent, even of a channel that is closed (TCP_USER_TIMEOUT)
)
IDENTITY_ONLY = 1  # the set of algorithms by which a message may be compressed: bit 0 is not at all

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

# Status -> code, where the status alone decides.
_STATUS = {
    grpc.StatusCode.UNAUTHENTICATED: codes.Code.INVALID_CREDENTIALS,
    grpc.StatusCode.PERMISSION_DENIED: codes.Code.ACCESS_DENIED,
    grpc.StatusCode.NOT_FOUND: codes.Code.TARGET_NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED: codes.Code.THROTTLED,
    grpc.StatusCode.DEADLINE_EXCEEDED: codes.Code.TIMEOUT,
}
_OF_CORE = (
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNKNOWN,
)
# What gRPC's core writes where it is an answer that is too large, or compressed though we said that we take none.
_ANSWER_TOO_LARGE = re.compile(
    r"CLIENT: Received message larger than max|metadata size exceeds|Compression algorithm|decompress|compressed",
    re.IGNORECASE,
)
# What gRPC itself, and Google's front end, write where a message is too large.
_TOO_LARGE = re.compile(r"larger than max|size exceeds|too large|exceeds the (?:maximum|limit)", re.IGNORECASE)
# What gRPC's core writes where there is no connection: it has one status for all of them.
_UNAVAILABLE = (
    (re.compile(r"Connection refused"), codes.Code.CONNECTION_REFUSED),
    (
        re.compile(r"handshake failed|verification check failed|SSL_ERROR|certificate", re.IGNORECASE),
        codes.Code.TLS_ERROR,
    ),
    (re.compile(r"unreachable|No route to host"), codes.Code.NETWORK_UNREACHABLE),
    (re.compile(r"timed out|Timeout"), codes.Code.TIMEOUT),
    (re.compile(r"reset|Socket closed|Broken pipe|GOAWAY|Stream removed"), codes.Code.CONNECTION_RESET),
)


def target(addresses: Sequence[str], port: int) -> str:
    """What gRPC connects to: the first of `addresses` that answers, in their order. Where both sorts are among
    them, the IPv4 ones are written as mapped ones, since a target has one sort."""
    parsed = [ipaddress.ip_address(address) for address in addresses]
    if all(address.version == 4 for address in parsed):
        return "ipv4:" + ",".join(f"{address}:{port}" for address in parsed)
    mapped = [f"::ffff:{address}" if address.version == 4 else str(address) for address in parsed]
    return "ipv6:" + ",".join(f"[{address}]:{port}" for address in mapped)


def plain(addresses: Sequence[str], host: str, port: int, **options: int) -> grpc.aio.Channel:
    """A channel without TLS to `host`, which has `addresses`; `options` as those of `_options`."""
    told = _options(f"{_spelt(host)}:{port}", **options)
    return grpc.aio.insecure_channel(target(addresses, port), options=told)


def secure(
    addresses: Sequence[str],
    host: str,
    port: int,
    roots: bytes | None = None,
    added: bytes = b"",
    **options: int,
) -> grpc.aio.Channel:
    """A channel with TLS to `host`, which has `addresses`. `roots`: PEM, where it is not gRPC's own list;
    `added`: PEM beside it."""
    told = (*_options(_spelt(host), **options), ("grpc.ssl_target_name_override", host))
    return grpc.aio.secure_channel(target(addresses, port), _credentials(roots, added), options=told)


def code_of(status: grpc.StatusCode, text: str) -> codes.Code:
    """The code of a call that failed."""
    if status in _OF_CORE and _ANSWER_TOO_LARGE.search(text):
        return codes.Code.ANSWER_TOO_LARGE
    sized = status in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    if sized and _TOO_LARGE.search(text):
        return codes.Code.MESSAGE_TOO_LARGE
    if status is grpc.StatusCode.UNAVAILABLE:
        return next((code for told, code in _UNAVAILABLE if told.search(text)), codes.Code.ERR)
    return _STATUS.get(status, codes.Code.ERR)


def _options(
    authority: str,
    *,
    max_answer_bytes: int = MAX_ANSWER_BYTES,
    keepalive_ms: int = KEEPALIVE_MS,
    pings_without_data: int = 2,
) -> tuple[tuple[str, str | int], ...]:
    return (
        ("grpc.default_authority", authority),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.address_http_proxy_enabled_addresses", ""),
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.max_receive_message_length", max_answer_bytes),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.compression_enabled_algorithms_bitset", IDENTITY_ONLY),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", UNREAD_MS),
        ("grpc.http2.ping_timeout_ms", UNREAD_MS),
        ("grpc.http2.max_pings_without_data", pings_without_data),
        ("grpc.per_message_decompression", 0),  # a few kilobytes would become any number of them
    )


@functools.lru_cache(maxsize=2)
def _credentials(roots: bytes | None, added: bytes) -> grpc.ChannelCredentials:
    """The roots are always said: for none, gRPC would look into GRPC_DEFAULT_SSL_ROOTS_FILE_PATH."""
    return grpc.ssl_channel_credentials((roots or _bundled()) + added)


def _bundled() -> bytes:
    """The roots that come with gRPC, without the remarks between them: every channel holds a copy."""
    raw = (importlib.resources.files("grpc._cython") / "_credentials" / "roots.pem").read_bytes()
    return b"\n".join(_CERTIFICATE.findall(raw)) + b"\n"


def _spelt(host: str) -> str:
    return f"[{host}]" if ":" in host else host
