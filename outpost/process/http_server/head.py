"""Reads the head of one HTTP/1.x request, strictly: what two parsers could read in two ways is refused.

Request smuggling lives on such heads: a second length, a length beside chunks, a blank before a colon, a folded
line, a bare LF, an unknown version. Everything here is linear in the head, whose size the caller has limited.
Sources: RFC 9112 sections 2 to 6 and RFC 9110 sections 5 and 7.2.
"""

from __future__ import annotations

import string
from typing import NamedTuple

from outpost.process.http_server import answers

Headers = list[tuple[bytes, bytes]]

MAX_LENGTH_DIGITS = 18  # of a Content-Length; a longer number is larger than any limit
HUGE = 10**MAX_LENGTH_DIGITS

_TOKEN = (string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~").encode()
_VISIBLE = bytes(range(0x21, 0x7F))
_VALUE = b"\t " + _VISIBLE + bytes(range(0x80, 0x100))
_HOST = (string.ascii_letters + string.digits + "-._~%!$&'()*+,;=:[]").encode()
_DIGITS = string.digits.encode()
_VERSIONS = {b"HTTP/1.1": True, b"HTTP/1.0": False}
_MAX_METHOD_BYTES = 32
MAX_BYTES_BESIDE_URL = _MAX_METHOD_BYTES + len(b"  HTTP/1.1")  # in a request line


class Head(NamedTuple):
    """A request as its head describes it. Header names are in lower case, values without blanks around them."""

    method: bytes
    path: bytes  # as sent, up to the question mark
    query: bytes
    http_1_1: bool
    headers: Headers
    length: int  # of the body in bytes; 0 without one, and where it is chunked
    chunked: bool
    keep_alive: bool
    expects_continue: bool
    coded: bool  # the body has a content coding


def parse(lines: bytes, max_url_bytes: int, max_headers: int) -> Head:
    """The head `lines`, which ends before its empty line. Raises answers.Refused with 400, 414, 417 or 431."""
    request_line, *header_lines = lines.split(b"\r\n")
    method, path, query, http_1_1 = _request_line(request_line, max_url_bytes)
    if len(header_lines) > max_headers:
        raise answers.Refused(431, "too many headers")
    headers = [_header(line) for line in header_lines]
    hosts: list[bytes] = []
    lengths: list[bytes] = []
    codings: list[bytes] = []
    expected = b""
    tokens: set[bytes] = set()
    coded = False
    for name, value in headers:
        if name == b"host":
            hosts.append(value)
        elif name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
        elif name == b"connection":
            tokens.update(token.strip(b" \t") for token in value.lower().split(b","))
        elif name == b"content-encoding":
            coded = True
        elif name == b"expect":
            expected += value.lower()
    if len(hosts) > 1 or (http_1_1 and not hosts) or (hosts and hosts[0].translate(None, _HOST)):
        raise answers.Refused(400, "one valid Host header is required")
    if expected not in (b"", b"100-continue"):
        raise answers.Refused(417, "only 100-continue can be expected")
    length, chunked = _framing(lengths, codings, http_1_1)
    return Head(
        method,
        path,
        query,
        http_1_1,
        headers,
        length,
        chunked,
        http_1_1 and b"close" not in tokens,
        bool(expected) and http_1_1,
        coded,
    )


def _request_line(line: bytes, max_url_bytes: int) -> tuple[bytes, bytes, bytes, bool]:
    parts = line.split(b" ")
    if len(parts) != 3:
        raise answers.Refused(400, "malformed request line")
    method, target, version = parts
    if len(target) > max_url_bytes:
        raise answers.Refused(414, f"the URL must be at most {max_url_bytes} bytes")
    if not method or method.translate(None, _TOKEN) or len(method) > _MAX_METHOD_BYTES:
        raise answers.Refused(400, "malformed request line")
    if version not in _VERSIONS:
        raise answers.Refused(400, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if target.translate(None, _VISIBLE) or b"#" in target:
        raise answers.Refused(400, "malformed URL")
    path, _, query = _origin_form(method, target).partition(b"?")
    return method, path, query, _VERSIONS[version]


def _origin_form(method: bytes, target: bytes) -> bytes:
    """The path and query of a target. Servers must understand the absolute form (RFC 9112 section 3.2.2)."""
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target
    scheme, colon, rest = target.partition(b"://")
    authority, slash, path = rest.partition(b"/")
    if not colon or scheme.lower() not in (b"http", b"https") or not authority or authority.translate(None, _HOST):
        raise answers.Refused(400, "malformed URL")
    return slash + path if slash else b"/"


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    # A blank before the colon and a folded line, which begins with one, are no tokens.
    if not colon or not name or name.translate(None, _TOKEN) or value.translate(None, _VALUE):
        raise answers.Refused(400, "malformed header")
    return name.lower(), value.strip(b" \t")


def _framing(lengths: list[bytes], codings: list[bytes], http_1_1: bool) -> tuple[int, bool]:
    """How long the body is, and whether it is chunked."""
    if codings:
        if lengths or not http_1_1 or len(codings) > 1 or codings[0].lower() != b"chunked":
            raise answers.Refused(400, "malformed framing of the body")
        return 0, True
    if not lengths:
        return 0, False
    if len(lengths) > 1 or not lengths[0] or lengths[0].translate(None, _DIGITS):
        raise answers.Refused(400, "malformed framing of the body")
    return (int(lengths[0]) if len(lengths[0]) <= MAX_LENGTH_DIGITS else HUGE), False
