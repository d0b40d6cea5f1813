"""Which values of a destination are secret: what must not come back to us in a receiver's answer.

Of the credentials, what the type declares sensitive or does not declare. Of the config, what it declares
sensitive; of every URL the user, the password and the values of the query; of every JSON object of text, which is
how custom headers are saved, the values; of a field `url`, the parts of the path that look like tokens. Of the
delivery metadata, what its name gives away. A value that has parts (`Bearer ..`, a connection string, a key file)
is taken whole and in parts.
"""

from __future__ import annotations

import base64
import re
import urllib.parse
from collections.abc import Iterable, Iterator

import msgspec
import yarl

from outpost.adapters import base

MAX_PARTS_BYTES = 65_536  # a value that is longer is not taken apart

# What the names of secret parts have in them: of a key file, a connection string, delivery metadata.
_SECRET_NAMES = ("auth", "cookie", "credential", "key", "pass", "secret", "session", "signature", "token")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HEX_TOKEN_LENGTH = 32
_TOKEN_LENGTH = 20
_SEPARATORS = re.compile(r"[\s;,]+")

_decode_texts = msgspec.json.Decoder(dict[str, str]).decode
_decode_object = msgspec.json.Decoder(dict[str, object]).decode


def of(description: base.DestinationType, destination: base.OpenDestination) -> set[str]:
    """The secrets of `destination`, whose type is described by `description`, short and common ones included."""
    found: set[str] = set()
    plain = {field.key for field in description.credential_fields if not field.sensitive}
    for key, value in destination.credentials.items():
        if key not in plain:
            found.update(_credential(value))
    sensitive = {field.key for field in description.config_fields if field.sensitive}
    for key, value in destination.config.items():
        if key in sensitive:
            found.update(_credential(value))
        elif len(value) <= MAX_PARTS_BYTES:
            found.update(_url_parts(value) if _URL.match(value) else _header_values(value))
            if key == "url":
                found.update(_path_tokens(value))
        elif value.lstrip().startswith("{"):
            found.add(value)  # as it is too long to be taken apart, so is the sum of all: no text is kept
    for name, value in destination.delivery_metadata.items():
        if _sounds_secret(name):
            found.update(_header_value(value))
    found.discard("")
    return found


def _credential(value: str) -> Iterator[str]:
    yield value
    if len(value) > MAX_PARTS_BYTES:
        return
    yield from _url_parts(value) if _URL.match(value) else ()
    yield from _named(_key_file(value) if value.lstrip().startswith("{") else _connection_string(value))


def _named(parts: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, value in parts:
        if _sounds_secret(name):
            yield value


def _sounds_secret(name: str) -> bool:
    """Whether values of that name are secret; the name of a key is not."""
    lowered = name.lower()
    return lowered == "sig" or (not lowered.endswith("name") and any(word in lowered for word in _SECRET_NAMES))


def _key_file(value: str) -> Iterator[tuple[str, str]]:
    """The texts of a JSON object, such as Google's key files."""
    try:
        parsed = _decode_object(value)
    except (ValueError, RecursionError):
        return
    for name, part in parsed.items():
        if isinstance(part, str):
            yield name, part


def _connection_string(value: str) -> Iterator[tuple[str, str]]:
    """The parts of `name=value;..`, and of signatures in them, which are queries."""
    for part in value.split(";"):
        name, equals, rest = part.partition("=")
        if equals:
            yield name.strip(), rest.strip()
            for inner in rest.partition(" ")[2].split("&"):
                yield inner.partition("=")[0], inner.partition("=")[2]
                yield inner.partition("=")[0], urllib.parse.unquote(inner.partition("=")[2])


def _header_values(value: str) -> Iterator[str]:
    """Every value of a JSON object of text; nothing of any other text."""
    if not value.lstrip().startswith("{"):
        return
    try:
        headers = _decode_texts(value)
    except (ValueError, RecursionError):
        return
    for header in headers.values():
        yield from _header_value(header)


def _header_value(value: str) -> Iterator[str]:
    """The value, what stands behind a scheme (`Bearer ..`), what is assigned in it (as in a Cookie), and what a
    Basic login encodes."""
    yield value
    scheme, _, rest = value.strip().partition(" ")
    yield rest
    for part in _SEPARATORS.split(value):
        yield part.partition("=")[2].strip('"')
    if scheme.lower() == "basic":
        try:
            login = base64.b64decode(rest + "=" * (-len(rest) % 4)).decode("utf-8", "replace")
        except ValueError:
            return
        yield from _login(*login.partition(":")[::2])


def _url_parts(text: str) -> Iterator[str]:
    """What is secret in a URL, in its own spelling, in that of the request, and decoded."""
    for spelt in {text, _as_sent(text)}:
        try:
            url = urllib.parse.urlsplit(spelt)
            user, password = url.username, url.password
        except ValueError:
            continue
        if user or password:
            yield from _login(urllib.parse.unquote(user or ""), urllib.parse.unquote(password or ""))
            yield from (user or "", password or "", url.netloc.rpartition("@")[0])
        for part in (*url.query.split("&"), *url.fragment.split("&")):
            yield from _decoded(part.partition("=")[2] or part)


def _path_tokens(text: str) -> Iterator[str]:
    for spelt in {text, _as_sent(text)}:
        for segment in spelt.partition("?")[0].partition("#")[0].split("/")[3:]:
            if _looks_like_a_token(segment):
                yield from _decoded(segment)


def _as_sent(text: str) -> str:
    try:
        return str(yarl.URL(text))
    except ValueError:
        return text


def _decoded(text: str) -> Iterator[str]:
    yield text
    yield urllib.parse.unquote(text)
    yield urllib.parse.unquote_plus(text)


def _login(user: str, password: str) -> Iterator[str]:
    """Both, the two together, and what HTTP's Basic scheme (RFC 7617) makes of them."""
    pair = f"{user}:{password}"
    encoded = base64.b64encode(pair.encode("utf-8", "replace")).decode("ascii")
    yield from (user, password, pair, encoded, encoded.rstrip("="))
    yield base64.urlsafe_b64encode(pair.encode("utf-8", "replace")).decode("ascii").rstrip("=")


def _looks_like_a_token(segment: str) -> bool:
    """Whether a part of a path was made by a machine to be secret: 20 characters or more with capitals, small
    letters and digits, or 32 hexadecimal digits or more."""
    if len(segment) < _TOKEN_LENGTH:
        return False
    digits = sum(map(str.isdigit, segment))
    if digits and not segment.islower() and not segment.isupper():
        return True
    plain = segment.replace("-", "")
    return len(plain) >= _HEX_TOKEN_LENGTH and re.fullmatch(r"[0-9A-Fa-f]+", plain) is not None
