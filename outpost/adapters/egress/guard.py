"""The address guard: whether a destination's host may be spoken to at all.

The host of the parsed URL is judged first, in every spelling that some resolver would take for an address; the
addresses that a name resolves to are judged before a connection is made to one of them. What is not public is
refused unless DESTINATIONS_ALLOWED_CIDRS covers it. Pure: looking names up is `http/names`.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable

import msgspec

from outpost import errors

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

REFUSED_V4 = tuple(
    ipaddress.IPv4Network(n)
    for n in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",  # private
        "100.64.0.0/10",  # carrier NAT; a cloud's metadata service lives at 100.100.100.200
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a cloud's host agent, on a public-looking address
        "169.254.0.0/16",  # link-local, and the metadata service of most clouds
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",
        "198.51.100.0/24",
        "203.0.113.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",  # benchmarking
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")  # the only unicast space given out; all else is special
REFUSED_V6 = tuple(
    ipaddress.IPv6Network(n)
    for n in (
        "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID
        "2001:db8::/32",
        "3fff::/20",  # documentation
        "2002::/16",  # 6to4 hides an IPv4 address
    )
)
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # the only translation that names still resolve to today

MAX_HOST_CHARACTERS = 1_024  # a name has 253 in the form that is looked up
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")
_IDEOGRAPHIC_STOP = "\u3002"


class Literal(msgspec.Struct, frozen=True):
    """The host is this permitted address, spelt canonically."""

    address: str


class Name(msgspec.Struct, frozen=True):
    """The host is a name; what it resolves to is still to be judged."""

    name: str


class Refused(msgspec.Struct, frozen=True):
    """The host is, or resolves to, an address that may not be spoken to."""


Host = Literal | Name | Refused
REFUSED = Refused()


class Guard:
    """The judge. `allowed_cidrs` are networks that are permitted whatever they are, `allowed_hosts` names that are
    trusted whatever they resolve to.

    Raises errors.ConfigurationError for a text that is no network.
    """

    def __init__(self, allowed_cidrs: Iterable[str] = (), allowed_hosts: Iterable[str] = ()) -> None:
        allowed: list[_Network] = []
        problems: list[str] = []
        for cidr in allowed_cidrs:
            try:
                allowed.append(ipaddress.ip_network(cidr.strip(), strict=False))
            except ValueError:
                problems.append(f"DESTINATIONS_ALLOWED_CIDRS: {cidr!r} is not a network such as 10.0.0.0/8")
        if problems:
            raise errors.ConfigurationError(problems)
        self._allowed = tuple(allowed)
        self._hosts = frozenset(host.lower().rstrip(".") for host in allowed_hosts)

    def host(self, host: str) -> Host:
        """What the host part of a URL is, brackets or not. Whatever looks like an address and is none is refused,
        since resolvers disagree on such texts, and so is what is longer than any name: normalising a text takes
        time quadratic in a run of combining marks."""
        if len(host) > MAX_HOST_CHARACTERS:
            return REFUSED
        text = unicodedata.normalize("NFKC", host).replace(_IDEOGRAPHIC_STOP, ".").lower()
        if text.startswith("[") and text.endswith("]"):
            text = text[1:-1]
        if "%" in text:  # an encoded byte or a zone id
            return REFUSED
        if ":" in text:
            return self._judged(_ipv6(text))
        text = text.rstrip(".")
        if not text:
            return REFUSED
        if _NUMBER.fullmatch(text.rpartition(".")[2]):
            return self._judged(_ipv4(text))
        return Name(text)

    def permits(self, address: IPAddress) -> bool:
        """Whether `address` may be spoken to. The IPv4 address inside a mapped or a NAT64 one decides."""
        if any(address in network for network in self._allowed):
            return True
        inner = _inner(address)
        return _public(address) if inner is None else self.permits(inner)

    def trusts(self, name: str) -> bool:
        """Whether the operator lists `name`, as a `Name` has it."""
        return name in self._hosts

    def permits_all(self, addresses: Iterable[str]) -> bool:
        """Whether every one of the resolved `addresses` may be spoken to: one bad answer spoils the name."""
        for text in addresses:
            try:
                address = ipaddress.ip_address(text)
            except ValueError:
                return False
            if not self.permits(address):
                return False
        return True

    def _judged(self, address: IPAddress | None) -> Host:
        if address is None or not self.permits(address):
            return REFUSED
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return Literal(str(mapped or address))  # a machine without IPv6 reaches a mapped address too


def _ipv6(text: str) -> ipaddress.IPv6Address | None:
    try:
        return ipaddress.IPv6Address(text)
    except ValueError:
        return None


def _ipv4(text: str) -> ipaddress.IPv4Address | None:
    """The address as the C library reads it: one to four parts, decimal, 0x hex or 0 octal, the last one filling
    the bytes that are left. https://url.spec.whatwg.org/#concept-ipv4-parser says the same."""
    parts = text.split(".")
    if len(parts) > 4:
        return None
    values: list[int] = []
    for part in parts:
        if not _NUMBER.fullmatch(part):
            return None
        try:
            values.append(_number(part))
        except ValueError:  # a digit that its base does not have, or more digits than int takes
            return None
    *leading, last = values
    if any(value > 0xFF for value in leading) or last >= 256 ** (5 - len(values)):
        return None
    for place, value in enumerate(leading):
        last += value << 8 * (3 - place)
    return ipaddress.IPv4Address(last)


def _number(text: str) -> int:
    if text[:2] in ("0x", "0X"):
        return int(text[2:] or "0", 16)
    return int(text, 8) if text.startswith("0") else int(text)


def _inner(address: IPAddress) -> ipaddress.IPv4Address | None:
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF) if address in NAT64 else None


def _public(address: IPAddress) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        listed = any(address in network for network in REFUSED_V4)
    else:
        listed = address not in PUBLIC_V6 or any(address in network for network in REFUSED_V6)
    return not listed and address.is_global  # the standard library's list as a second opinion
