"""What curl and urllib send of a URL is what we send of it: byte for byte what was saved."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import string
import threading
import urllib.request
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from outpost.adapters.egress import guard as egress
from outpost.adapters.http import endpoint

CURL = shutil.which("curl")
LIMIT_S = 60
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
GUARD = egress.Guard(["127.0.0.0/8"])

pytestmark = pytest.mark.skipif(CURL is None, reason="curl is not installed")

characters = st.sampled_from([c for c in string.printable if c not in string.whitespace + "#"] + [*"éß日😀"])
pieces = st.one_of(
    st.text(characters, max_size=6),
    st.sampled_from(
        ["/", "//", "/./", "/../", "..", "?", "??", "&", "=", "%2F", "%2f", "%", "%zz", "%7e", "+", ";a=b"]
    ),
)
targets = st.tuples(st.sampled_from(["", "/", "?", "/a"]), st.lists(pieces, max_size=8)).map(
    lambda parts: parts[0] + ("" if not parts[1] or parts[0] else "/") + "".join(parts[1])
)


class Receiver:
    """Keeps the request line of each connection."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                peer.settimeout(LIMIT_S)
                asked = b""
                while b"\r\n\r\n" not in asked and (piece := peer.recv(65_536)):
                    asked += piece
                self.lines.append(asked.partition(b"\r\n")[0])
                peer.sendall(OK)

    def sent_by_curl(self, urls: list[str]) -> list[bytes]:
        """The request lines."""
        self.lines.clear()
        asyncio.run(self._ask(urls))
        return list(self.lines)

    async def _ask(self, urls: list[str]) -> None:
        curl = await asyncio.create_subprocess_exec(
            *(
                str(CURL),
                "-q",
                "-s",
                "-g",
                "--path-as-is",
                "--noproxy",
                "*",
                "-d",
                "",
                "--max-time",
                str(LIMIT_S),
                *urls,
            )
        )
        assert 0 == await asyncio.wait_for(curl.wait(), LIMIT_S)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


def ours(url: str) -> bytes:
    """The request line, of a URL that may be saved."""
    assert endpoint.problem(url) is None, url
    return endpoint.judge(url, GUARD).head.partition(b"\r\n")[0]


def compared(line: bytes) -> bytes:
    """curl sends characters beyond ASCII as they are, or with escapes in small letters."""
    line = re.sub(rb"[^\x00-\x7f]", lambda found: b"%%%02X" % found[0][0], line)
    return re.sub(rb"%[89a-fA-F][0-9a-fA-F]", lambda found: found[0].upper(), line)


@pytest.mark.case(9)
@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(targets, min_size=60, max_size=60), st.sampled_from(["http", "HTTP", "Http"]))
@example(
    ["", "/", "?", "/?", "?a=b", "/a/../b/./c", "//", "/%7Euser/%2e%2E/", "/a?b?c", "/é", "/a%", '/{}|\\^`<>"'],
    "http",
)
def test_what_is_behind_the_host_goes_out_as_curl_and_urllib_send_it(
    receiver: Receiver, paths: list[str], scheme: str
) -> None:
    urls = [f"{scheme}://127.0.0.1:{receiver.port}{path}" for path in paths]
    pairs = zip(receiver.sent_by_curl(urls), map(ours, urls), strict=True)
    assert [] == [(theirs, mine) for theirs, mine in pairs if compared(theirs) != compared(mine)]
    for url, path in zip(urls, paths, strict=True):
        if path.startswith("/") and path.isascii():
            selector = urllib.request.Request(url).selector
            assert f"POST {selector} HTTP/1.1" == f"POST {path} HTTP/1.1" == ours(url).decode()


@pytest.mark.parametrize(
    "url", ["http://h/a b", "http://h/a\tb", "http://h/\x7f", "http://h/a\u2028b", "http://h/\ud800"]
)
def test_what_no_request_line_has_is_refused(url: str) -> None:
    assert endpoint.problem(url) is not None


def test_a_stored_url_with_a_fragment_goes_on_as_before() -> None:
    assert b"POST /a?b HTTP/1.1" == endpoint.judge("http://127.0.0.1/a?b#c", GUARD).head.partition(b"\r\n")[0]
