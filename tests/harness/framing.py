"""Requests on which two HTTP parsers may disagree, with the status that our server answers.

Each that is refused carries another request in what one of the parsers would take for its body or for what follows
it: whoever takes that one, at `SMUGGLED`, has been tricked.
"""

from __future__ import annotations

from typing import NamedTuple

SMUGGLED = b"/smuggled"
INNER = b"GET " + SMUGGLED + b" HTTP/1.1\r\nX-Ignore: "  # takes the first line of the next client for its header
PATH = b"/api/v1/publish"


class Framing(NamedTuple):
    """`sent`: the bytes of one connection. `status`: of the first answer; 0 where only a close is due."""

    name: str
    sent: bytes
    status: int


def post(*lines: bytes, body: bytes = INNER, target: bytes = PATH, version: bytes = b"HTTP/1.1") -> bytes:
    """A POST without a key; `Host` unless a line has it."""
    host = [] if any(line.lower().startswith(b"host") for line in lines) else [b"Host: x"]
    return b"\r\n".join([b"POST " + target + b" " + version, *host, *lines, b"", b""]) + body


LENGTH = b"Content-Length: %d" % len(INNER)
CHUNKED = b"Transfer-Encoding: chunked"
ENDED = b"0\r\n\r\n" + INNER
REFUSED = [
    Framing("two unlike lengths", post(LENGTH, b"Content-Length: 0"), 400),
    Framing("two like lengths", post(LENGTH, LENGTH), 400),
    Framing("a list of lengths", post(b"Content-Length: %d, %d" % (len(INNER), len(INNER))), 400),
    Framing("a signed length", post(b"Content-Length: +%d" % len(INNER)), 400),
    Framing("a hexadecimal length", post(b"Content-Length: 0x%x" % len(INNER)), 400),
    Framing("an empty length", post(b"Content-Length:"), 400),
    Framing("a length beside chunks", post(LENGTH, CHUNKED, body=ENDED), 400),
    Framing("chunks beside a length", post(CHUNKED, LENGTH, body=ENDED), 400),
    Framing("a coding that is not chunked", post(b"Transfer-Encoding: identity", LENGTH), 400),
    Framing("two codings", post(b"Transfer-Encoding: gzip, chunked", body=ENDED), 400),
    Framing("chunked twice", post(CHUNKED, CHUNKED, body=ENDED), 400),
    Framing("a hidden coding", post(b"Transfer-Encoding: xchunked", LENGTH), 400),
    Framing("a coding with a control character", post(b"Transfer-Encoding: \x0bchunked", LENGTH), 400),
    Framing("a blank before the colon", post(b"Transfer-Encoding : chunked", LENGTH), 400),
    Framing("a tab before the colon", post(b"Content-Length\t: %d" % len(INNER)), 400),
    Framing("a folded header", post(b"X-A: b", b" Content-Length: %d" % len(INNER)), 400),
    Framing("a folded coding", post(b"Transfer-Encoding:", b" chunked", LENGTH), 400),
    Framing("a folded first header", post(b" Host: y", LENGTH), 400),
    Framing("a header without a colon", post(b"X-A", LENGTH), 400),
    Framing("a header without a name", post(b": a", LENGTH), 400),
    Framing("a bare LF between headers", post(b"X-A: b\nTransfer-Encoding: chunked", LENGTH), 400),
    Framing("a bare CR between headers", post(b"X-A: b\rTransfer-Encoding: chunked", LENGTH), 400),
    Framing("a bare LF behind the head", post(LENGTH).replace(b"\r\n\r\n", b"\n\n"), 400),
    Framing("only bare LFs", post(LENGTH, body=b"").replace(b"\r\n", b"\n") + INNER, 400),
    Framing("NUL in a value", post(b"X-A: b\0c", LENGTH), 400),
    Framing("NUL in a name", post(b"X-\0A: b", LENGTH), 400),
    Framing("no Host", post(LENGTH).replace(b"Host: x\r\n", b""), 400),
    Framing("two Hosts", post(b"Host: x", b"Host: y", LENGTH), 400),
    Framing("a Host with a path", post(b"Host: x/y", LENGTH), 400),
    Framing("HTTP/2.0", post(LENGTH, version=b"HTTP/2.0"), 400),
    Framing("HTTP/1.9", post(LENGTH, version=b"HTTP/1.9"), 400),
    Framing("HTTP/0.9", b"GET " + PATH + b"\r\n\r\n" + INNER, 400),
    Framing("http/1.1 in lower case", post(LENGTH, version=b"http/1.1"), 400),
    Framing("two blanks in the request line", post(LENGTH, target=b" " + PATH), 400),
    Framing("a tab in the request line", post(LENGTH, target=PATH + b"\t"), 400),
    Framing("a URL with a control character", post(LENGTH, target=PATH + b"\x01"), 400),
    Framing("a URL with a fragment", post(LENGTH, target=PATH + b"#a"), 400),
    Framing("a URL that is no path", post(LENGTH, target=b"publish"), 400),
    Framing("an absolute URL without a host", post(LENGTH, target=b"http:///x"), 400),
    Framing("CONNECT", b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n" + INNER, 400),
    Framing("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + INNER, 400),
    Framing("chunks in HTTP/1.0", post(CHUNKED, body=ENDED, version=b"HTTP/1.0"), 400),
    Framing("an unknown expectation", post(b"Expect: 200-ok", LENGTH), 417),
]
# Framed well, without a key: the body must be read and dropped, or the connection closed.
UNAUTHORIZED = [
    Framing("an upgrade to h2c", post(b"Connection: Upgrade", b"Upgrade: h2c", LENGTH), 401),
    Framing("an upgrade to websocket", post(b"Connection: Upgrade", b"Upgrade: websocket", LENGTH), 401),
    Framing("an upgrade of chunks", post(b"Connection: Upgrade", b"Upgrade: h2c", CHUNKED, body=ENDED[:5]), 401),
    Framing("a body that is answered early", post(LENGTH), 401),
    Framing("half of a body", post(b"Content-Length: 5000"), 401),
    Framing("half of a large body", post(b"Content-Length: 500000"), 401),
    Framing("a body that is never sent", post(b"Expect: 100-continue", LENGTH, body=b""), 401),
    Framing("a body that was expected", post(b"Expect: 100-continue", LENGTH), 401),
    Framing("a body for a route of Litestar", post(LENGTH, target=b"/api/v1/retry"), 401),
    Framing("a body where there is nothing", post(LENGTH, target=b"/nothing"), 404),
    Framing("a body that is too large", post(b"Content-Length: 99999999999999999999"), 401),
    Framing("an absolute URL", post(LENGTH, target=b"http://x" + PATH), 401),
]
