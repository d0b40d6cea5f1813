"""The one reader of settings that are URLs.

It answers parts or None and raises nothing: what raises would carry a part of the text, which may be a password,
and a traceback prints that. Its structs print no values either.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus

import msgspec

MAX_PORT = 65_535
# The password ends at the first character that ends the host: a raw one in it makes the rest no host.
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#\s\x00-\x1f\x7f]*)"
    r"(?P<path>[^?#\s\x00-\x1f\x7f]*)(?P<query>\?[^#\s\x00-\x1f\x7f]*)?"
)
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:@]*))(?::(?P<port>[0-9]{1,5}))?")


class Host(msgspec.Struct, frozen=True):
    """A host, decoded and without brackets, and its port if it has one."""

    name: str
    port: int | None = None

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


class Url(msgspec.Struct, frozen=True):
    """The parts, percent-decoded; `words` are those of the query, the last of each name."""

    scheme: str
    user: str | None
    password: str | None
    hosts: tuple[Host, ...]
    path: str
    words: dict[str, str]

    def __repr__(self) -> str:
        return f"Url({self.scheme})"

    def shown(self) -> str:
        """Scheme, user, hosts and path; a query may hold a password of its own, so it is left out."""
        login = "" if self.user is None else f"{self.user}{'' if self.password is None else ':***'}@"
        return f"{self.scheme}://{login}{','.join(map(str, self.hosts))}{self.path}"


def parse(text: str) -> Url | None:
    """The parts of `text`; None if it is no URL, or one in which a special character of user or password is not
    percent-encoded, so that a part of them would be taken for something else."""
    found = _URL.fullmatch(text)
    if found is None:
        return None
    login, at, places = found["authority"].rpartition("@")
    query = (found["query"] or "")[1:]
    if "@" in login + found["path"] or (not at and "@" in query):
        return None
    hosts, words = _hosts(places), _words(query)
    if hosts is None or words is None:
        return None
    user, colon, password = login.partition(":")
    return Url(
        scheme=found["scheme"].lower(),
        user=unquote(user) if at else None,
        password=unquote(password) if colon else None,
        hosts=hosts,
        path=unquote(found["path"]),
        words=words,
    )


def _hosts(places: str) -> tuple[Host, ...] | None:
    found = [_HOST.fullmatch(place) for place in places.split(",")] if places else []
    hosts = [_host(each) for each in found]
    return tuple(host for host in hosts if host is not None) if None not in hosts else None


def unknown_words(url: Url, known: frozenset[str]) -> str:
    """The end of a sentence that names the words of the query that are not known, or nothing. Only what looks like
    a word is repeated, and nothing with an @ behind it: that may be a part of a password."""
    unknown = sorted(set(url.words) - known)
    if not unknown:
        return ""
    hidden = any("@" in value for value in url.words.values())
    named = [] if hidden else [name for name in unknown if _WORD.fullmatch(name)][:5]
    said = ", ".join(named) or "what is behind the ?"
    return f"must not have words that Outpost does not know: leave out {said}"


def _host(found: re.Match[str] | None) -> Host | None:
    if found is None or not found[0] or int(found["port"] or 0) > MAX_PORT:
        return None
    name = found["v6"] or unquote(found["name"]) or "localhost"
    return Host(name, int(found["port"]) if found["port"] else None)


def _words(query: str) -> dict[str, str] | None:
    pairs = [word.partition("=") for word in query.split("&") if word]
    if not all(name and equals for name, equals, _ in pairs):
        return None
    return {unquote_plus(name): unquote_plus(value) for name, _, value in pairs}
