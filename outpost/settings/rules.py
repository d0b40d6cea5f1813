"""What a variable is, and how its text becomes a value: a rule for each kind of setting.

A rule parses, or answers `Broken` with the end of a sentence that begins with the variable's name. It knows
neither names nor sources, and never repeats the text, which may be a secret.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal

import msgspec

from outpost.settings import urls

# A topic is stored with every event and compared at every publish; the API's bound for ids and topics.
TOPIC_MAX_BYTES = 255
MAX_PORT = urls.MAX_PORT

HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9])?")
HEADER_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]*")
_SERVICE_LINK = re.compile(r"(?:tcp|udp|sctp)://[^\s/@]*:(?P<port>[0-9]{1,5})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TRUE = frozenset({"true", "t", "1", "yes", "on"})
_FALSE = frozenset({"false", "f", "0", "no", "off"})


class Broken(msgspec.Struct, frozen=True):
    """The text breaks the rule; `must` reads on from the variable's name: "must be ..."."""

    must: str


def _plain(value: Any) -> str:
    return str(value)


class Rule(msgspec.Struct, frozen=True):
    """`parse` gives the value in the field's unit or Broken; `show` prints a value in the variable's unit."""

    parse: Callable[[str], Any]
    show: Callable[[Any], str] = _plain


Empty = Literal["never", "yaml", "always"]


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """One variable. Exactly one of `field` (what it sets), `idle` and `refused` (why not) is given.

    `empty`: whether a value that is there but empty counts: never, from a YAML file, or from there and from
    the environment. `accepted`: the values of a refused variable that say what is true anyway.
    """

    env: str
    yaml: str = ""
    field: str = ""
    rule: Rule | None = None
    secret: bool = False
    empty: Empty = "never"
    idle: str = ""
    refused: str = ""
    accepted: tuple[str, ...] = ()


def boolean() -> Rule:
    """True or false, in the spellings of Go and YAML."""

    def parse(text: str) -> bool | Broken:
        word = text.strip().lower()
        return Broken("must be true or false") if word not in _TRUE | _FALSE else word in _TRUE

    return Rule(parse, lambda value: "true" if value else "false")


def integer(low: int, high: int) -> Rule:
    """A whole number, both ends included."""

    def parse(text: str) -> int | Broken:
        digits = text.strip()
        if not re.fullmatch(r"-?[0-9]{1,18}", digits) or not low <= int(digits) <= high:
            return Broken(f"must be a whole number from {low} to {high}")
        return int(digits)

    return Rule(parse)


def cap(most: int) -> Rule:
    """A whole number up to `most`; 0, which would be no cap at all, is as much as that."""
    number = integer(0, most)

    def parse(text: str) -> int | Broken:
        found: int | Broken = number.parse(text)
        return found or most

    return Rule(parse)


def port() -> Rule:
    """A port of a server. Kubernetes sets `REDIS_PORT=tcp://10.43.0.7:6379` in every pod of a namespace with a
    Service of that name: the port is taken from it."""
    number = integer(1, MAX_PORT)

    def parse(text: str) -> int | Broken:
        link = _SERVICE_LINK.fullmatch(text.strip())
        found: int | Broken = number.parse(link["port"] if link else text)
        return found

    return Rule(parse)


def own_port() -> Rule:
    """A port of ours. The form of Kubernetes is that of some Service, and not where we are to listen."""
    number = integer(1, MAX_PORT)

    def parse(text: str) -> int | Broken:
        if _SERVICE_LINK.fullmatch(text.strip()):
            return Broken(
                f"must be a whole number from 1 to {MAX_PORT}. Kubernetes set this one for a Service of "
                "that name: set it yourself, or enableServiceLinks: false in the pod"
            )
        found: int | Broken = number.parse(text)
        return found

    return Rule(parse)


def fraction() -> Rule:
    """A number from 0 to 1, up to three decimals."""

    def parse(text: str) -> float | Broken:
        thousandths = _milliseconds(text)
        if thousandths is None or thousandths > 1000:
            return Broken("must be a number from 0 to 1")
        return thousandths / 1000

    return Rule(parse, lambda value: f"{value:g}")


def seconds(low: int, high: int, *, zero_means: int | None = None) -> Rule:
    """Seconds, up to three decimals, kept as ms. `zero_means`: the seconds that a published 0 stands for."""

    def parse(text: str) -> int | Broken:
        ms = _milliseconds(text)
        if ms == 0 and zero_means is not None:
            return zero_means * 1000
        if ms is None or not low * 1000 <= ms <= high * 1000:
            return Broken(f"must be a number of seconds from {low} to {high}")
        return ms

    return Rule(parse, _as_seconds)


def seconds_list(low: int, high: int) -> Rule:
    """Seconds with commas between them, kept as ms."""

    def parse(text: str) -> tuple[int, ...] | Broken:
        delays = [_milliseconds(item) for item in _items(text)]
        good = tuple(ms for ms in delays if ms is not None and low * 1000 <= ms <= high * 1000)
        if len(good) != len(delays):
            return Broken(f"must list delays of {low} to {high} seconds with commas between them")
        return good

    return Rule(parse, lambda value: ",".join(map(_as_seconds, value)))


def choice(*names: str, **aliases: str) -> Rule:
    """One of `names`, in any case; `aliases` are accepted spellings of one of them."""

    def parse(text: str) -> str | Broken:
        word = text.strip().lower()
        word = aliases.get(word, word)
        return word if word in names else Broken(f"must be one of {', '.join(names)}")

    return Rule(parse)


def text(pattern: str, must: str, *, strip: bool = True) -> Rule:
    """Text that matches as a whole; `must` says the rule in words."""
    compiled = re.compile(pattern)

    def parse(given: str) -> str | Broken:
        value = given.strip() if strip else given
        return value if compiled.fullmatch(value) else Broken(must)

    return Rule(parse)


def secret() -> Rule:
    """Text taken as it is, blanks included. NUL cannot stand in any of the protocols that carry one."""
    return text(r"[^\x00]+", "must not contain NUL", strip=False)


def topics() -> Rule:
    """Names with commas between them, trimmed, each once, in order. A `*` alone is none: every topic."""

    def parse(given: str) -> tuple[str, ...] | Broken:
        names = tuple(dict.fromkeys(_items(given)))
        if names == ("*",):
            return ()
        if any(_CONTROL.search(name) or len(name.encode()) > TOPIC_MAX_BYTES for name in names):
            return Broken(f"must list topics of at most {TOPIC_MAX_BYTES} bytes without control characters")
        if any("*" in name for name in names):
            return Broken("must list plain topics without * (unset, or * alone, it allows every topic)")
        return names

    return Rule(parse, ",".join)


def cidrs() -> Rule:
    """Networks with commas between them, kept in the spelling of `ipaddress`."""

    def parse(given: str) -> tuple[str, ...] | Broken:
        try:
            return tuple(str(ipaddress.ip_network(item)) for item in _items(given))
        except ValueError:
            return Broken("must list networks such as 10.1.0.0/16, with no bits set behind the prefix")

    return Rule(parse, ",".join)


def hosts() -> Rule:
    """Host names with commas between them, in lower case."""

    def parse(given: str) -> tuple[str, ...] | Broken:
        found = tuple(item.lower() for item in _items(given))
        if all(HOST.fullmatch(item) for item in found):
            return found
        return Broken("must list host names such as broker.internal, without scheme, port or wildcard")

    return Rule(parse, ",".join)


def ca_file() -> Rule:
    """The path of a file with certificates in PEM, which is read to see whether it holds some."""

    def parse(given: str) -> str | Broken:
        path = given.strip()
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except (OSError, ValueError):  # OSError: ssl.SSLError among them
            return Broken("must be a file that can be read and has certificates in PEM")
        return path

    return Rule(parse)


def header_name() -> Rule:
    """The name of a header, or blank, which is kept as "" and means that the header is not sent."""
    return text(rf"(?:{HEADER_NAME.pattern})?", "must be a header name of letters, digits, - and _")


def header_switch() -> Rule:
    """The deprecated way to turn a header off: true is the name "", false says nothing."""

    def parse(given: str) -> str | Broken | None:
        value = boolean().parse(given)
        return value if isinstance(value, Broken) else "" if value else None

    return Rule(parse)


def url(schemes: tuple[str, ...], must: str) -> Rule:
    """A URL of one of these schemes, in any case, with one host; the value is its text."""

    def parse(given: str) -> str | Broken:
        found = urls.parse(given.strip())
        good = found is not None and found.scheme in schemes and len(found.hosts) == 1
        return given.strip() if good else Broken(must)

    return Rule(parse)


def base_url() -> Rule:
    """The http or https URL that paths are put behind, with neither a login nor a query of its own."""
    must = "must be an http or https URL such as https://api.example.com/x, without user, query and / at its end"

    def parse(given: str) -> str | Broken:
        found = urls.parse(given.strip())
        if found is None or found.user is not None or len(found.hosts) != 1:
            return Broken(must)
        shape = re.fullmatch(r"https?://[^?]*[^/?]", given.strip())
        return given.strip() if shape else Broken(must)

    return Rule(parse)


def _items(given: str) -> list[str]:
    return [item.strip() for item in given.split(",") if item.strip()]


def _milliseconds(given: str) -> int | None:
    number = given.strip()
    return int(Decimal(number) * 1000) if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,3})?", number) else None


def _as_seconds(ms: int) -> str:
    whole, rest = divmod(ms, 1000)
    return f"{whole}.{rest:03}".rstrip("0") if rest else str(whole)
