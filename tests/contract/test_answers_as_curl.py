"""What curl makes of an answer, we make of it: the same bytes are given to both."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from outpost.adapters.http import client, reading

CURL = shutil.which("curl")
LIMIT_S = 60
CUTS = 60  # places at which an answer is cut in two
CAP = 4_000
LINE = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 2\r\n"

pytestmark = pytest.mark.skipif(CURL is None, reason="curl is not installed")

names = st.one_of(
    st.sampled_from(
        [b"X", b"X Powered By", b"Server", b"Set-Cookie", b"", b"Gr\xc3\xb6\xc3\x9fe", b"a\tb", b"{}"]
    ),
    st.binary(max_size=8).map(lambda name: b"X" + name),
)
values = st.one_of(st.binary(max_size=20), st.sampled_from([b"", b"shop", b"caf\xe9", b'"a, b"', b"a: b"]))


def _one_line(text: bytes) -> bytes:
    return text.replace(b"\n", b"").replace(b"\r", b"")


lines = st.one_of(
    # One that begins with a blank goes on with the line before it, which may be one that frames: see below.
    st.tuples(names, st.sampled_from([b":", b": ", b" : ", b"", b":\t"]), values)
    .map(b"".join)
    .map(_one_line)
    .filter(lambda line: line[:1] not in (b" ", b"\t")),
    st.sampled_from([b"Content-Length: 2", b"content-length:2", b"Content-Length: 2, 2", b"Content-Length:  2 "]),
    st.sampled_from([b"Connection: close", b"Connection: keep-alive", b"Keep-Alive: timeout=5", b"Upgrade: h2c"]),
    # Only behind a line that frames nothing: curl takes a line that goes on for one of its own.
    st.tuples(st.sampled_from([b"X: y\r\n ", b"X: y\n\t"]), values.map(_one_line)).map(b"".join),
)
starts = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200",
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 500 \xe9",
        b"HTTP/1.1 404 Not Found",
        b"HTTP/1.1 299 ",
    ]
)
interims = st.lists(
    st.sampled_from(
        [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nodd line\r\n\r\n"]
    ),
    max_size=2,
).map(b"".join)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """A head of any lines and a body of two bytes, with a length, in chunks, or until the connection ends."""
    end = draw(st.sampled_from([b"\r\n", b"\r\n", b"\n"]))
    framing = draw(
        st.sampled_from(
            [
                [],
                [b"Content-Length: 2"],
                [b"Transfer-Encoding: chunked"],
                [b"Content-Length: 7", b"Transfer-Encoding: chunked"],
            ]
        )
    )
    body = b"2\r\nok\r\n0\r\n\r\n" if b"Transfer-Encoding: chunked" in framing else b"ok"
    head = [draw(starts), *draw(st.permutations([*draw(st.lists(lines, max_size=5)), *framing])), b""]
    return draw(interims) + b"".join(line + end for line in head) + body


class Curl:
    """A server that gives each connection the answer that its path names, and curl, which asks for all of them."""

    def __init__(self) -> None:
        self._said: list[bytes] = []
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
                if asked:
                    peer.sendall(self._said[int(asked.split(b" ")[1][1:])])
                    peer.shutdown(socket.SHUT_WR)
                    while peer.recv(65_536):
                        pass

    def makes_of(self, said: list[bytes]) -> list[tuple[int, int, bytes]]:
        """Of each answer curl's exit code, the status and the body."""
        return asyncio.run(self._ask(said))

    async def _ask(self, said: list[bytes]) -> list[tuple[int, int, bytes]]:
        self._said = said
        with tempfile.TemporaryDirectory() as folder:
            curl = await asyncio.create_subprocess_exec(
                *(str(CURL), "-q", "-s", "--noproxy", "*", "--max-time", str(LIMIT_S), "--output", f"{folder}/#1"),
                *(
                    "--write-out",
                    "%{exitcode} %{http_code}\n",
                    f"http://127.0.0.1:{self.port}/[0-{len(said) - 1}]",
                ),
                stdout=asyncio.subprocess.PIPE,
            )
            told, _ = await asyncio.wait_for(curl.communicate(), LIMIT_S)
            found = []
            for number, line in enumerate(told.decode().splitlines()):
                exit_code, status = line.split()
                file = Path(folder, str(number))
                found.append((int(exit_code), int(status), file.read_bytes() if file.exists() else b""))
            return found


@pytest.fixture(scope="module")
def curl() -> Iterator[Curl]:
    one = Curl()
    yield one
    one.close()


def ours(*pieces: bytes) -> client.Answer | client.Unanswered:
    """Of bytes that come in these pieces, behind which the connection ends."""
    reader = reading.Reader(CAP)
    for piece in pieces:
        if (outcome := reader.feed(piece)) is not None:
            return outcome
    return reader.end(None)


@pytest.mark.case(2, 4, 7)
@settings(
    max_examples=5,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink asks curl too often
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(answers(), min_size=60, max_size=60))
@example(
    [
        LINE + LENGTH * 2 + b"\r\nok",
        LINE + b"Content-Length: 2, 2\r\n\r\nok",
        LINE + b"X Powered By: shop\r\n" + LENGTH + b"\r\nok",
        LINE + b"garbage\r\n" + LENGTH + b"\r\nok",
        LINE + b"Transfer-Encoding: chunked\r\n" + LENGTH + b"\r\n2\r\nok\r\n0\r\n\r\n",
        LINE + b"\r\nok",
        b"HTTP/1.0 200 OK\r\n\r\nok",
        b"HTTP/1.1 200\r\n" + LENGTH + b"\r\nok",
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + LINE + LENGTH + b"\r\nok",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
        LINE + b"X: " + b"a" * 60_000 + b"\r\n" + LENGTH + b"\r\nok",
    ]
)
def test_what_curl_understands_is_understood_alike(curl: Curl, said: list[bytes]) -> None:
    for answer, (exit_code, status, body) in zip(said, curl.makes_of(said), strict=True):
        outcome = ours(answer)
        assert isinstance(outcome, client.Answer), (answer, outcome)  # those too that curl refuses
        if exit_code == 0:
            assert (status, body, "") == (outcome.status, outcome.body, outcome.fault), answer
        for cut in range(1, len(answer), max(1, len(answer) // CUTS)):
            assert outcome == ours(answer[:cut], answer[cut:]), (answer, cut)
